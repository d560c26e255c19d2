"""Events that follow from usage, on both engines."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from bluesminds.accounts import notices
from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry, Ledger
from bluesminds.accounts.limits import AccountLimits
from bluesminds.accounts.notices import NoticePolicy, UsageNotices
from bluesminds.common.clock import Calendar, format_time
from bluesminds.common.money import NANO
from bluesminds.common.values import InUse, LimitSet
from bluesminds.gateway import server_notices
from storage import Store
from storage.event_marks import delete_old_marks
from storage.events import select_new_events
from storage.keys import insert_key
from storage.usage import DAY, UsageRow, insert_batch
from storage.users import insert_user
from tests import gateways
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, store, url
from tests.storage.samples import NOON, key, usage, user

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "store", "url"]

ADA = replace(user(1), tier="pro")
KEY = key(ADA)
TIERS = {"pro": LimitSet(usd_per_month=100 * NANO, tokens_per_day=1000)}


class Clock:
    now = NOON

    def now_ms(self) -> int:
        return self.now


class Account:
    """Ada's account: a tier with limits, and a key with a budget of 10 USD a day."""

    def __init__(self, store: Store, policy: NoticePolicy) -> None:
        self.store, self.clock = store, Clock()
        calendar = Calendar(UTC)
        limits = AccountLimits(store, clock=self.clock, calendar=calendar, tiers=TIERS, changed=lambda: None)
        self.notices = UsageNotices(
            store,
            limits,
            clock=self.clock,
            calendar=calendar,
            policy=policy,
            usage_now=lambda _: InUse(),
        )
        self.serial = 0
        self.seen: set[str] = set()

    async def use(self, usd: float, tokens: int = 0, **fields: Any) -> None:
        """A settled request."""
        self.serial += 1
        row = replace(
            usage(self.serial, at=self.clock.now),
            user_id=ADA.id,
            key_id=KEY.id,
            outcome="ok",
            cost_nano=round(usd * NANO),
            input_tokens=tokens,
            output_tokens=0,
            day=Calendar(UTC).date(self.clock.now).day,
            month=Calendar(UTC).date(self.clock.now).month,
        )
        row = replace(row, **fields)
        await self.store.write(insert_batch, [row])
        assert self.notices.note(row) is False

    async def new_events(self) -> Sequence[tuple[str, dict[str, Any]]]:
        await self.notices.run_once()
        found = [one for one in await self.store.read(select_new_events, 100) if one.id not in self.seen]
        self.seen |= {one.id for one in found}
        assert all(one.account_id == ADA.id for one in found)
        return [(one.kind, msgspec.json.decode(one.data)) for one in found]


async def account(store: Store, policy: NoticePolicy | None = None, **fields: Any) -> Account:
    await store.write(insert_user, ADA)
    await store.write(insert_key, replace(KEY, **fields))
    return Account(store, policy or NoticePolicy())


async def test_budget_is_reported_once_for_each_share_in_a_period(store: Store) -> None:
    ada = await account(store, limits='{"usd_per_day":10000000000}')
    await ada.use(7.9)
    assert await ada.new_events() == []
    await ada.use(0.1)
    assert await ada.new_events() == [
        (
            "budget.alert",
            {
                "key_id": KEY.id,
                "limit_name": "usd_per_day",
                "period": "2027-01-15",
                "share": 80,
                "used": "8",
                "limit": "10",
            },
        )
    ]
    await ada.use(0.1)
    assert await ada.new_events() == []
    await ada.use(2)
    assert [data["share"] for _, data in await ada.new_events()] == [100]
    ada.clock.now += DAY
    await ada.use(9)
    assert [data["share"] for _, data in await ada.new_events()] == [80]


async def test_jump_over_several_shares_is_one_event(store: Store) -> None:
    ada = await account(store)
    await ada.use(100)
    assert [(kind, data["share"]) for kind, data in await ada.new_events()] == [("budget.alert", 100)]
    await ada.use(1)
    assert await ada.new_events() == []


