"""One request on the HTTP/1.1 lane: what the app sees as `receive` and `send`, over a wire and an intake.

Its waits carry the lane's deadlines. Whoever finds that nobody waits for the answer any more (the sweep, a
failed read or write, a request that turns out bad in its body) says so with `lost` or a refusal; then the
disconnect extension fires, `receive` tells http.disconnect and `send` raises ClientDisconnected.
"""

import contextlib
from http import HTTPStatus
from typing import Any

import trio

from bluesminds.common.clock import SystemClock
from bluesminds.common.crypto import uuid7
from bluesminds.http.asgi import ASGIApp, ClientDisconnected, Disconnect, Message, OnError
from bluesminds.http.deadlines import Deadlines
from bluesminds.http.server import rejections
from bluesminds.http.server.limits import Limits, Stats
from bluesminds.http.server.rejections import OnRefusal, RateLimitedReporter, Rejection
from bluesminds.http.server.request_parser import ParsedRequest, RequestParser
from bluesminds.http.server.response import Reply
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

REFUSAL_SECONDS = 1.0
SENDS_PER_YIELD = 32
SEND_SLICE = 128 * 1024  # bytes that one write deadline covers
BODY_BYTES_PER_SECOND = 1024  # a body that comes slower, over all, than this uses up its body_timeout

Client = tuple[str, int] | None
"""A client's address as ASGI tells it; None on a Unix socket."""


class ServerContext:
    """What the connections of one server share."""

    __slots__ = ("_reporter", "app", "date", "deadlines", "draining", "limits", "on_error", "state", "stats")

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        stats: Stats,
        on_error: OnError,
        on_refusal: OnRefusal,
        state: dict[str, Any],
    ) -> None:
        self.app = app
        self.limits = limits
        self.stats = stats
        self.on_error = on_error
        self.state = state
        self.deadlines = Deadlines()
        self.draining = False
        self.date = b""  # the Date header line; the server's sweep keeps it
        self._reporter = RateLimitedReporter(on_refusal)

    def refused(self, refusal: Rejection, client: Client) -> str:
        """Count and report an answer that the server gives by itself. Returns the request id for it."""
        request_id = uuid7(SystemClock().now_ms())
        self.stats.refused[refusal.code] += 1
        if refusal.status == HTTPStatus.BAD_REQUEST:
            self.stats.parse_errors += 1
        self._reporter.tell(client, refusal, request_id, trio.current_time())
        return request_id


