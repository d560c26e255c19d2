"""Sends one request on a connection and reads the head of its response.

A small complete body is sent together with its head. A longer one is sent while the response is already being
read, so that an early error response is delivered instead of a broken pipe: a final status of 300 or more
ends the sending; with any other status the body is sent completely.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass

import trio

from bluesminds.http.client.connection import UpstreamConnection
from bluesminds.http.client.errors import FirstByteTimeout, UpstreamCut, UpstreamError, WriteTimeout
from bluesminds.http.wire import WireClosed, WireTimeout

SINGLE_SEND_BYTES = 64 * 1024  # bytes of body up to which head and body are sent together
_PIECE = 256 * 1024  # bytes of a long body under one write deadline
_EARLY_BODY = 64 * 1024  # bytes of an early error response read before the request is dropped
_EARLY_SECONDS = 1.0
_FIRST_ERROR = 300

_METHOD = re.compile(rb"[A-Z]+(?:-[A-Z]+)*")
_TARGET = re.compile(rb"[!-~]+")
_MANAGED_HEADERS = frozenset(
    (b"host", b"accept-encoding", b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer")
) | frozenset((b"upgrade", b"content-length", b"transfer-encoding", b"expect"))
_BODY_EXPECTED = frozenset((b"POST", b"PUT", b"PATCH"))

RequestBody = bytes | AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts of one exchange, each for one wait, in seconds; math.inf for no limit.

    first_byte runs from the request's last byte to the end of the response head. write, first_byte and
    between_chunks may fire up to deadlines.TICK late. The pool does not use `total`: its callers set
    `Response.ends_at`.
    """

    connect: float = 5.0
    pool: float = 5.0
    write: float = 30.0
    first_byte: float = 120.0
    between_chunks: float = 60.0
    total: float | None = None


def render_head(
    method: bytes, target: bytes, host_lines: bytes, headers: Sequence[tuple[bytes, bytes]], body: RequestBody
) -> bytes:
    """The request's head. Framing and connection headers in `headers` are dropped: the pool sets its own.

    An iterable body is sent chunked, unless `headers` has its Content-Length. Raises ValueError, without
    header values, for an invalid method, target or header.
    """
    if not (_METHOD.fullmatch(method) and _TARGET.fullmatch(target)):
        raise ValueError("the request's method or target is malformed")
    parts = [method, b" ", target, host_lines]
    lines = host_lines.count(b"\n")
    for name, value in headers:
        if name.lower() not in _MANAGED_HEADERS:
            parts += (name, b": ", value, b"\r\n")
            lines += 1
    framing = _framing(method, headers, body)
    parts.append(framing)
    lines += framing.count(b"\n")
    head = b"".join(parts)
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise ValueError("a request header holds a line break or NUL")
    return head


def _framing(method: bytes, headers: Sequence[tuple[bytes, bytes]], body: RequestBody) -> bytes:
    if isinstance(body, bytes):
        needed = body or method in _BODY_EXPECTED
        return b"Content-Length: %d\r\n\r\n" % len(body) if needed else b"\r\n"
    length = declared_length(headers)
    return b"Transfer-Encoding: chunked\r\n\r\n" if length is None else b"Content-Length: %d\r\n\r\n" % length


