"""The app tasks of a Hypercorn connection, and the exchanges between an app and Hypercorn.

Hypercorn passes each HTTP/2 request to `StreamTasks.spawn_app`. Every wait of an app for its
client has a limit, and an app never blocks the connection. An error in an exchange ends only its stream: a
stalled request is answered or reset; an app's error is reported and its response is completed or reset.
"""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import trio
from h2.errors import ErrorCodes
from hypercorn.config import Config
from hypercorn.protocol.events import Event
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import Scope as HypercornScope

from bluesminds.http.asgi import ClientDisconnected, Disconnect, Message, Scope, without_disconnects
from bluesminds.http.server import rejections
from bluesminds.http.server.authority import is_valid_authority
from bluesminds.http.server.exchange import BODY_BYTES_PER_SECOND, SEND_SLICE, ServerContext
from bluesminds.http.server.rejections import Rejection

_HTTP1_HEADERS = frozenset((b"connection", b"upgrade"))
SendEvent = Callable[[Any], Awaitable[None]]


class SendTimeout(Exception):
    """The client or the app did not read in time; the connection ends."""


@dataclass(frozen=True)
class BodyConsumed(Event):
    """The app has read the part of the body that had arrived."""


@dataclass(frozen=True)
class ResetStream(Event):
    """The stream must be reset."""

    code: ErrorCodes


@dataclass(frozen=True)
class StreamEnded(Event):
    """The app has returned; an incomplete response stays incomplete."""


class StreamTasks(TaskGroup):
    """The tasks of one connection."""

    def __init__(self, server: ServerContext) -> None:
        super().__init__()
        self._server = server
        self._exchanges: set[_HTTP2Exchange] = set()

    async def spawn_app(
        self, app: object, config: Config, scope: HypercornScope, send: SendEvent
    ) -> SendEvent:
        assert self._nursery is not None  # noqa: S101 the group is entered
        stream = cast(MethodType, send).__self__
        if not isinstance(stream, HTTPStream):
            raise SendTimeout  # CONNECT is refused before
        exchange = _HTTP2Exchange(self._server, cast(Scope, scope), stream)
        self._nursery.start_soon(self._run, exchange)
        return exchange.put

    async def _run(self, exchange: "_HTTP2Exchange") -> None:
        self._exchanges.add(exchange)
        try:
            await exchange.run()
        finally:
            self._exchanges.discard(exchange)

    def end(self) -> None:
        """The connection has ended; wake the apps that wait for the client."""
        for exchange in self._exchanges:
            exchange.end()