class Exchange:
    """One request and its answer: what the app sees as receive and send."""

    __slots__ = (
        "_client",
        "_continued",
        "_delivered",
        "_intake",
        "_lane",
        "_over",
        "_sends",
        "_start",
        "_waited",
        "_wire",
        "disconnect",
        "inbound",
        "refused",
        "reply",
        "seen",
        "write_interrupted",
    )

    def __init__(
        self, lane: ServerContext, wire: Wire, intake: RequestParser, inbound: ParsedRequest, client: Client
    ) -> None:
        self.inbound = inbound
        self.disconnect = Disconnect()
        self._lane = lane
        self._wire = wire
        self._intake = intake
        self._client = client
        self.reply = Reply(inbound, not inbound.keep_alive or lane.draining)
        self.refused = False
        self.seen = False  # the sweep looks only at exchanges it meets a second time
        self._start: Message | None = None
        self._over: trio.Event | None = None
        self.write_interrupted = False  # a send has begun and is not finished
        self._delivered = self._continued = False
        self._sends = 0
        self._waited = 0.0  # seconds spent waiting for the body

    # What the app calls

    async def receive(self) -> Message:
        inbound = self.inbound
        while not (inbound.pieces or inbound.complete or self.reply.done or self.disconnect.gone):
            await self._read()
        if self.disconnect.gone or self.reply.done:
            return {"type": "http.disconnect"}
        if self._delivered:
            await self._wait_over()
            return {"type": "http.disconnect"}
        pieces = inbound.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._delivered = inbound.complete
        return {"type": "http.request", "body": body, "more_body": not inbound.complete}

    async def send(self, message: Message) -> None:
        reply = self.reply
        if self.disconnect.gone:
            raise ClientDisconnected("the client has gone")
        if self.write_interrupted:
            self.lost()
            raise ClientDisconnected("an earlier send was cut short")
        kind = message["type"]
        if kind == "http.response.body":
            if self._start is None or reply.done:
                raise RuntimeError("http.response.body is out of order")
            body = message.get("body", b"")
            more = message.get("more_body", False)
            data = reply.next(body, more) if reply.started else self._first(body, more)
            if data:
                await self._write(data)
            if not more and self._over is not None:
                self._over.set()
        elif kind == "http.response.start":
            if self._start is not None:
                raise RuntimeError("http.response.start came twice")
            self._start = message
        else:
            raise RuntimeError(f"{kind} is not a message of an HTTP response")

    def _first(self, body: bytes, more: bool) -> bytes:
        assert self._start is not None  # noqa: S101 send checked it
        reply = self.reply
        if self._lane.draining or not self.inbound.complete:
            reply.close = True
        return reply.first(self._start["status"], self._start.get("headers", ()), body, more, self._lane.date)

    async def _write(self, data: bytes) -> None:
        self.write_interrupted = (
            True  # and stays so if the send is cancelled: the connection cannot be used after that
        )
        wire, patience = self._wire, self._lane.limits.write_timeout
        try:
            if len(data) <= SEND_SLICE:
                await wire.send(data, trio.current_time() + patience)
            else:
                view = memoryview(data)
                for start in range(0, len(data), SEND_SLICE):
                    await wire.send(view[start : start + SEND_SLICE], trio.current_time() + patience)
        except WireClosed:
            self.lost()
            raise ClientDisconnected("the client has gone") from None
        except WireTimeout:
            if not self.disconnect.gone:
                self._lane.stats.refused["write_timeout"] += 1
                self.lost()
            raise ClientDisconnected("the client does not read") from None
        self.write_interrupted = False
        self._sends += 1
        if not self._sends % SENDS_PER_YIELD:
            await trio.lowlevel.checkpoint()

    async def _read(self) -> None:
        """More of the body, or the end of this exchange."""
        begun = self._continued or self.inbound.received or self.reply.started
        if self.inbound.expects_continue and not begun:
            self._continued = True
            try:
                await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            except ClientDisconnected:
                return
        patience = self._lane.limits.body_timeout
        began = trio.current_time()
        earned = patience + self.inbound.received / BODY_BYTES_PER_SECOND - self._waited
        try:
            data = await self._wire.receive(began + min(patience, earned))
        except WireClosed:
            data = b""
        except WireTimeout:
            if not self.disconnect.gone:
                await self._refuse(rejections.BODY_TIMEOUT)
            return
        self._waited += trio.current_time() - began
        if not data:
            self.lost()
            return
        self._intake.feed(data)
        refusal = self._intake.refusal
        if refusal is not None and not self.inbound.complete:
            await self._refuse(refusal)

    async def _refuse(self, refusal: Rejection) -> None:
        """The request turned out bad while the app was reading it: answer for the app if it has not begun."""
        self.refused = True
        if not self.reply.started:
            await refuse(self._lane, self._wire, refusal, self._client)
        self._end()

    async def _wait_over(self) -> None:
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    # What the connection calls

    def lost(self) -> None:
        """The client has gone; whoever waits for it learns so now. Idempotent."""
        if not self.disconnect.gone and (self.write_interrupted or not self.reply.done):
            self._lane.stats.disconnects += 1
            self._end()
            self._wire.give_up()

    def _end(self) -> None:
        try:
            self.disconnect.fire()
        except Exception as error:
            self._lane.on_error(error)
        if self._over is not None:
            self._over.set()


async def refuse(lane: ServerContext, wire: Wire, refusal: Rejection, client: Client) -> None:
    """Send the server's own answer, if the client takes it at once; count and report it."""
    request_id = lane.refused(refusal, client)
    with contextlib.suppress(WireClosed, WireTimeout):
        await wire.send(refusal.response(request_id), trio.current_time() + REFUSAL_SECONDS)
