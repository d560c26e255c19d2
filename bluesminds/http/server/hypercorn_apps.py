"""The tasks behind a Hypercorn connection: apps, and the exchanges that stand between them and Hypercorn.

Hypercorn hands each HTTP/2 request or WebSocket to `Apps.spawn_app`. No wait of an app for its client is
without limit, and an app never makes the connection wait. Whatever goes wrong in an exchange ends its stream
only: a request that stalls is answered or reset, an app's own error is reported and its answer reset.
"""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

import h11
import trio
from h2.errors import ErrorCodes
from hypercorn.config import Config
from hypercorn.protocol.events import Event
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import Scope as HypercornScope

from bluesminds.http.asgi import ClientDisconnected, Disconnect, Message, Scope, without_disconnects
from bluesminds.http.server import rejections
from bluesminds.http.server.exchange import BODY_BYTES_PER_SECOND, SEND_SLICE, ServerContext
from bluesminds.http.server.rejections import Rejection

Put = Callable[[Any], Awaitable[None]]


class SendTimeout(Exception):
    """Client or app did not take what was meant for it in time; the connection ends."""


@dataclass(frozen=True)
class BodyConsumed(Event):
    """The app has taken what had arrived of its request's body."""


@dataclass(frozen=True)
class Reset(Event):
    """The stream cannot go on."""

    code: ErrorCodes


@dataclass(frozen=True)
class StreamEnded(Event):
    """The app has returned; what is missing of its answer will not come."""


class StreamTasks(TaskGroup):
    """The tasks of one connection."""

    def __init__(self, lane: ServerContext) -> None:
        super().__init__()
        self._lane = lane
        self._exchanges: set[_Exchange] = set()

    async def spawn_app(self, app: object, config: Config, scope: HypercornScope, send: Put) -> Put:
        assert self._nursery is not None  # noqa: S101 the group is entered
        stream = cast(MethodType, send).__self__
        exchange: _Exchange
        if isinstance(stream, WSStream):
            exchange = _WebSocket(self._lane, cast(Scope, scope), stream, config.max_app_queue_size)
        elif isinstance(stream, HTTPStream) and scope["type"] == "http" and scope["http_version"] == "2":
            exchange = _Request(self._lane, cast(Scope, scope), stream)
        else:
            raise SendTimeout  # Hypercorn's HTTP/1.1 is for one WebSocket, not for what may follow it
        self._nursery.start_soon(self._run, exchange)
        return exchange.put

    async def _run(self, exchange: "_Exchange") -> None:
        self._exchanges.add(exchange)
        try:
            await exchange.run()
        finally:
            self._exchanges.discard(exchange)

    def end(self) -> None:
        """The connection is over; apps that wait for the client learn it."""
        for exchange in self._exchanges:
            exchange.end()


class _Exchange:
    """What the two kinds share: `put` and `end` are Hypercorn's side, `receive` and `send` the app's."""

    def __init__(self, lane: ServerContext, scope: Scope, stream: HTTPStream | WSStream) -> None:
        self._lane = lane
        self._scope = scope
        self._stream = stream
        self._disconnect = scope["extensions"]["disconnect"] = Disconnect()

    async def run(self) -> None:
        raise NotImplementedError

    async def put(self, event: Message) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError

    def _report(self, error: Exception) -> None:
        rest = without_disconnects(error)
        if rest is not None:
            self._lane.on_error(rest)

    async def _send_in_time(self, message: Message) -> None:
        with trio.move_on_after(self._lane.limits.write_timeout) as scope:
            try:
                await self._stream.app_send(cast(Any, message))
            except h11.LocalProtocolError:  # the client broke the handshake while the app was answering it
                raise ClientDisconnected("the connection has failed") from None
        if scope.cancelled_caught:
            self._lane.stats.refused["write_timeout"] += 1
            await self._reset(ErrorCodes.CANCEL)
            raise ClientDisconnected("the client does not read")

    async def _reset(self, code: ErrorCodes) -> None:
        self._disconnect.fire()
        await self._stream.send(Reset(self._stream.stream_id, code))


