"""Requests and log events as they happen, as server-sent events.

    GET /api/usage/logs/stream         the user's own requests
    GET /api/admin/usage/logs/stream   the requests of all users
    GET /api/admin/logs                the latest log events
    GET /api/admin/logs/stream         log events

An event is a JSON object in `data`. An event named `dropped` has the number of those that the reader was too
slow for. A stream ends after SECONDS, so that an ended session gets no more data; clients connect again.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
import trio
from msgspec import Meta, Struct

from bluesminds.common.broadcast import Broadcast, Subscription, TooManyReaders
from bluesminds.common.errors import RateLimited, Unavailable
from bluesminds.common.log import LEVELS, Log, LogEvent
from bluesminds.web.api.usage_schemas import (
    FilterName,
    KeyId,
    RequestFilter,
    RequestFilterForAll,
    log_view,
    request_query,
)
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Page, Route, StreamBody, route
from storage.usage import UsageRow
from storage.usage_log import LogQuery

SECONDS: Final = 600.0  # the length of a stream
PAUSE: Final = 15.0  # seconds without an event until a comment is sent, so that proxies do not disconnect
EVENTS: Final = "text/event-stream"
_BEGIN: Final = b"retry: 1000\n\n"
_HEADERS: Final = (("x-accel-buffering", "no"),)
Recent = Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000")]
T = TypeVar("T")


class EventFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """Events of at least this `level`, with these fields."""

    level: Literal["debug", "info", "warning", "error"] = "debug"
    event: FilterName | None = None
    request_id: FilterName | None = None
    key: KeyId | None = None
    model: FilterName | None = None

    def accepts(self, event: LogEvent) -> bool:
        return LEVELS[event.level] >= LEVELS[self.level] and all(
            wanted is None or wanted == found
            for wanted, found in (
                (self.event, event.name),
                (self.request_id, event.fields.get("request_id")),
                (self.key, event.fields.get("key_id")),
                (self.model, event.fields.get("model")),
            )
        )


class LatestEvents(EventFilter, frozen=True, forbid_unknown_fields=True):
    """The latest `recent` events of at least this `level`, with these fields."""

    recent: Recent = 100


class EventStreamFilter(EventFilter, frozen=True, forbid_unknown_fields=True):
    """Events of at least this `level`, with these fields. The stream begins with the latest `recent` ones."""

    recent: Recent = 0


class EventStream(Generic[T]):
    """The body of a stream: `first`, and then what the subscription gets. An iterator object, not a
    generator, because a generator that was never started does not end its subscription.
    """

    def __init__(
        self, subscription: Subscription[T], encode: Callable[[T], bytes], first: Sequence[T] = ()
    ) -> None:
        self._subscription = subscription
        self._encode = encode
        self._first: Sequence[T] | None = first
        self._deadline = trio.current_time() + SECONDS

    def __aiter__(self) -> "EventStream[T]":
        return self

    async def __anext__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return _BEGIN + self._data(first)
        left = self._deadline - trio.current_time()
        if left <= 0:
            raise StopAsyncIteration
        received = await self._subscription.receive(min(PAUSE, left))
        if received is None:
            raise StopAsyncIteration
        values, dropped = received
        lost = b'event: dropped\ndata: {"count":%d}\n\n' % dropped if dropped else b""
        return self._data(values) + lost or b":\n\n"

    def _data(self, values: Sequence[T]) -> bytes:
        return b"".join(b"data: %b\n\n" % self._encode(value) for value in values)

    async def aclose(self) -> None:
        self._subscription.close()

    def __del__(self) -> None:
        self._subscription.close()


class LiveHandlers(Struct, frozen=True):
    """`requests` and `log` are None in a command without a running gateway."""

    requests: Broadcast[UsageRow] | None
    log: Log | None

    async def own_requests(self, principal: Principal, query: RequestFilter) -> HandlerResponse[StreamBody]:
        """Your requests as they end, as server-sent events.

        The data of an event is a row of the usage log. The stream ends after ten minutes; connect again.
        """
        return self._requests(request_query(query, principal.user_id), principal, full=False)

    async def all_requests(
        self, principal: Principal, query: RequestFilterForAll
    ) -> HandlerResponse[StreamBody]:
        """The requests of all users as they end, as server-sent events.

        The data of an event is a row of the usage log. The stream ends after ten minutes; connect again.
        """
        return self._requests(request_query(query, None), principal, full=True)

    def _requests(self, query: LogQuery, principal: Principal, *, full: bool) -> HandlerResponse[StreamBody]:
        def encode(row: UsageRow) -> bytes:
            return msgspec.json.encode(log_view(row, full=full))

        return event_stream(subscribe_requests(self.requests, principal, query), encode)

    async def latest_events(self, query: LatestEvents) -> Page[dict[str, Any]]:
        """The latest events of the log, oldest first."""
        events = _latest(_running(self.log), query, query.recent)
        return Page([msgspec.json.decode(event.to_json()) for event in events])

    async def events(self, principal: Principal, query: EventStreamFilter) -> HandlerResponse[StreamBody]:
        """The events of the log as they happen, as server-sent events.

        The stream ends after ten minutes; connect again.
        """
        log = _running(self.log)
        subscription = _subscribe(log.followers, principal, query.accepts)
        return event_stream(subscription, _event_data, _latest(log, query, query.recent))


def subscribe_requests(
    requests: Broadcast[UsageRow] | None, principal: Principal, query: LogQuery
) -> Subscription[UsageRow]:
    """Requests from now on. Raises Unavailable without a running gateway, and RateLimited."""
    return _subscribe(_running(requests), principal, query.accepts)


def _running(part: T | None) -> T:
    if part is None:
        raise Unavailable("gateway_not_running", "No gateway is running. Start it first.", retry=False)
    return part


def _subscribe(broadcast: Broadcast[T], principal: Principal, accept: Callable[[T], bool]) -> Subscription[T]:
    try:
        return broadcast.subscribe(principal.user_id, accept)
    except TooManyReaders:
        message = "Too many live streams are open. Close some, or try again later."
        raise RateLimited("too_many_streams", message, retry_after=60.0) from None


def _latest(log: Log, query: EventFilter, limit: int) -> Sequence[LogEvent]:
    found = [event for event in log.recent if query.accepts(event)]
    return found[-limit:] if limit else ()


def _event_data(event: LogEvent) -> bytes:
    return event.to_json().rstrip()


def event_stream(
    subscription: Subscription[T], encode: Callable[[T], bytes], first: Sequence[T] = ()
) -> HandlerResponse[StreamBody]:
    """The response of a stream: `first`, and then what the subscription gets."""
    return HandlerResponse(StreamBody(EventStream(subscription, encode, first), EVENTS), headers=_HEADERS)


def routes(handlers: LiveHandlers) -> list[Route]:
    own, every = Access.SESSION, Access.ADMIN
    live, of_all = "/api/usage/logs/stream", "/api/admin/usage/logs/stream"
    return [
        route("GET", live, own, handlers.own_requests, tag="Usage", media=EVENTS),
        route("GET", of_all, every, handlers.all_requests, tag="Usage", media=EVENTS),
        route("GET", "/api/admin/logs", every, handlers.latest_events, tag="Log"),
        route("GET", "/api/admin/logs/stream", every, handlers.events, tag="Log", media=EVENTS),
    ]
