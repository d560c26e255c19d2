"""Delivers events to the endpoints of webhooks.

The dispatcher of events calls `WebhookQueue.consume`, which writes a delivery for each endpoint that wants
the event. `WebhookSender` sends them, each endpoint independently of all others. An answer of 2xx ends a
delivery; redirects are failures. After the last try, and after 410, the endpoint is disabled, and its owner
gets an event.

A delivery is repeated if the gateway stops between the answer and the commit. Receivers recognise it by its
`webhook-id`, which is the id of the event.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import trio
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, uuid7
from bluesminds.common.log import Log
from bluesminds.http.client.pool import Pool, Response, Timeouts, UpstreamError
from bluesminds.notify.events import new_event
from bluesminds.notify.webhook_format import WebhookTarget, signed_headers, wants, write_body
from storage.base import Connection, IntegrityError, StorageBroken, StorageUnavailable, Store
from storage.events import EventRow, insert_event
from storage.webhook_deliveries import (
    AttemptRow,
    DeliveryRow,
    fail_pending_deliveries,
    has_many_pending,
    insert_attempt,
    insert_deliveries,
    select_due_deliveries,
    select_due_webhooks,
    update_delivery,
)
from storage.webhooks import (
    WebhookRow,
    select_listening_webhooks,
    select_webhook,
    set_webhook_success,
    update_webhook,
)

# Seconds after each failed try; about 75 hours in total. The schedule is the example of Standard Webhooks.
PAUSES: Final = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER: Final = 0.1  # share of a pause that is added at random
SECONDS: Final = 20.0  # for one try
LONGEST_WAIT: Final = 86_400  # seconds that `retry-after` can ask for
ANSWER: Final = 4096  # bytes of an answer that are kept
MAX_PENDING: Final = 10_000  # deliveries of an endpoint that wait; later events are not delivered to it
LOGGED_EACH: Final = 1000  # events that an endpoint does not get
AT_ONCE: Final = 4  # deliveries to an endpoint
ENDPOINTS: Final = 100  # that are sent to at the same time
POLL: Final = 60.0  # seconds
STORAGE_PAUSE: Final = 5.0  # seconds after a storage error
GONE: Final = 410
BUSY: Final = (429, 502, 504)
_TIMEOUTS: Final = Timeouts(connect=5.0, pool=5.0, write=10.0, first_byte=20.0, between_chunks=10.0)


class DeliveryResult(Struct, frozen=True):
    """`status` is None without an answer. `retry_after` is in seconds."""

    status: int | None
    error: str = ""
    answer: str = ""
    retry_after: int = 0

    @property
    def delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def new_delivery(webhook_id: str, event: EventRow, now: int) -> DeliveryRow:
    return DeliveryRow(
        id=uuid7(now),
        webhook_id=webhook_id,
        event_id=event.id,
        kind=event.kind,
        body=write_body(event),
        state="pending",
        tries=0,
        since=now,
        next_at=now,
        created_at=now,
    )


class WebhookQueue:
    """Writes deliveries. An endpoint with too many waiting deliveries gets no new ones. This is logged at the
    first skipped event, and again after each LOGGED_EACH.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._left_out: dict[str, int] = {}  # events by endpoint

    async def consume(self, connection: Connection, event: EventRow) -> None:
        """Part of a transaction: a consumer of events."""
        rows = []
        for webhook in await select_listening_webhooks(connection, event.account_id):
            if not wants(webhook.events, event.kind):
                continue
            if await has_many_pending(connection, webhook.id, MAX_PENDING):
                self._leave_out(webhook.id)
            else:
                self._left_out.pop(webhook.id, None)
                rows.append(new_delivery(webhook.id, event, event.at))
        await insert_deliveries(connection, rows)

    def _leave_out(self, webhook_id: str) -> None:
        count = self._left_out.get(webhook_id, 0) + 1
        self._left_out[webhook_id] = count
        if count % LOGGED_EACH == 1:
            self._log.warning(
                "webhook_events_left_out", webhook_id=webhook_id, count=count, waiting=MAX_PENDING
            )