def declared_length(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    for name, value in headers:
        if name.lower() == b"content-length":
            if not (value.isdigit() and len(value) < 19):
                raise ValueError("the request's Content-Length is not a number")
            return int(value)
    return None


async def send_request(
    connection: UpstreamConnection,
    method: bytes,
    head: bytes,
    body: RequestBody,
    length: int | None,
    timeouts: Timeouts,
) -> None:
    """Send the request and return when the response head is complete.

    length: what the head declares for an iterable body. Raises UpstreamError, and whatever the body raises.
    """
    now = trio.current_time()
    connection.start_request(now, head_only=method == b"HEAD")
    try:
        if isinstance(body, bytes) and len(body) <= SINGLE_SEND_BYTES:
            await _send_at_once(connection, head + body, timeouts.write)
            connection.sent_at = trio.current_time()
            connection.head_deadline = connection.sent_at + timeouts.first_byte
            await connection.read_head()
        else:
            await _Upload(connection, timeouts).run(head, body, length)
    except WireTimeout:
        raise FirstByteTimeout(
            "the upstream did not start its response in time", phase="head", sent=True
        ) from None
    except WireClosed as exc:
        raise UpstreamCut("the connection was lost before a response", phase="head", sent=True) from exc


async def _send_at_once(connection: UpstreamConnection, data: bytes, seconds: float) -> None:
    try:
        await connection.wire.send(data, seconds)
    except WireTimeout:
        raise _write_timeout() from None
    except WireClosed:
        if connection.responses:
            raise  # bytes left on a kept-alive connection cannot be the response to this request
        connection.keep_alive = False  # an error response may have arrived before the close


def _write_timeout() -> WriteTimeout:
    return WriteTimeout("the upstream stopped accepting the request", phase="write", sent=True)


class _SendStopped(Exception):
    """The connection no longer accepts the request."""


class _Upload:
    """Sends a request while its response may already arrive."""

    def __init__(self, connection: UpstreamConnection, timeouts: Timeouts) -> None:
        self._connection = connection
        self._timeouts = timeouts
        self._sent = False
        self._responded = False
        self._failure: Exception | None = None  # of the connection
        self._body_failure: Exception | None = None  # of the request body's iterable

    async def run(self, head: bytes, body: RequestBody, length: int | None) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, nursery.cancel_scope)
            try:
                await self._send(head, body, length)
                self._sent = True
                self._connection.sent_at = trio.current_time()
            except _SendStopped:
                pass  # a response may have arrived first: `_read` decides
            except Exception as exc:
                self._body_failure = exc
            if self._responded or self._failure or self._body_failure:
                nursery.cancel_scope.cancel()
            else:
                self._start_first_byte_timeout()
        if not self._sent:
            self._connection.keep_alive = False
        if self._body_failure is not None:
            raise self._body_failure
        if self._failure is not None and not self._responded:
            raise self._failure

    async def _read(self, scope: trio.CancelScope) -> None:
        try:
            await self._connection.read_head()
            self._responded = True
            if self._connection.status >= _FIRST_ERROR and not self._sent:
                # The body is read first, because cancelling a TLS send makes reading impossible too.
                with trio.move_on_after(_EARLY_SECONDS):
                    await self._connection.buffer_body(_EARLY_BODY)
                scope.cancel()
        except (WireClosed, WireTimeout, UpstreamError) as exc:
            self._failure = exc
            scope.cancel()

    def _start_first_byte_timeout(self) -> None:
        deadline = trio.current_time() + self._timeouts.first_byte
        self._connection.head_deadline = deadline
        self._connection.wire.read_deadline = deadline  # the reader is already waiting

    async def _send(self, head: bytes, body: RequestBody, length: int | None) -> None:
        if isinstance(body, bytes):
            await self._write(head)
            await self._write(body)
            return
        pieces = aiter(body)
        try:
            await self._send_pieces(head, pieces, length)
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def _send_pieces(self, head: bytes, pieces: AsyncIterator[bytes], length: int | None) -> None:
        total = 0
        async for piece in pieces:
            total += len(piece)
            if length is not None and total > length:
                raise ValueError("the request body is longer than its Content-Length")
            if piece:
                framed = piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece)
                await self._write(head + framed)
                head = b""
        if length is not None and total < length:
            raise ValueError("the request body is shorter than its Content-Length")
        await self._write(head if length is not None else head + b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            with trio.move_on_after(self._timeouts.write) as scope:
                try:
                    await self._connection.wire.send(view[start : start + _PIECE])
                    await trio.lowlevel.checkpoint()
                except WireClosed:
                    raise _SendStopped from None
            if scope.cancelled_caught:
                self._failure = _write_timeout()
                raise _SendStopped