class _HTTP2Exchange:
    """One HTTP/2 request. Hypercorn calls `put` and `end`, the app `receive` and `send`. The body is
    buffered, bounded by the stream's flow control window.
    """

    def __init__(self, server: ServerContext, scope: Scope, stream: HTTPStream) -> None:
        self._server = server
        self._scope = scope
        self._stream = stream
        self._disconnect = scope["extensions"]["disconnect"] = Disconnect()
        self._body = bytearray()
        self._body_complete = False  # the complete body has arrived
        self._delivered = False  # the app has read the complete body
        self._ended = False
        self._started = False
        self._changed = trio.lowlevel.ParkingLot()
        self._received = 0
        self._waited = 0.0

    async def run(self) -> None:
        try:
            rejection = self._check_head()
            if rejection is not None:
                await self._reject(rejection)
            else:
                self._server.stats.requests += 1
                await self._server.app(self._scope, self.receive, self.send)
                if not self._stream.closed:
                    raise RuntimeError("the app returned without completing its response")
        except Exception as error:
            self._report(error)
            with contextlib.suppress(ClientDisconnected):
                await self._reject(rejections.INTERNAL_ERROR)
        await self._stream.send(StreamEnded(self._stream.stream_id))

    def _check_head(self) -> Rejection | None:
        scope, limits = self._scope, self._server.limits
        headers = scope["headers"]
        if len(scope["raw_path"]) + len(scope["query_string"]) > limits.url_bytes:
            return rejections.URL_TOO_LONG
        if len(headers) > limits.header_lines:
            return rejections.HEADERS_TOO_LARGE
        if sum(len(name) + len(value) + 4 for name, value in headers) > limits.header_bytes:
            return rejections.HEADERS_TOO_LARGE
        hosts = {value for name, value in headers if name == b"host"}  # Hypercorn puts :authority here
        if len(hosts) != 1 or not is_valid_authority(hosts.pop()):
            return rejections.malformed(":authority is not a valid host")
        return None

    async def put(self, event: Message) -> None:
        if event["type"] == "http.request":
            self._body += event["body"]
            self._body_complete = not event["more_body"]
            self._changed.unpark_all()
        else:
            self.end()

    def end(self) -> None:
        self._ended = True
        self._changed.unpark_all()

    async def receive(self) -> Message:
        while not (self._body or self._body_complete or self._ended):
            await self._wait_for_body()
        while self._delivered and not self._ended:
            await self._changed.park()
        if self._ended:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._delivered = self._body_complete
        self._received += len(body)
        limits = self._server.limits
        too_large = self._received > limits.body_bytes
        if too_large and self._received > limits.largest_body(self._scope["headers"]):
            await self._reject(rejections.BODY_TOO_LARGE)
            if not self._stream.closed:
                await self._reset(ErrorCodes.CANCEL)
            self._disconnect.fire()
            return {"type": "http.disconnect"}
        await self._stream.send(BodyConsumed(self._stream.stream_id))
        return {"type": "http.request", "body": body, "more_body": not self._delivered}

    async def _wait_for_body(self) -> None:
        timeout = self._server.limits.body_timeout
        budget = timeout + self._received / BODY_BYTES_PER_SECOND - self._waited
        start = trio.current_time()
        with trio.move_on_at(start + min(timeout, budget)) as scope:
            await self._changed.park()
        self._waited += trio.current_time() - start
        if scope.cancelled_caught:
            with contextlib.suppress(ClientDisconnected):
                await self._reject(rejections.BODY_TIMEOUT)
            await self._reset(ErrorCodes.NO_ERROR if self._stream.closed else ErrorCodes.CANCEL)
            self._ended = True

    async def send(self, message: Message) -> None:
        if self._disconnect.disconnected:
            raise ClientDisconnected("the client has disconnected")
        self._started = True
        if message["type"] == "http.response.start":
            fields = [field for field in message["headers"] if field[0] not in _HTTP1_HEADERS]
            message = {**message, "headers": fields}
        body = message.get("body", b"")
        if len(body) <= SEND_SLICE:
            await self._send_in_time(message)
            return
        for start in range(0, len(body), SEND_SLICE):
            end = start + SEND_SLICE
            more = message.get("more_body", False) or end < len(body)
            await self._send_in_time({**message, "body": body[start:end], "more_body": more})

    async def _reject(self, rejection: Rejection) -> None:
        """Send a rejection unless the response has started."""
        if not (self._started or self._stream.closed):
            request_id = self._server.count_rejection(rejection, self._scope["client"])
            headers = rejection.headers(request_id)
            await self.send({"type": "http.response.start", "status": rejection.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": rejection.body(request_id)})

    def _report(self, error: Exception) -> None:
        remaining = without_disconnects(error)
        if remaining is not None:
            self._server.on_error(remaining)

    async def _send_in_time(self, message: Message) -> None:
        with trio.move_on_after(self._server.limits.write_timeout) as scope:
            await self._stream.app_send(cast(Any, message))
        if scope.cancelled_caught:
            self._server.stats.refused["write_timeout"] += 1
            await self._reset(ErrorCodes.CANCEL)
            raise ClientDisconnected("the client does not read")

    async def _reset(self, code: ErrorCodes) -> None:
        self._disconnect.fire()
        await self._stream.send(ResetStream(self._stream.stream_id, code))
