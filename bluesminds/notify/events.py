"""Kinds of events, and the dispatcher that hands events to their consumers.

An event is written with `insert_event` in the transaction of the change (storage/events.py). The dispatcher
reads new events in order. For each, one transaction calls all consumers and marks the event, so that a crash
loses no event and repeats none.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, get_args

import msgspec
import trio

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.log import Log
from storage.base import Connection, StorageBroken, StorageUnavailable, Store
from storage.events import EventRow, mark_event_dispatched, select_new_events

EventKind = Literal[
    "key.created",
    "key.revoked",
    "key.expiring",
    "user.created",
    "sign_in.new",
    "usage.threshold",
    "usage.weekly",
    "budget.alert",
    "credit.low",
    "payment.succeeded",
    "payment.failed",
    "payment.refunded",
    "payment.restored",
    "subscription.created",
    "subscription.updated",
    "subscription.canceled",
    "subscription.past_due",
    "trial.started",
    "trial.ending",
    "trial.ended",
    "invoice.created",
    "referral.rewarded",
    "request.failed",
    "server.down",
    "server.recovered",
    "alert.firing",
    "alert.resolved",
    "webhook.disabled",
    "webhook.test",
]
EVENT_KINDS: Final[tuple[EventKind, ...]] = get_args(EventKind)
MAX_DATA: Final = 16_384  # bytes of the data of an event: consumers of webhooks expect less than 20 kB

EventConsumer = Callable[[Connection, EventRow], Awaitable[None]]
"""Part of the transaction that marks the event: it awaits only the connection. It may insert events."""

BATCH: Final = 100  # events that are read at once
POLL: Final = 15.0  # seconds: another process may have written events


def new_event(at_ms: int, kind: EventKind, account_id: str | None, data: Mapping[str, object]) -> EventRow:
    """`account_id`: the user that it concerns; None for an event that only operators get. `data` has JSON
    values, times in the format of the API, and no secrets. Raises ValueError if it is longer than MAX_DATA.
    """
    encoded = msgspec.json.encode(data)
    if len(encoded) > MAX_DATA:
        raise ValueError(f"the data of an event {kind} has {len(encoded)} bytes")
    return EventRow(uuid7(at_ms), kind, account_id, at_ms, encoded.decode())


class EventDispatcher:
    """Consumers are added before `run`. A consumer gets each event once."""

    def __init__(self, store: Store, *, clock: Clock, log: Log) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._consumers: list[EventConsumer] = []
        self._dispatched: list[Callable[[], None]] = []
        self._new = trio.Event()
        store.on_events = self.notify

    def subscribe(self, consumer: EventConsumer, *, dispatched: Callable[[], None] = lambda: None) -> None:
        """`dispatched` is called after the commit, to wake the task that does what the consumer wrote."""
        self._consumers.append(consumer)
        self._dispatched.append(dispatched)

    def notify(self) -> None:
        """New events may exist."""
        self._new.set()

    async def run(self) -> None:
        """Dispatch until cancelled. After a storage error it tries again at the next signal or after POLL."""
        while True:
            self._new = trio.Event()
            try:
                while await self.dispatch() == BATCH:
                    pass
            except (StorageUnavailable, StorageBroken):
                pass
            with trio.move_on_after(POLL):
                await self._new.wait()

    async def dispatch(self) -> int:
        """Dispatch the oldest new events, at most BATCH. Returns their number. Raises StorageError.

        An event at which a consumer fails is marked and logged: it must not block all later events.
        """
        events = await self._store.read(select_new_events, BATCH)
        for event in events:
            try:
                await self._store.write(self._dispatch, event)
            except (StorageUnavailable, StorageBroken):
                raise
            except Exception as exc:
                self._log.exception("event_not_dispatched", exc, kind=event.kind, event_id=event.id)
                await self._store.write(mark_event_dispatched, event.id, self._clock.now_ms())
        if events:
            for notify in self._dispatched:
                notify()
        return len(events)

    async def _dispatch(self, connection: Connection, event: EventRow) -> None:
        if await mark_event_dispatched(connection, event.id, self._clock.now_ms()):
            for consumer in self._consumers:
                await consumer(connection, event)