async def test_limit_of_tokens_is_reported_as_usage(store: Store) -> None:
    ada = await account(store, NoticePolicy(shares=(50,)))
    await ada.use(0, tokens=600)
    ((kind, data),) = await ada.new_events()
    assert (kind, data["limit_name"], data["used"], data["limit"]) == (
        "usage.threshold",
        "tokens_per_day",
        600,
        1000,
    )


async def test_low_credit_is_reported_once_after_each_top_up(store: Store) -> None:
    ada = await account(store)
    ledger = Ledger(store, clock=ada.clock)
    await ledger.post(OPERATOR, ADA.id, CreditEntry("topup", 6 * NANO))
    await ada.use(0)
    assert await ada.new_events() == []
    await ada.use(0.5, charged_nano=2 * NANO)
    for expected in (1, 0):
        await ada.use(0)
        events = await ada.new_events()
        assert [kind for kind, _ in events] == ["credit.low"] * expected
    await ledger.post(OPERATOR, ADA.id, CreditEntry("topup", NANO // 2))
    await ada.use(0)
    assert [data["balance_usd"] for _, data in await ada.new_events()] == ["4.5"]


async def test_failed_requests_of_an_interval_are_one_event(store: Store) -> None:
    ada = await account(store)
    for status in (500, 502, 503):
        await ada.use(0, status=status, outcome="upstream_error")
    await ada.use(0, outcome="client_gone")
    ((kind, data),) = await ada.new_events()
    assert (kind, data["count"], data["status"]) == ("request.failed", 3, 503)
    assert await ada.new_events() == []


async def test_key_that_expires_soon_is_reported_a_week_and_a_day_before(store: Store) -> None:
    ends = NOON + 10 * DAY
    ada = await account(store, expires_at=ends)
    assert await ada.new_events() == []
    for later in (4 * DAY, 5 * DAY):
        ada.clock.now += later
        ((kind, data),) = await ada.new_events()
        assert (kind, data["expires_at"]) == ("key.expiring", format_time(ends))
        assert await ada.new_events() == []


async def test_key_that_expires_tomorrow_at_the_first_look_is_reported_once(store: Store) -> None:
    ada = await account(store, expires_at=NOON + 10 * DAY)
    ada.clock.now += 9 * DAY
    assert [kind for kind, _ in await ada.new_events()] == ["key.expiring"]
    assert await ada.new_events() == []


async def test_key_with_a_short_life_is_not_reported(store: Store) -> None:
    ada = await account(store, expires_at=NOON + DAY)
    assert await ada.new_events() == []


async def test_marks_are_deleted_by_age(store: Store) -> None:
    ada = await account(store)
    await ada.use(100)
    assert len(await ada.new_events()) == 1
    assert await store.write(delete_old_marks, NOON, 10) == 0
    assert await store.write(delete_old_marks, NOON + 1, 10) == 2


async def test_rows_without_an_account_and_of_a_deleted_one_are_ignored(store: Store) -> None:
    ada = await account(store)
    row: UsageRow = usage(1)
    for owner in ("", user(9).id):
        ada.notices.note(replace(row, user_id=owner, outcome="ok"))
    assert await ada.new_events() == []


@pytest.mark.parametrize("shares", [(), (90,)])
async def test_shares_of_the_settings_are_used(store: Store, shares: tuple[int, ...]) -> None:
    ada = await account(store, NoticePolicy(shares=shares))
    await ada.use(95)
    assert [data["share"] for _, data in await ada.new_events()] == list(shares)


async def test_gateway_reports_failed_requests_and_servers(
    nursery: trio.Nursery, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "INTERVAL", 0.01)
    monkeypatch.setattr(server_notices, "INTERVAL", 0.01)
    servers = [gateways.entry("one", "http://127.0.0.1:9/v1")]
    sections = {"notices": {"server_down": 0.001}}
    gateway = await gateways.start(nursery, home, servers=servers, **sections)
    assert (await gateway.chat()).status_code >= 500

    def kinds() -> set[str]:
        with gateway.reading() as database:
            return {row[0] for row in database.execute("SELECT kind FROM events")}

    await gateways.eventually(lambda: kinds() >= {"request.failed", "server.down"})