class WebhookSender:
    """`pool` has the address policy of webhooks. `random` gives a share from 0 to 1, for the jitter."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        *,
        vault: Vault,
        clock: Clock,
        log: Log,
        allow_http: bool,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._pool = pool
        self._vault = vault
        self._clock = clock
        self._log = log
        self._allow_http = allow_http
        self._random = random
        self._active: set[str] = set()
        self._resting: dict[str, int] = {}  # until when an endpoint that is busy gets nothing
        self._changed = trio.Event()

    def notify(self) -> None:
        """Deliveries may wait."""
        self._changed.set()

    async def run(self) -> None:
        """Send until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                try:
                    wait = await self._start_due(nursery)
                except (StorageUnavailable, StorageBroken):
                    wait = STORAGE_PAUSE
                with trio.move_on_after(wait):
                    await self._changed.wait()

    async def send_due(self) -> None:
        """Send what is due now, and return when all of it was tried once."""
        async with trio.open_nursery() as nursery:
            await self._start_due(nursery)

    async def _start_due(self, nursery: trio.Nursery) -> float:
        """Start a task for each endpoint with due deliveries. Returns the seconds until others may be due."""
        now = self._clock.now_ms()
        self._resting = {one: until for one, until in self._resting.items() if until > now}
        wait = POLL
        for webhook_id, due in await self._store.read(select_due_webhooks):
            due = max(due, self._resting.get(webhook_id, 0))
            if webhook_id in self._active:
                continue
            if due > now:
                wait = min(wait, (due - now) / 1000)
            elif len(self._active) < ENDPOINTS:
                self._active.add(webhook_id)
                nursery.start_soon(self._send_to, webhook_id)
        return wait

    async def _send_to(self, webhook_id: str) -> None:
        """Send the due deliveries of one endpoint."""
        try:
            while webhook_id not in self._resting and await self._send_some(webhook_id):
                pass
        except (StorageUnavailable, StorageBroken):
            await trio.sleep(STORAGE_PAUSE)
        finally:
            self._active.discard(webhook_id)
            self._changed.set()

    async def _send_some(self, webhook_id: str) -> bool:
        now = self._clock.now_ms()
        deliveries = await self._store.read(select_due_deliveries, webhook_id, now, AT_ONCE)
        webhook = await self._store.read(select_webhook, webhook_id)
        if webhook is None or not webhook.enabled or not deliveries:
            return False
        results: dict[str, tuple[DeliveryResult, AttemptRow]] = {}
        async with trio.open_nursery() as nursery:
            for delivery in deliveries:
                nursery.start_soon(self._try, webhook, delivery, results)
        for delivery in deliveries:
            await self._record(delivery, *results[delivery.id])
        return True

    async def _try(
        self,
        webhook: WebhookRow,
        delivery: DeliveryRow,
        results: dict[str, tuple[DeliveryResult, AttemptRow]],
    ) -> None:
        at, started = self._clock.now_ms(), trio.current_time()
        result = DeliveryResult(None, f"no answer within {SECONDS:.0f} seconds")
        with trio.move_on_after(SECONDS):
            try:
                result = await self._send(webhook, delivery, at)
            except UpstreamError as exc:
                result = DeliveryResult(None, str(exc))
            except ValueError as exc:  # the URL is not allowed any more, or the secret cannot be decrypted
                result = DeliveryResult(None, str(exc))
            except Exception as exc:
                self._log.exception("webhook_failed", exc, webhook_id=webhook.id, delivery_id=delivery.id)
                result = DeliveryResult(None, "internal error of the gateway")
        took = round((trio.current_time() - started) * 1000)
        attempt = AttemptRow(delivery.id, 0, at, result.status, result.error, took, result.answer)
        results[delivery.id] = (result, attempt)

    async def _send(self, webhook: WebhookRow, delivery: DeliveryRow, now: int) -> DeliveryResult:
        target = WebhookTarget.parse(webhook.url, allow_http=self._allow_http)
        body = delivery.body.encode()
        headers = signed_headers(delivery.event_id, now // 1000, body, self._secrets(webhook, now))
        response = await self._pool.request(
            b"POST",
            target.origin,
            target.target,
            ((b"user-agent", b"BluesMinds-Webhooks"), *headers),
            body,
            timeouts=_TIMEOUTS,
        )
        try:
            answer = await _beginning(response)
            return DeliveryResult(response.status, "", answer, _retry_after(response))
        finally:
            response.close()

    def _secrets(self, webhook: WebhookRow, now: int) -> Sequence[str]:
        sealed = [webhook.sealed_secret]
        if webhook.sealed_previous is not None and (webhook.previous_until or 0) > now:
            sealed.append(webhook.sealed_previous)
        return [self._vault.open(one) for one in sealed]

    async def _record(self, delivery: DeliveryRow, result: DeliveryResult, attempt: AttemptRow) -> None:
        now = self._clock.now_ms()
        after = self._after(delivery, result, now)
        if not result.delivered and result.status in BUSY:
            self._resting[delivery.webhook_id] = now + max(result.retry_after, PAUSES[0]) * 1000
        try:
            reason = await self._store.write(_record, after, result, attempt, now)
        except IntegrityError:  # the endpoint was deleted meanwhile
            return
        if reason:
            self._log.warning("webhook_disabled", webhook_id=delivery.webhook_id, reason=reason)

    def _after(self, delivery: DeliveryRow, result: DeliveryResult, now: int) -> DeliveryRow:
        """The delivery after a try."""
        if result.delivered:
            return replace(delivery, state="delivered", next_at=None)
        tries = delivery.tries + 1
        if result.status == GONE or tries > len(PAUSES):
            return replace(delivery, state="failed", tries=tries, next_at=None)
        pause = PAUSES[delivery.tries] * (1 + JITTER * self._random())
        return replace(delivery, tries=tries, next_at=now + round(max(pause, result.retry_after) * 1000))


async def _record(
    connection: Connection, delivery: DeliveryRow, result: DeliveryResult, attempt: AttemptRow, now: int
) -> str:
    """Part of a transaction. Returns why the endpoint was disabled, or ""."""
    webhook = await select_webhook(connection, delivery.webhook_id)
    if webhook is None:
        return ""
    if not webhook.enabled and delivery.state == "pending":
        delivery = replace(delivery, state="failed", next_at=None)
    if not await update_delivery(connection, delivery):
        return ""
    await insert_attempt(connection, attempt)
    if result.delivered:
        await set_webhook_success(connection, webhook.id, now)
        return ""
    if delivery.state != "failed" or not webhook.enabled:
        return ""
    if result.status == GONE:
        reason = "The endpoint responded with 410 Gone."
    elif (webhook.last_success_at or 0) < delivery.since:
        last = result.error or f"the last response had status {result.status}"
        reason = f"No delivery has succeeded for three days: {last}."
    else:  # others succeed: this one event fails
        return ""
    await disable_webhook(connection, webhook, reason, now)
    return reason


async def disable_webhook(connection: Connection, webhook: WebhookRow, reason: str, now: int) -> None:
    """Part of a transaction: what waits is not sent, and the owner gets an event."""
    await update_webhook(connection, replace(webhook, enabled=False, disabled_reason=reason, updated_at=now))
    await fail_pending_deliveries(connection, webhook.id)
    data = {
        "webhook_id": webhook.id,
        "url": webhook.url.partition("?")[0],
        "description": webhook.description,
        "reason": reason,
    }
    await insert_event(connection, new_event(now, "webhook.disabled", webhook.owner or None, data))


async def _beginning(response: Response) -> str:
    """The first ANSWER bytes of the body as text."""
    parts, size = [], 0
    while size < ANSWER and (data := await response.receive()):
        parts.append(data)
        size += len(data)
    text = b"".join(parts)[:ANSWER].decode(errors="replace")
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL stores no NUL


def _retry_after(response: Response) -> int:
    """Whole seconds; 0 without the header, and for a date."""
    value = response.header(b"retry-after") or b""
    return min(int(value), LONGEST_WAIT) if value.isdigit() and len(value) < 10 else 0