class _Request(_Exchange):
    """One HTTP/2 request. Its body waits in a buffer that the stream's flow control window bounds."""

    def __init__(self, lane: ServerContext, scope: Scope, stream: HTTPStream) -> None:
        super().__init__(lane, scope, stream)
        self._body = bytearray()
        self._whole = False  # all of the body has arrived
        self._delivered = False  # and the app has it
        self._over = False
        self._started = False
        self._news = trio.lowlevel.ParkingLot()
        self._received = 0
        self._waited = 0.0

    async def run(self) -> None:
        try:
            refusal = self._refusal()
            if refusal is not None:
                await self._answer(refusal)
            else:
                self._lane.stats.requests += 1
                await self._lane.app(self._scope, self.receive, self.send)
                if not self._stream.closed:
                    raise RuntimeError("the app returned without completing its answer")
        except Exception as error:
            self._report(error)
            with contextlib.suppress(ClientDisconnected):
                await self._answer(rejections.INTERNAL_ERROR)
        await self._stream.send(StreamEnded(self._stream.stream_id))

    def _refusal(self) -> Rejection | None:
        scope, limits = self._scope, self._lane.limits
        headers = scope["headers"]
        if len(scope["raw_path"]) + len(scope["query_string"]) > limits.url_bytes:
            return rejections.URL_TOO_LONG
        if len(headers) > limits.header_lines:
            return rejections.HEADERS_TOO_LARGE
        if sum(len(name) + len(value) + 4 for name, value in headers) > limits.header_bytes:
            return rejections.HEADERS_TOO_LARGE
        return None

    async def put(self, event: Message) -> None:
        if event["type"] == "http.request":
            self._body += event["body"]
            self._whole = not event["more_body"]
            self._news.unpark_all()
        else:
            self.end()

    def end(self) -> None:
        self._over = True
        self._news.unpark_all()

    async def receive(self) -> Message:
        while not (self._body or self._whole or self._over):
            await self._wait_for_body()
        while self._delivered and not self._over:
            await self._news.park()
        if self._over:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._delivered = self._whole
        self._received += len(body)
        if self._received > self._lane.limits.body_bytes:
            await self._answer(rejections.BODY_TOO_LARGE)
            if not self._stream.closed:
                await self._reset(ErrorCodes.CANCEL)
            self._disconnect.fire()
            return {"type": "http.disconnect"}
        await self._stream.send(BodyConsumed(self._stream.stream_id))
        return {"type": "http.request", "body": body, "more_body": not self._delivered}

    async def _wait_for_body(self) -> None:
        patience = self._lane.limits.body_timeout
        earned = patience + self._received / BODY_BYTES_PER_SECOND - self._waited
        began = trio.current_time()
        with trio.move_on_at(began + min(patience, earned)) as scope:
            await self._news.park()
        self._waited += trio.current_time() - began
        if scope.cancelled_caught:
            with contextlib.suppress(ClientDisconnected):
                await self._answer(rejections.BODY_TIMEOUT)
            await self._reset(ErrorCodes.NO_ERROR if self._stream.closed else ErrorCodes.CANCEL)
            self._over = True

    async def send(self, message: Message) -> None:
        if self._disconnect.gone:
            raise ClientDisconnected("the client has gone")
        self._started = True
        body = message.get("body", b"")
        if len(body) <= SEND_SLICE:
            await self._send_in_time(message)
            return
        for start in range(0, len(body), SEND_SLICE):
            end = start + SEND_SLICE
            more = message.get("more_body", False) or end < len(body)
            await self._send_in_time({**message, "body": body[start:end], "more_body": more})

    async def _answer(self, refusal: Rejection) -> None:
        """The server's own answer, if nothing has been said yet."""
        if not (self._started or self._stream.closed):
            request_id = self._lane.refused(refusal, self._scope["client"])
            headers = refusal.headers(request_id)
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": refusal.body(request_id)})


class _WebSocket(_Exchange):
    """One WebSocket, which has its connection to itself.

    What Hypercorn puts waits in a bounded queue. Its disconnect message is not queued but ends the queue: the
    queue may be full, and the one who says it may be the very app that would have to empty it.
    """

    def __init__(self, lane: ServerContext, scope: Scope, stream: WSStream, queue_size: int) -> None:
        super().__init__(lane, scope, stream)
        self._put, self._take = trio.open_memory_channel[Message](queue_size)
        self._last: Message = {"type": "websocket.disconnect", "code": 1006}

    async def run(self) -> None:
        try:
            await self._lane.app(self._scope, self.receive, self._send_in_time)
        except SendTimeout:
            raise
        except Exception as error:
            self._report(error)
        finally:
            self._take.close()
        await self._stream.app_send(None)

    async def put(self, event: Message) -> None:
        if event["type"] == "websocket.disconnect":
            self._last = event
            self.end()
            return
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(self._lane.limits.body_timeout) as scope:
                await self._put.send(event)
            if scope.cancelled_caught:
                raise SendTimeout

    def end(self) -> None:
        self._put.close()

    async def receive(self) -> Message:
        try:
            return await self._take.receive()
        except trio.EndOfChannel:
            return self._last
