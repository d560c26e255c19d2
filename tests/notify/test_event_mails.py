"""Which event causes which mail, and to whom."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bluesminds.common.crypto import Vault, new_master_key
from bluesminds.common.log import Log
from bluesminds.notify.event_mails import EVENT_MAILS, EventMails
from bluesminds.notify.events import EVENT_KINDS, EventDispatcher, EventKind, new_event
from bluesminds.notify.mail import Mail, build_message
from bluesminds.notify.mail_groups import OptOutLinks
from bluesminds.notify.mail_samples import OPTIONAL, SAMPLES
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.notify.outbox import MailOutbox
from storage import Store
from storage.events import insert_event
from storage.mail_preferences import MailPreferencesRow, put_mail_preferences
from storage.store import open_store
from storage.users import insert_user, update_user
from tests.databases import create_sqlite
from tests.storage.samples import NOON, user

BASE = "https://gateway.example"
LINKS = OptOutLinks.from_pepper(BASE, b"pepper")
ADA = replace(user(1, "ada@example.com"), email_verified_at=NOON)
BOB = replace(user(2, "bob@example.com"), email_verified_at=NOON, role="admin")
EVE = replace(user(3, "eve@example.com"), role="admin")  # not confirmed
ENDS = "2027-01-16T08:00:00.000Z"
KEY = {"name": "laptop", "prefix": "bm_Ab12", "last4": "wxyz", "expires_at": ENDS}
SIGN_IN = {"address": "203.0.113.7", "user_agent": "curl"}
LIMIT = {"key_id": None, "limit_name": "usd_per_month", "period": "2027-01", "share": 80}
PAYMENT = {"payment": "p", "provider": "stripe", "title": "starter", "amount": "29.00", "currency": "usd"}
WEEK = {
    "begins": "2027-01-04",
    "ends": "2027-01-10",
    "requests": 1234,
    "failed": 5,
    "tokens": 99,
    "cost_usd": "12.34",
    "cost_before_usd": "0",
    "models": [{"model": "gpt-5", "cost_usd": "8"}],
}
ALERT = {"rule": "errors", "text": "12 % of requests failed", "since": None, "mail": True}


class Noon:
    def now_ms(self) -> int:
        return NOON


class Sent:
    def __init__(self) -> None:
        self.mails: list[Mail] = []

    async def send(self, mail_id: str, mail: Mail) -> None:
        self.mails.append(mail)


class Site:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.sent = Sent()
        self.lines: list[bytes] = []
        log = Log(Noon(), json=True, write=self.lines.append)
        vault = Vault([new_master_key()])
        self.outbox = MailOutbox(store, vault=vault, mailer=self.sent, clock=Noon(), log=log)
        self.events = EventDispatcher(store, clock=Noon(), log=log)
        mails = EventMails(self.outbox, MailTemplates(BASE), LINKS, zone="Europe/Berlin")
        self.events.subscribe(mails.consume, dispatched=self.outbox.wake)

    async def happens(self, kind: EventKind, account: str | None, data: dict[str, Any]) -> list[Mail]:
        """The mails that an event causes."""
        self.sent.mails.clear()
        await self.store.write(insert_event, new_event(NOON, kind, account, data))
        await self.events.dispatch()
        await self.outbox.flush(60.0)
        assert self.lines == []
        return list(self.sent.mails)


@pytest.fixture
async def site(home: Path) -> AsyncIterator[Site]:
    create_sqlite(home / "gateway.db")
    async with open_store(f"sqlite://{home}/gateway.db") as store:
        for one in (ADA, BOB, EVE):
            await store.write(insert_user, one)
        yield Site(store)


@pytest.mark.parametrize(
    ("kind", "data", "template", "words"),
    [
        ("user.created", {"email": "ada@example.com"}, "welcome", ("/v1",)),
        ("key.created", KEY, "key_created", ("laptop", "bm_Ab12...wxyz", "13:00 CET")),
        ("key.expiring", KEY, "key_expiring", ("2027-01-16 09:00 CET",)),
        (
            "sign_in.new",
            {"address": "203.0.113.7", "user_agent": "curl"},
            "new_sign_in",
            ("203.0.113.7", "curl"),
        ),
        (
            "budget.alert",
            {**LIMIT, "used": "80", "limit": "100"},
            "budget_alert",
            ("80 %", "$80.00", "$100.00"),
        ),
        (
            "usage.threshold",
            {**LIMIT, "key_id": "k", "limit_name": "tokens_per_day", "used": 8000, "limit": 10000},
            "budget_alert",
            ("An API key of your account", "8,000", "10,000"),
        ),
        ("usage.weekly", WEEK, "weekly_summary", ("1,234 requests", "$12.34", "gpt-5: $8.00", "2027-01-10")),
        ("credit.low", {"balance_usd": "1.5", "threshold_usd": "2"}, "credit_low", ("$1.50",)),
        ("payment.succeeded", PAYMENT, "payment_succeeded", ("29.00 USD", "starter")),
        ("payment.failed", {"plan": "starter", "reason": "unpaid"}, "payment_failed", ("starter",)),
        ("subscription.past_due", {"plan": "starter", "reminder": 1}, "payment_failed", ("starter",)),
        (
            "trial.started",
            {"ends_at": "2027-01-16T08:00:00Z", "credit_usd": "10"},
            "trial_started",
            ("$10.00",),
        ),
        ("trial.ending", {"ends_at": "2027-01-16T08:00:00Z"}, "trial_ending", ("2027-01-16 09:00 CET",)),
        ("trial.ended", {}, "trial_ended", ()),
        (
            "invoice.created",
            {"invoice": "i1", "number": "INV-000001", "total_cents": 2900, "currency": "usd"},
            "invoice",
            ("Invoice INV-000001", "29.00 USD"),
        ),
        (
            "invoice.created",
            {
                "invoice": "i2",
                "kind": "credit_note",
                "number": "INV-000002",
                "total_cents": -2900,
                "currency": "usd",
            },
            "invoice",
            ("Credit note INV-000002", "-29.00 USD"),
        ),
        ("webhook.disabled", {"url": "https://h.example", "reason": "410"}, "webhook_disabled", ("410",)),
    ],
)
async def test_event_of_a_user_is_mailed_to_the_user(
    site: Site, kind: EventKind, data: dict[str, Any], template: str, words: tuple[str, ...]
) -> None:
    (mail,) = await site.happens(kind, ADA.id, data)
    assert (mail.kind, mail.to) == (template, "ada@example.com")
    for word in words:
        assert word in f"{mail.subject} {' '.join(mail.text.split())}", mail.text
    group = EVENT_MAILS[kind].group
    assert mail.opt_out == ("" if group is None else LINKS.url(ADA.id, group))


@pytest.mark.parametrize(
    ("kind", "data", "template"),
    [
        ("server.down", {"server": "one", "since": "x", "reason": "refused"}, "server_down"),
        ("server.recovered", {"server": "one", "since": "x", "seconds": 7}, "server_recovered"),
        ("alert.firing", ALERT, "alert_firing"),
        ("alert.resolved", ALERT, "alert_resolved"),
    ],
)
async def test_event_of_operators_is_mailed_to_confirmed_administrators(
    site: Site, kind: EventKind, data: dict[str, Any], template: str
) -> None:
    assert [(mail.kind, mail.to) for mail in await site.happens(kind, None, data)] == [(template, BOB.email)]


async def test_event_without_a_recipient_causes_no_mail(site: Site) -> None:
    assert await site.happens("alert.firing", None, ALERT | {"mail": False}) == []
    assert await site.happens("payment.failed", ADA.id, {"reason": "mismatch", **PAYMENT}) == []
    assert await site.happens("subscription.past_due", ADA.id, {"plan": "starter", "reminder": 0}) == []
    assert await site.happens("trial.ended", EVE.id, {}) == [], "her address is not confirmed"
    await site.store.write(update_user, replace(ADA, disabled_at=NOON))
    assert await site.happens("trial.ended", ADA.id, {}) == []


async def test_mail_that_was_turned_off_is_not_sent(site: Site) -> None:
    row = MailPreferencesRow(ADA.id, ("keys",), "Asia/Tokyo", NOON)
    await site.store.write(put_mail_preferences, row)
    assert await site.happens("key.created", ADA.id, KEY) == []
    (mail,) = await site.happens("sign_in.new", ADA.id, SIGN_IN)
    assert "21:00 JST" in mail.text


async def test_optional_mail_has_the_headers_of_one_click_opt_out(site: Site) -> None:
    (mail,) = await site.happens("key.created", ADA.id, KEY)
    content = build_message("id", mail, "gateway@example.com", NOON).as_bytes()
    assert f"List-Unsubscribe: <{LINKS.url(ADA.id, 'keys')}>\r\n".encode() in content
    assert b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in content
    assert mail.opt_out in mail.text and mail.opt_out.replace("&", "&amp;") in mail.html


def test_mails_with_a_group_are_previewed_with_a_link_that_stops_them() -> None:
    assert {mail.template for mail in EVENT_MAILS.values() if mail.group is not None} == OPTIONAL


def test_mails_of_events_have_templates_and_kinds_that_exist() -> None:
    assert set(EVENT_MAILS) <= set(EVENT_KINDS)
    assert {mail.template for mail in EVENT_MAILS.values()} <= set(SAMPLES)
