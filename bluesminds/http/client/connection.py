"""One upstream connection and the response it is reading: llhttp's callbacks, without pool logic.

Whatever the upstream sends, callers get a final status, complete headers of bounded size and the body of
exactly one response, or UpstreamProtocolError. A connection is reusable only when its response ended where
its framing says, nothing followed, and both sides allow keep-alive.
"""

import select
from collections.abc import Callable

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from bluesminds.http.client.errors import Phase, UpstreamCut, UpstreamProtocolError
from bluesminds.http.deadlines import NEVER
from bluesminds.http.wire import Wire

MAX_HEAD = 64 * 1024  # bytes within which a head, interim responses included, must be complete
MAX_HEADERS = 200
MAX_FRAMING = 64 * 1024  # bytes of chunk extensions and trailers in a row without a body byte

_FIRST_FINAL = 200
_FIRST_UNKNOWN = 600


class _UnexpectedResponse(Exception):
    """The upstream started a response to a request that was not sent."""


class UpstreamConnection:
    """A wire with a response parser."""

    __slots__ = (
        "_body",
        "_closed",
        "_head_only",
        "_parser",
        "_poller",
        "_received",
        "coding",
        "complete",
        "head_deadline",
        "headers",
        "idle_since",
        "keep_alive",
        "on_body",
        "responses",
        "sent_at",
        "started_at",
        "status",
        "wire",
    )

    def __init__(self, wire: Wire, closed: Callable[["UpstreamConnection"], None]) -> None:
        """closed: called whenever this connection is closed, before its wire is."""
        self.wire = wire
        self.idle_since = NEVER  # Trio's clock
        self.responses = 0  # complete responses so far
        self.keep_alive = True
        self._closed = closed
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self._parser = HttpResponseParser(self)
        self._poller = select.poll()
        self._poller.register(wire.fileno(), select.POLLIN)
        self.start_request(0.0, head_only=False)

    def start_request(self, now: float, *, head_only: bool) -> None:
        """Expect the response to a request about to be sent. head_only: it has no body (HEAD)."""
        self.started_at = now
        self.sent_at = NEVER  # when the kernel had accepted the last byte of the request
        self.head_deadline = NEVER
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.coding: bytes | None = None
        self.complete = False
        self._head_only = head_only
        self._received = 0

    def is_reusable(self) -> bool:
        """Whether the upstream has neither sent anything nor closed since its last response."""
        return not (self.wire.pending() or self._poller.poll(0))

    @property
    def nothing_received(self) -> bool:
        """Whether no byte of a response has arrived since `start_request`."""
        return not self._received

    @property
    def head_complete(self) -> bool:
        return self.status >= _FIRST_FINAL

    @property
    def has_body(self) -> bool:
        """Whether parsed body bytes are waiting to be taken."""
        return bool(self._body)

    def take_body(self) -> bytes:
        """The body bytes parsed since the last call."""
        body = self._body
        if len(body) == 1:
            return body.pop()
        data = b"".join(body)
        body.clear()
        return data

    async def read_head(self) -> None:
        """Read until the final response's head is complete, at the latest `head_deadline`.

        Raises WireClosed, WireTimeout and UpstreamError.
        """
        while self.status < _FIRST_FINAL:
            data = await self.wire.receive(self.head_deadline)
            if not data:
                self.keep_alive = False
                raise UpstreamCut(
                    "the upstream closed the connection without a response", phase="head", sent=True
                )
            self._received += len(data)
            self._feed(data, "head")
            if self._received >= MAX_HEAD and self.status < _FIRST_FINAL:
                raise self._broken("the response head is too large", "head")
        if len(self.headers) > MAX_HEADERS:
            raise self._broken("the response has too many headers", "head")

    async def read_body(self, deadline: float) -> bytes:
        """The body bytes of the next read that has any; b"" at the body's end. Raises as `read_head` does."""
        framing = 0
        while not (self._body or self.complete):
            data = await self.wire.receive(deadline)
            if not data:
                self._end_of_stream()
                break
            self._feed(data, "body")
            framing += len(data)
            if framing > MAX_FRAMING and not self._body:
                raise self._broken("the response has too much chunk framing", "body")
        return self.take_body()

    async def buffer_body(self, limit: int) -> None:
        """Parse ahead of the reader until the body is complete or `limit` bytes are held."""
        held = sum(map(len, self._body))
        while held < limit and not self.complete:
            data = await self.wire.receive()
            if not data:
                return  # the next read reports it
            self._feed(data, "body")
            held += len(data)

    def close(self) -> None:
        self.keep_alive = False
        self._closed(self)
        self.wire.close()

    def _feed(self, data: bytes, phase: Phase) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as exc:
            self.keep_alive = False
            if not self.complete:
                raise self._broken(f"the response is not HTTP/1.1: {exc}", phase) from None
        if self._head_only and self.complete:
            self._restart_parser()

    def _restart_parser(self) -> None:
        # llhttp has no option for a response without a body (HEAD) and waits for one.
        if self._body:
            self._body.clear()
            self.keep_alive = False
        self._parser = HttpResponseParser(self)

    def _end_of_stream(self) -> None:
        self.keep_alive = False
        framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)
        if framed:
            raise UpstreamCut(
                "the upstream closed the connection during its response", phase="body", sent=True
            )
        self.complete = True

    def _broken(self, message: str, phase: Phase) -> UpstreamProtocolError:
        self.keep_alive = False
        return UpstreamProtocolError(message, phase=phase, sent=True)

    # llhttp's callbacks. An exception in one stops the parser permanently.

    def on_message_begin(self) -> None:
        if self.complete:
            raise _UnexpectedResponse

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        name = name.lower()
        value = value.rstrip()
        if name == b"content-encoding":
            self.coding = value if self.coding is None else self.coding + b"," + value
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise ValueError(name)
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 100 and not 101 < status < _FIRST_UNKNOWN:
            raise ValueError(status)
        self.status = status
        if self._head_only and status >= _FIRST_FINAL:
            self._finish()

    def on_message_complete(self) -> None:
        if self.status < _FIRST_FINAL:
            self.status = 0
            self.headers.clear()
            self.coding = None
        elif not self.complete:
            self._finish()

    def _finish(self) -> None:
        self.complete = True
        self.responses += 1
        self.keep_alive = self.keep_alive and self._parser.should_keep_alive()
