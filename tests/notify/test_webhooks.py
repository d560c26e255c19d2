"""Webhooks on both engines, with a real receiver and the public library for their signatures."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from standardwebhooks import Webhook, WebhookVerificationError

from bluesminds.accounts.audit import OPERATOR, Actor
from bluesminds.accounts.webhooks import WebhookChanges, WebhookPolicy, Webhooks
from bluesminds.common.clock import SystemClock, format_time
from bluesminds.common.crypto import Vault, new_master_key
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.log import Log
from bluesminds.common.networks import Networks
from bluesminds.http.client.pool import AddressPolicy, Pool
from bluesminds.notify import webhooks as module
from bluesminds.notify.events import EventDispatcher, new_event
from bluesminds.notify.webhook_format import BadSignature, WebhookTarget, sign, verify, wants
from bluesminds.notify.webhooks import PAUSES, WebhookQueue, WebhookSender
from storage import Store
from storage.audit import AuditQuery, select_audit
from storage.events import insert_event, select_new_events
from storage.users import delete_user, insert_user, update_user
from storage.webhook_deliveries import DeliveryRow, delete_old_deliveries
from storage.webhooks import OPERATORS, WebhookRow
from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, store, url
from tests.storage.samples import user

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "store", "url"]

ADA, BOB = user(1), user(2)
ME = Actor(name=ADA.id, address="192.0.2.1")
LATEST = "ffffffff-ffff-ffff-ffff-ffffffffffff"
LOOPBACK = AddressPolicy(Networks.read(("127.0.0.0/8",)))


@dataclass
class Receiver:
    """Answers with a status for each path; 200 without one."""

    port: int = 0
    statuses: dict[bytes, bytes] = field(default_factory=dict)
    headers: Sequence[bytes] = ()
    body: bytes = b"thanks"
    got: list[Received] = field(default_factory=list)
    stalled: set[bytes] = field(default_factory=set)
    waiting: trio.Event = field(default_factory=trio.Event)

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            self.got.append(received)
            path = received.line.split(b" ")[1]
            if path in self.stalled:
                self.waiting.set()
                await trio.sleep_forever()
            status = self.statuses.get(path, b"200 OK")
            await peer.answer(self.body, *self.headers, status=status)


class Clock:
    """The public library compares timestamps with the real time."""

    def __init__(self) -> None:
        self.now = SystemClock().now_ms()

    def now_ms(self) -> int:
        return self.now


class Site:
    """All parts of webhooks on one store, with a clock that the test sets."""

    def __init__(self, store: Store, pool: Pool, receiver: Receiver) -> None:
        self.store, self.pool, self.receiver = store, pool, receiver
        self.clock = Clock()
        self.lines: list[bytes] = []
        self.vault = Vault([new_master_key()])
        self.sender = self.new_sender()
        self.webhooks = Webhooks(
            store,
            vault=self.vault,
            clock=self.clock,
            policy=WebhookPolicy(allow_http=True, addresses=LOOPBACK),
            waiting=lambda: self.sender.notify(),
        )
        self.dispatcher = EventDispatcher(store, clock=self.clock, log=self.log)
        self.dispatcher.subscribe(WebhookQueue(self.log).consume)

    @property
    def log(self) -> Log:
        return Log(self.clock, write=self.lines.append)

    def new_sender(self) -> WebhookSender:
        return WebhookSender(
            self.store,
            self.pool,
            vault=self.vault,
            clock=self.clock,
            log=self.log,
            allow_http=True,
            random=lambda: 0.0,
        )

    async def add(
        self, path: str = "/hook", events: Sequence[str] = ("*",), owner: str = ADA.id
    ) -> tuple[WebhookRow, str]:
        return await self.webhooks.create(
            ME, owner, url=self.receiver.url(path), events=tuple(events), description=""
        )

    async def happen(self, kind: Any = "key.created", account: str | None = ADA.id, **data: object) -> str:
        """An event, dispatched; its id."""
        event = new_event(self.clock.now, kind, account, data)
        await self.store.write(insert_event, event)
        await self.dispatcher.dispatch()
        return event.id

    async def log_of(self, webhook: WebhookRow) -> Sequence[DeliveryRow]:
        return await self.webhooks.deliveries(webhook.owner, webhook.id, before=LATEST, limit=50)

    async def new_events(self) -> list[str]:
        return [event.kind for event in await self.store.read(select_new_events, 100)]


@pytest.fixture
async def site(store: Store, nursery: trio.Nursery) -> AsyncIterator[Site]:
    await store.write(insert_user, ADA)
    await store.write(insert_user, BOB)
    receiver = Receiver()
    upstream = await nursery.start(raw_upstream.serve, receiver.play)
    receiver.port = upstream.port
    pool = Pool(policy=LOOPBACK)
    await nursery.start(pool.run)
    yield Site(store, pool, receiver)


def headers_of(received: Received) -> dict[str, str]:
    names = (b"webhook-id", b"webhook-timestamp", b"webhook-signature")
    return {name.decode(): received.values(name)[0].decode() for name in names}


def checked(secret: str, received: Received) -> Any:
    """What the public library reads. Raises WebhookVerificationError."""
    return Webhook(secret).verify(received.body, headers_of(received))


async def test_event_is_delivered_with_a_signature_of_the_public_library(site: Site) -> None:
    webhook, secret = await site.add("/hook?token=a%20b")
    event_id = await site.happen(name="größe")
    await site.sender.send_due()
    (received,) = site.receiver.got
    assert received.line == b"POST /hook?token=a%20b HTTP/1.1"
    assert checked(secret, received) == {
        "type": "key.created",
        "timestamp": format_time(site.clock.now),
        "account_id": ADA.id,
        "data": {"name": "größe"},
    }
    headers = headers_of(received)
    assert headers["webhook-id"] == event_id
    (row,) = await site.log_of(webhook)
    assert (row.state, row.next_at, row.event_id) == ("delivered", None, event_id)
    _, attempts = await site.webhooks.delivery(ADA.id, webhook.id, row.id)
    assert [(one.number, one.status, one.answer, one.error) for one in attempts] == [(1, 200, "thanks", "")]
    await site.sender.send_due()
    assert len(site.receiver.got) == 1


def test_signature_is_the_one_of_the_public_library() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", '{"test": 2432232314}'
    at = datetime.fromtimestamp(1_614_265_330, UTC)
    expected = Webhook(secret).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", at, body)
    assert sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body.encode(), (secret,)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"now": 1301}, "300 seconds"),
        ({"now": 699}, "300 seconds"),
        ({"timestamp": ""}, "not a number"),
        ({"timestamp": "1" * 5000}, "not a number"),
        ({"body": b"{ }"}, "no signature"),
        ({"webhook_id": "b"}, "no signature"),
        ({"signature": ""}, "no signature"),
    ],
)
def test_verify_altered_message_is_rejected(change: dict[str, Any], message: str) -> None:
    secret = "whsec_" + "A" * 32
    given: dict[str, Any] = {
        "webhook_id": "a",
        "timestamp": "1000",
        "signature": "v1a,x " + sign("a", 1000, b"{}", (secret,)),
        "body": b"{}",
        "now": 1300,
    }
    verify(secret, **given)
    with pytest.raises(BadSignature, match=message):
        verify(secret, **given | change)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_?", "whsec_AAAA"])
def test_sign_without_a_usable_secret_fails(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        sign("a", 1, b"{}", (secret,))


async def test_events_reach_the_endpoints_that_want_them(site: Site) -> None:
    for path, events, owner in (
        ("/all", ["*"], ADA.id),
        ("/keys", ["key.created"], ADA.id),
        ("/payments", ["payment.*"], ADA.id),
        ("/bob", ["*"], BOB.id),
        ("/operators", ["*"], OPERATORS),
        ("/servers", ["server.*"], OPERATORS),
    ):
        await site.add(path, events, owner)
    await site.happen("key.created")
    await site.happen("payment.failed")
    await site.happen("server.down", account=None)
    await site.sender.send_due()
    paths = sorted(received.line.split(b" ")[1].decode() for received in site.receiver.got)
    assert paths == sorted(
        ["/all", "/keys", "/operators", "/all", "/payments", "/operators", "/operators", "/servers"]
    )


async def test_failed_delivery_is_retried_for_three_days_and_then_disables_the_endpoint(site: Site) -> None:
    webhook, _ = await site.add()
    site.receiver.statuses[b"/hook"] = b"500 Internal Server Error"
    event_id = await site.happen()
    times = []
    for pause in (0, *PAUSES):
        site.clock.now += pause * 1000 - 1 if pause else 0
        await site.sender.send_due()
        assert len(site.receiver.got) == len(times) + (pause == 0)
        site.clock.now += 1 if pause else 0
        await site.sender.send_due()
        times.append(int(headers_of(site.receiver.got[-1])["webhook-timestamp"]))
        assert len(site.receiver.got) == len(times)
    assert {headers_of(one)["webhook-id"] for one in site.receiver.got} == {event_id}
    assert 72 * 3600 < times[-1] - times[0] < 80 * 3600
    disabled = await site.webhooks.get(ADA.id, webhook.id)
    assert not disabled.enabled and "status 500" in disabled.disabled_reason
    assert await site.new_events() == ["webhook.disabled"]
    (row,) = await site.log_of(webhook)
    assert (row.state, row.next_at) == ("failed", None)
    _, attempts = await site.webhooks.delivery(ADA.id, webhook.id, row.id)
    assert [one.number for one in attempts] == list(range(1, len(PAUSES) + 2))
    assert b"webhook_disabled" in site.lines[-1]
    await site.happen()
    await site.sender.send_due()
    assert len(site.receiver.got) == len(PAUSES) + 1


async def test_one_event_that_always_fails_does_not_disable_an_endpoint_that_works(site: Site) -> None:
    webhook, _ = await site.add()
    site.receiver.statuses[b"/hook"] = b"500 Internal Server Error"
    await site.happen()
    for pause in (0, *PAUSES):
        site.clock.now += pause * 1000
        await site.sender.send_due()
        if pause == PAUSES[3]:
            site.receiver.statuses.clear()
            await site.happen()
            await site.sender.send_due()
            site.receiver.statuses[b"/hook"] = b"400 Bad Request"
            (row, *_) = [row for row in await site.log_of(webhook) if row.state == "delivered"][-1:]
            await site.webhooks.resend(ADA.id, webhook.id, row.id)
    assert (await site.webhooks.get(ADA.id, webhook.id)).enabled


async def test_gone_disables_the_endpoint_at_once(site: Site) -> None:
    webhook, _ = await site.add()
    site.receiver.statuses[b"/hook"] = b"410 Gone"
    await site.happen()
    await site.sender.send_due()
    assert "410" in (await site.webhooks.get(ADA.id, webhook.id)).disabled_reason
    with pytest.raises(Conflict):
        await site.webhooks.test(ADA.id, webhook.id, "webhook.test")
    await site.webhooks.change(ME, ADA.id, webhook.id, WebhookChanges(enabled=True))
    assert (await site.webhooks.get(ADA.id, webhook.id)).disabled_reason == ""


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (b"302 Found", (b"Location: http://127.0.0.1:1/other",), PAUSES[0]),
        (b"429 Too Many Requests", (b"Retry-After: 600",), 600),
        (b"503 Service Unavailable", (b"Retry-After: soon",), PAUSES[0]),
        (b"500 Internal Server Error", (b"Retry-After: 99999999",), 86_400),
    ],
)
async def test_failure_is_retried_when_the_answer_allows(
    site: Site, status: bytes, headers: tuple[bytes, ...], seconds: int
) -> None:
    webhook, _ = await site.add()
    site.receiver.statuses[b"/hook"], site.receiver.headers = status, headers
    await site.happen()
    await site.sender.send_due()
    assert len(site.receiver.got) == 1
    (row,) = await site.log_of(webhook)
    assert row.next_at == site.clock.now + seconds * 1000


async def test_busy_endpoint_gets_no_other_delivery_meanwhile(site: Site) -> None:
    await site.add()
    site.receiver.statuses[b"/hook"] = b"429 Too Many Requests"
    site.receiver.headers = (b"Retry-After: 60",)
    await site.happen()
    await site.sender.send_due()
    site.clock.now += 30_000
    await site.happen()
    await site.sender.send_due()
    assert len(site.receiver.got) == 1
    site.clock.now += 30_000
    site.receiver.statuses.clear()
    await site.sender.send_due()
    assert len(site.receiver.got) == 3


async def test_slow_endpoint_delays_only_its_own_deliveries(site: Site, nursery: trio.Nursery) -> None:
    await site.add("/slow")
    fast, _ = await site.add("/fast")
    site.receiver.stalled.add(b"/slow")
    nursery.start_soon(site.sender.run)
    with trio.fail_after(60):
        await site.happen()
        site.sender.notify()
        await site.receiver.waiting.wait()
        for number in range(2, 5):
            await site.happen()
            site.sender.notify()
            while len([row for row in await site.log_of(fast) if row.state == "delivered"]) < number:
                await trio.lowlevel.checkpoint()


async def test_deliveries_survive_a_restart_of_the_sender(site: Site) -> None:
    await site.add()
    site.receiver.statuses[b"/hook"] = b"500 Internal Server Error"
    event_id = await site.happen()
    await site.sender.send_due()
    site.sender = site.new_sender()
    site.clock.now += PAUSES[0] * 1000
    site.receiver.statuses.clear()
    await site.sender.send_due()
    assert [headers_of(one)["webhook-id"] for one in site.receiver.got] == [event_id] * 2


async def test_rotated_secret_signs_with_the_earlier_one_until_the_overlap_ends(site: Site) -> None:
    webhook, old = await site.add()
    _, new = await site.webhooks.rotate(ME, ADA.id, webhook.id, overlap=60)
    await site.happen()
    await site.sender.send_due()
    for secret in (old, new):
        checked(secret, site.receiver.got[-1])
    assert len(headers_of(site.receiver.got[-1])["webhook-signature"].split(" ")) == 2
    site.clock.now += 60_000
    await site.happen()
    await site.sender.send_due()
    checked(new, site.receiver.got[-1])
    with pytest.raises(WebhookVerificationError):
        checked(old, site.receiver.got[-1])
    _, newest = await site.webhooks.rotate(ME, ADA.id, webhook.id, overlap=0)
    await site.happen()
    await site.sender.send_due()
    checked(newest, site.receiver.got[-1])
    with pytest.raises(WebhookVerificationError):
        checked(new, site.receiver.got[-1])


async def test_test_event_and_resend_reach_the_endpoint(site: Site) -> None:
    webhook, secret = await site.add(events=["payment.*"])
    delivery = await site.webhooks.test(ADA.id, webhook.id, "key.revoked")
    await site.sender.send_due()
    assert checked(secret, site.receiver.got[0])["data"]["test"] is True
    await site.webhooks.resend(ADA.id, webhook.id, delivery.id)
    await site.sender.send_due()
    first, second = (headers_of(one)["webhook-id"] for one in site.receiver.got)
    assert first == second == delivery.event_id
    _, attempts = await site.webhooks.delivery(ADA.id, webhook.id, delivery.id)
    assert [one.number for one in attempts] == [1, 2]


async def test_long_answer_is_cut(site: Site) -> None:
    webhook, _ = await site.add()
    site.receiver.body = b"a\x00" * 10_000
    delivery = await site.webhooks.test(ADA.id, webhook.id, "webhook.test")
    await site.sender.send_due()
    _, (attempt,) = await site.webhooks.delivery(ADA.id, webhook.id, delivery.id)
    assert len(attempt.answer) == module.ANSWER and "\x00" not in attempt.answer


async def test_private_address_is_refused_when_connecting(site: Site, nursery: trio.Nursery) -> None:
    webhook, _ = await site.add()
    strict = Pool(policy=AddressPolicy(setting="[webhooks] allowed_networks"))
    await nursery.start(strict.run)
    site.pool = strict
    site.sender = site.new_sender()
    await site.happen()
    await site.sender.send_due()
    assert site.receiver.got == []
    (row,) = await site.log_of(webhook)
    _, (attempt,) = await site.webhooks.delivery(ADA.id, webhook.id, row.id)
    assert attempt.status is None and "[webhooks] allowed_networks" in attempt.error


async def test_webhooks_of_others_are_not_found(site: Site) -> None:
    webhook, _ = await site.add()
    delivery = await site.webhooks.test(ADA.id, webhook.id, "webhook.test")
    mine = site.webhooks
    for owner in (BOB.id, OPERATORS):
        assert list(await mine.list(owner)) == []
        for call in (
            lambda owner=owner: mine.get(owner, webhook.id),
            lambda owner=owner: mine.change(ME, owner, webhook.id, WebhookChanges(enabled=False)),
            lambda owner=owner: mine.rotate(ME, owner, webhook.id, overlap=0),
            lambda owner=owner: mine.test(owner, webhook.id, "webhook.test"),
            lambda owner=owner: mine.deliveries(owner, webhook.id, before=LATEST, limit=1),
            lambda owner=owner: mine.delivery(owner, webhook.id, delivery.id),
            lambda owner=owner: mine.resend(owner, webhook.id, delivery.id),
            lambda owner=owner: mine.remove(ME, owner, webhook.id),
        ):
            with pytest.raises(NotFound):
                await call()
    other, _ = await site.add("/other")
    with pytest.raises(NotFound):
        await mine.delivery(ADA.id, other.id, delivery.id)


async def test_disabled_webhook_gets_nothing_also_not_later(site: Site) -> None:
    webhook, _ = await site.add()
    await site.happen()
    off = await site.webhooks.change(ME, ADA.id, webhook.id, WebhookChanges(enabled=False))
    assert not off.enabled and off.disabled_reason == ""
    await site.happen()
    await site.webhooks.change(ME, ADA.id, webhook.id, WebhookChanges(enabled=True, description="new"))
    await site.sender.send_due()
    assert site.receiver.got == []
    assert [row.state for row in await site.log_of(webhook)] == ["failed"]


async def test_webhooks_are_deleted_alone_and_with_their_user(site: Site) -> None:
    first, _ = await site.add()
    await site.add("/other")
    await site.happen()
    await site.webhooks.remove(ME, ADA.id, first.id)
    assert len(await site.webhooks.list(ADA.id)) == 1
    await site.store.write(delete_user, ADA.id)
    assert len(await site.webhooks.list(ADA.id)) == 0
    await site.sender.send_due()
    assert site.receiver.got == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://hooks.example/", "https"),
        ("unix:/run/socket", "https"),
        ("https://u:p@hooks.example/", "password"),
        ("https://hooks.example/#part", "#|fragment"),
        ("https://hooks.example/?a b", "spaces"),
        ("https://hooks.example/" + "a" * 2000, "2000"),
        ("ftp://hooks.example/", "https"),
        ("https://10.0.0.1/", "private"),
        ("https://[::1]/", "private"),
        ("https://169.254.169.254/", "private"),
    ],
)
async def test_create_with_a_url_that_is_not_allowed_is_rejected(
    site: Site, address: str, message: str
) -> None:
    policy = WebhookPolicy()
    strict = Webhooks(site.store, vault=site.vault, clock=site.clock, policy=policy, waiting=lambda: None)
    with pytest.raises(InvalidRequest, match=message):
        await strict.create(ME, ADA.id, url=address, events=("*",), description="")


@pytest.mark.parametrize("events", [("key",), ("no.such",), ("keys.*",), ("server.down",), ("alert.*",)])
async def test_create_for_events_that_do_not_exist_is_rejected(site: Site, events: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest):
        await site.add(events=events)


async def test_create_of_too_many_webhooks_is_rejected(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bluesminds.accounts.webhooks.MAX_WEBHOOKS", 1)
    await site.add()
    with pytest.raises(Conflict):
        await site.add()
    await site.add(owner=OPERATORS)
    assert len(await site.webhooks.list(ADA.id)) == 1


async def test_deliveries_beyond_the_bound_of_an_endpoint_are_left_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 1)
    webhook, _ = await site.add()
    for _ in range(4):
        await site.happen()
    assert len(await site.log_of(webhook)) == 2
    lines = [line for line in site.lines if b"webhook_events_left_out" in line]
    assert len(lines) == 1 and webhook.id.encode() in lines[0]


async def test_disabled_account_gets_no_events_until_it_is_enabled(site: Site) -> None:
    webhook, _ = await site.add()
    await site.add("/operators", owner=OPERATORS)
    waiting = await site.happen()
    await site.store.write(update_user, replace(ADA, disabled_at=1))
    await site.happen()
    await site.sender.send_due()
    assert [one.line.split(b" ")[1] for one in site.receiver.got] == [b"/operators"] * 2
    assert [row.state for row in await site.log_of(webhook)] == ["pending"]
    await site.store.write(update_user, ADA)
    await site.sender.send_due()
    (own,) = [one for one in site.receiver.got if one.line.split(b" ")[1] == b"/hook"]
    assert headers_of(own)["webhook-id"] == waiting


async def test_redirect_to_a_private_address_is_not_followed(site: Site) -> None:
    webhook, _ = await site.add()
    site.receiver.statuses[b"/hook"] = b"307 Temporary Redirect"
    site.receiver.headers = (b"location: " + site.receiver.url("/private").encode(),)
    await site.happen()
    await site.sender.send_due()
    assert [one.line.split(b" ")[1] for one in site.receiver.got] == [b"/hook"]
    (row,) = await site.log_of(webhook)
    assert row.state == "pending"


async def test_old_deliveries_are_deleted_unless_they_wait(site: Site) -> None:
    webhook, _ = await site.add()
    done = await site.webhooks.test(ADA.id, webhook.id, "webhook.test")
    await site.sender.send_due()
    waits = await site.webhooks.test(ADA.id, webhook.id, "webhook.test")
    assert await site.store.write(delete_old_deliveries, LATEST, 10) == 1
    assert [row.id for row in await site.log_of(webhook)] == [waits.id]
    with pytest.raises(NotFound):
        await site.webhooks.delivery(ADA.id, webhook.id, done.id)


async def test_audit_entries_have_no_secret(site: Site) -> None:
    webhook, secret = await site.add("/hook?token=hidden")
    await site.webhooks.rotate(OPERATOR, ADA.id, webhook.id, overlap=5)
    entries = await site.store.read(select_audit, AuditQuery(before=2**62, limit=100))
    assert [one.row.action for one in entries] == ["webhook.rotate", "webhook.create"]
    text = "".join(one.row.detail for one in entries)
    assert "hidden" not in text and secret not in text and "[masked]" in text


def test_target_of_a_url_keeps_path_and_query() -> None:
    target = WebhookTarget.parse("https://hooks.example:8443/a/?b=c/d", allow_http=False)
    assert (target.target, target.origin.authority) == (b"/a/?b=c/d", "hooks.example:8443")
    assert not target.origin.trusted
    assert WebhookTarget.parse("https://hooks.example", allow_http=False).target == b"/"


def test_wants_matches_kinds_groups_and_all() -> None:
    assert wants(("*",), "key.created") and wants(("key.*",), "key.created") and wants(("a", "b.c"), "b.c")
    assert not wants(("key.*", "b"), "keys.created")
