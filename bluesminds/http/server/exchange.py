"""One HTTP/1.1 request and its response: the app's `receive` and `send`, over a wire and a request parser.

Every wait has a deadline. Any task that detects a client disconnect calls `client_disconnected`. Then the
disconnect extension fires, `receive` returns http.disconnect and `send` raises ClientDisconnected. The same
happens when the request's body is rejected while the app reads it.
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
from bluesminds.http.server.limits import ListenerLimits, ListenerStats
from bluesminds.http.server.rejections import OnRejection, RateLimitedReporter, Rejection
from bluesminds.http.server.request_parser import ParsedRequest, RequestParser
from bluesminds.http.server.response import ResponseFramer
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

REJECTION_SECONDS = 1.0
SENDS_PER_YIELD = 32
SEND_SLICE = 128 * 1024  # bytes that one write deadline covers
BODY_BYTES_PER_SECOND = 1024  # a body with a lower average rate uses up its body_timeout

Client = tuple[str, int] | None
"""A client's address as in the ASGI scope; None on a Unix socket."""


class ServerContext:
    """State shared by the connections of one listener."""

    __slots__ = ("_reporter", "app", "date", "deadlines", "draining", "limits", "on_error", "state", "stats")

    def __init__(
        self,
        app: ASGIApp,
        limits: ListenerLimits,
        stats: ListenerStats,
        on_error: OnError,
        on_rejection: OnRejection,
        state: dict[str, Any],
    ) -> None:
        self.app = app
        self.limits = limits
        self.stats = stats
        self.on_error = on_error
        self.state = state
        self.deadlines = Deadlines()
        self.draining = False
        self.date = b""  # the Date header line, updated by the sweep
        self._reporter = RateLimitedReporter(on_rejection)

    def count_rejection(self, rejection: Rejection, client: Client) -> str:
        """Count and report a rejection. Returns the request id for its response."""
        request_id = uuid7(SystemClock().now_ms())
        self.stats.refused[rejection.code] += 1
        if rejection.status == HTTPStatus.BAD_REQUEST:
            self.stats.parse_errors += 1
        self._reporter.report(client, rejection, request_id, trio.current_time())
        return request_id


class HTTP1Exchange:
    """One HTTP/1.1 request and its response."""

    __slots__ = (
        "_client",
        "_continued",
        "_delivered",
        "_parser",
        "_response_done",
        "_sends",
        "_server",
        "_start",
        "_waited",
        "_wire",
        "disconnect",
        "rejected",
        "request",
        "response",
        "swept_once",
        "upgraded",
        "write_interrupted",
    )

    def __init__(
        self, server: ServerContext, wire: Wire, parser: RequestParser, request: ParsedRequest, client: Client
    ) -> None:
        self.request = request
        self.disconnect = Disconnect()
        self._server = server
        self._wire = wire
        self._parser = parser
        self._client = client
        close = not request.keep_alive or request.websocket or server.draining
        self.response = ResponseFramer(request, close)
        self.rejected = False
        self.upgraded = False  # the connection speaks another protocol now
        self.swept_once = False  # the sweep checks an exchange from its second visit on
        self._start: Message | None = None
        self._response_done: trio.Event | None = None
        self.write_interrupted = False  # a send has started and has not finished
        self._delivered = self._continued = False
        self._sends = 0
        self._waited = 0.0  # seconds spent in waits for the body

    # Called by the app

    async def receive(self) -> Message:
        request = self.request
        while not (request.pieces or request.complete or self.response.done or self.disconnect.disconnected):
            await self._read()
        if self.disconnect.disconnected or self.response.done:
            return {"type": "http.disconnect"}
        if self._delivered:
            await self._wait_response_done()
            return {"type": "http.disconnect"}
        pieces = request.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._delivered = request.complete
        return {"type": "http.request", "body": body, "more_body": not request.complete}

    async def send(self, message: Message) -> None:
        response = self.response
        if self.disconnect.disconnected:
            raise ClientDisconnected("the client has disconnected")
        if self.write_interrupted:
            self.client_disconnected()
            raise ClientDisconnected("an earlier send was interrupted")
        kind = message["type"]
        if kind == "http.response.body":
            if self._start is None or response.done:
                raise RuntimeError("http.response.body is out of order")
            body = message.get("body", b"")
            more = message.get("more_body", False)
            data = response.continue_(body, more) if response.started else self._frame_start(body, more)
            if data:
                await self._write(data)
            if not more and self._response_done is not None:
                self._response_done.set()
        elif kind == "http.response.start":
            if self._start is not None or self.upgraded:
                raise RuntimeError("http.response.start was sent twice")
            self._start = message
        else:
            raise RuntimeError(f"{kind} is not a message of an HTTP response")

    async def switch_protocols(self, head: bytes) -> None:
        """Send the head of a 101 response. The wire then belongs to the caller. Raises ClientDisconnected."""
        if self.disconnect.disconnected:
            raise ClientDisconnected("the client has disconnected")
        if self._start is not None or self.upgraded:
            raise RuntimeError("the response has started")
        self.upgraded = True
        await self._write(head)

    def _frame_start(self, body: bytes, more: bool) -> bytes:
        assert self._start is not None  # noqa: S101 send checked it
        response = self.response
        if self._server.draining or not self.request.complete:
            response.close = True
        return response.start(
            self._start["status"], self._start.get("headers", ()), body, more, self._server.date
        )

    async def _write(self, data: bytes) -> None:
        self.write_interrupted = True  # stays True if the send is cancelled: the connection is then unusable
        wire, timeout = self._wire, self._server.limits.write_timeout
        try:
            if len(data) <= SEND_SLICE:
                await wire.send(data, timeout)
            else:
                view = memoryview(data)
                for start in range(0, len(data), SEND_SLICE):
                    await wire.send(view[start : start + SEND_SLICE], timeout)
        except WireClosed:
            self.client_disconnected()
            raise ClientDisconnected("the client has disconnected") from None
        except WireTimeout:
            if not self.disconnect.disconnected:
                self._server.stats.refused["write_timeout"] += 1
                self.client_disconnected()
            raise ClientDisconnected("the client does not read") from None
        self.write_interrupted = False
        self._sends += 1
        if not self._sends % SENDS_PER_YIELD:
            await trio.lowlevel.checkpoint()

    async def _read(self) -> None:
        """Read more of the body, or end this exchange."""
        needless = self._continued or self.request.received or self.response.started
        if self.request.expects_continue and not needless:
            self._continued = True
            try:
                await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            except ClientDisconnected:
                return
        timeout = self._server.limits.body_timeout
        start = trio.current_time()
        budget = timeout + self.request.received / BODY_BYTES_PER_SECOND - self._waited
        try:
            data = await self._wire.receive(start + min(timeout, budget))
        except WireClosed:
            data = b""
        except WireTimeout:
            if not self.disconnect.disconnected:
                await self._reject(rejections.BODY_TIMEOUT)
            return
        self._waited += trio.current_time() - start
        if not data:
            self.client_disconnected()
            return
        self._parser.feed(data)
        rejection = self._parser.rejection
        if rejection is not None and not self.request.complete:
            await self._reject(rejection)

    async def _reject(self, rejection: Rejection) -> None:
        """Reject the request while the app reads its body; respond unless the app has started to."""
        self.rejected = True
        if not self.response.started:
            await send_rejection(self._server, self._wire, rejection, self._client)
        self._end()

    async def _wait_response_done(self) -> None:
        if self._response_done is None:
            self._response_done = trio.Event()
        await self._response_done.wait()

    # Called by the connection

    def client_disconnected(self) -> None:
        """Record that the client has disconnected and wake every wait of this exchange. Idempotent."""
        if not self.disconnect.disconnected and (self.write_interrupted or not self.response.done):
            self._server.stats.disconnects += 1
            self._end()
            self._wire.abort_waits()

    def _end(self) -> None:
        try:
            self.disconnect.fire()
        except Exception as error:
            self._server.on_error(error)
        if self._response_done is not None:
            self._response_done.set()


async def send_rejection(server: ServerContext, wire: Wire, rejection: Rejection, client: Client) -> None:
    """Send a rejection if the client reads it within REJECTION_SECONDS; count and report it."""
    request_id = server.count_rejection(rejection, client)
    with contextlib.suppress(WireClosed, WireTimeout):
        await wire.send(rejection.response(request_id), REJECTION_SECONDS)
