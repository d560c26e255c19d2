"""One open WebSocket (RFC 6455) on a wire, in either role: whole messages, pings and the end.

wsproto encodes and decodes the frames. Compression is never used, so a message is as large as it is on the
wire. One task receives; any task may send. Every wait has a deadline: a peer that does not read is
disconnected after `write_seconds`. A silent peer gets a ping after `ping_seconds` and has the same time to
respond. A peer cannot make this side store more than `message_bytes`, or work without a pause.
"""

from collections.abc import Callable
from enum import IntEnum
from io import BytesIO, StringIO
from typing import Any

import trio
from msgspec import Struct
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from bluesminds.http.wire import Wire, WireClosed, WireTimeout

SEND_SLICE = 128 * 1024  # bytes that one write deadline covers
FRAMES_PER_YIELD = 64
MAX_FRAGMENTS = 4096  # frames of one message
MAX_CONTROL = 100  # control frames in CONTROL_SECONDS
CONTROL_SECONDS = 10.0
CLOSE_SECONDS = 2.0  # how long the peer may take to answer a close frame
CLOSE_BYTES = 8 * 1024 * 1024  # that are read and dropped meanwhile


class CloseCode(IntEnum):
    """Close codes of RFC 6455 and of its registry. NO_STATUS and ABNORMAL are never sent."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


class WebSocketClosed(Exception):
    """The peer has closed the WebSocket. `code`: NO_STATUS if it gave none, ABNORMAL if the connection ended
    or stalled without a close frame.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"the WebSocket was closed with code {code}")
        self.code = code
        self.reason = reason


class WebSocketViolation(Exception):
    """The peer has broken the protocol or a limit: close the WebSocket with `code` and `reason`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class WebSocketLimits(Struct, frozen=True):
    """Times are seconds. `message_bytes` is the longest message that is received."""

    message_bytes: int = 16 * 1024 * 1024
    ping_seconds: float = 20.0
    write_seconds: float = 60.0


def _ignore(size: int) -> None:
    """The default of `hold`."""


def _nothing() -> None:
    """The default of `ended`."""


class WebSocket:
    """`hold` is called with the size of each received part before it is kept; what it raises ends the
    `receive`. `ended` is called once, when the WebSocket can no longer be used.
    """

    __slots__ = (
        "_connection",
        "_control_count",
        "_control_since",
        "_decoded",
        "_ended",
        "_failed",
        "_fragments",
        "_hold",
        "_limits",
        "_parts",
        "_peer_close",
        "_pinged",
        "_pong",
        "_senders",
        "_sending",
        "_size",
        "_when_ended",
        "_wire",
        "_write_interrupted",
        "subprotocol",
    )

    def __init__(
        self,
        wire: Wire,
        connection: Connection,
        limits: WebSocketLimits,
        *,
        subprotocol: str | None = None,
        hold: Callable[[int], object] = _ignore,
        ended: Callable[[], object] = _nothing,
    ) -> None:
        """The owner of the wire enforces its deadlines and closes it."""
        self.subprotocol = subprotocol
        self._wire = wire
        self._connection = connection
        self._limits = limits
        self._hold = hold
        self._when_ended = ended
        self._ended = False
        self._failed = False  # nothing more can be decoded
        self._peer_close: CloseConnection | None = None
        self._parts: StringIO | BytesIO | None = None  # of the message that is arriving
        self._size = self._fragments = self._decoded = 0
        self._pinged = False  # a ping has not been answered by anything
        self._control_since = -CONTROL_SECONDS
        self._control_count = 0
        self._pong: Pong | None = None  # to be sent after the frame that is being sent
        self._sending = False
        self._write_interrupted = False  # half of a frame may have been sent
        self._senders = trio.lowlevel.ParkingLot()

    # Receiving

    async def receive(self) -> str | bytes:
        """The next message: str if it is text. A cancelled call may be repeated.

        Raises WebSocketClosed, WebSocketViolation, and what `hold` raises.
        """
        while True:
            match event := await self._next_event():
                case None:
                    await self._read()
                case TextMessage() | BytesMessage():
                    if (message := self._collect(event)) is not None:
                        return message
                case Ping():
                    self._count_control()
                    await self._send_pong(event.response())
                case CloseConnection(code=code, reason=reason):
                    self._failed = True
                    if self._connection.state is ConnectionState.OPEN:  # wsproto could not decode a frame
                        raise WebSocketViolation(code, reason or "")
                    self._peer_close = event
                    raise WebSocketClosed(code, reason or "")
                case _:
                    self._count_control()

    async def _next_event(self) -> Event | None:
        """The next event of the input; None if more input is needed."""
        if self._failed:
            raise WebSocketClosed(CloseCode.ABNORMAL)
        self._decoded += 1
        if not self._decoded % FRAMES_PER_YIELD:
            await trio.lowlevel.checkpoint()
        return next(self._connection.events(), None)

    async def _read(self) -> None:
        try:
            data = await self._wire.receive(trio.current_time() + self._limits.ping_seconds)
        except WireTimeout:
            if self._pinged:
                raise self._broken("it did not answer a ping") from None
            self._pinged = True
            await self._send_event(Ping())
            return
        except WireClosed:
            raise self._broken("the connection was lost") from None
        if not data:
            raise self._broken("the connection ended")
        self._pinged = False
        self._connection.receive_data(data)

    def _broken(self, reason: str) -> WebSocketClosed:
        self._failed = True
        return WebSocketClosed(CloseCode.ABNORMAL, reason)

    def _collect(self, event: TextMessage | BytesMessage) -> str | bytes | None:
        """Keep a part of a message. Returns the message when it is complete."""
        data: Any = event.data
        size = len(data)
        if isinstance(data, str) and not data.isascii():
            size = len(data.encode())
        self._size += size
        self._fragments += event.frame_finished
        if self._size > self._limits.message_bytes:
            raise self._violation(
                CloseCode.MESSAGE_TOO_BIG, f"a message is larger than {self._limits.message_bytes} bytes"
            )
        if self._fragments > MAX_FRAGMENTS:
            raise self._violation(
                CloseCode.MESSAGE_TOO_BIG, f"a message has more than {MAX_FRAGMENTS} fragments"
            )
        self._hold(size)
        if self._parts is None:
            if event.message_finished:
                self._size = self._fragments = 0
                return data if isinstance(data, str) else bytes(data)
            self._parts = StringIO(newline="") if isinstance(data, str) else BytesIO()
        parts: Any = self._parts
        parts.write(data)
        if not event.message_finished:
            return None
        self._parts = None
        self._size = self._fragments = 0
        message: str | bytes = parts.getvalue()
        return message

    def _count_control(self) -> None:
        now = trio.current_time()
        if now - self._control_since >= CONTROL_SECONDS:
            self._control_since, self._control_count = now, 0
        self._control_count += 1
        if self._control_count > MAX_CONTROL:
            raise self._violation(CloseCode.POLICY_VIOLATION, "too many pings")

    def _violation(self, code: int, reason: str) -> WebSocketViolation:
        self._failed = True
        self._parts = None
        return WebSocketViolation(code, reason)

    # Sending

    async def send(self, message: str | bytes) -> None:
        """Send a message in one frame. Raises WebSocketClosed. A cancelled call leaves the WebSocket unusable
        if half of the message has been sent.
        """
        if isinstance(message, str):
            await self._send_event(TextMessage(data=message))
        else:
            await self._send_event(BytesMessage(data=message))

    async def _send_pong(self, pong: Pong) -> None:
        """Answer a ping, at the latest after the frame that is being sent. Only the latest ping counts (RFC
        6455, section 5.5.3): the receiving task must not wait for a peer that does not read.
        """
        if self._sending:
            self._pong = pong
        else:
            await self._send_event(pong)

    async def _send_event(self, event: Event) -> None:
        while self._sending:
            await self._senders.park()
        self._sending = True
        try:
            await self._write(event)
            while self._pong is not None:
                pong, self._pong = self._pong, None
                await self._write(pong)
        finally:
            self._sending = False
            self._senders.unpark()

    async def _write(self, event: Event) -> None:
        is_close = isinstance(event, CloseConnection)
        if self._ended or self._write_interrupted or not (is_close or self._is_open):
            raise WebSocketClosed(CloseCode.ABNORMAL, "it is closed")
        view = memoryview(self._connection.send(event))
        self._write_interrupted = True
        try:
            for start in range(0, len(view), SEND_SLICE):
                await self._wire.send(view[start : start + SEND_SLICE], self._limits.write_seconds)
        except WireClosed:
            raise WebSocketClosed(CloseCode.ABNORMAL, "the connection was lost") from None
        except WireTimeout:
            raise WebSocketClosed(CloseCode.ABNORMAL, "it stopped reading") from None
        self._write_interrupted = False

    @property
    def _is_open(self) -> bool:
        return self._connection.state is ConnectionState.OPEN

    @property
    def _can_close(self) -> bool:
        """Whether a close frame can still be sent."""
        states = (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING)
        return not (self._ended or self._write_interrupted) and self._connection.state in states

    # The end

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, and wait CLOSE_SECONDS for the peer's; or answer the peer's. No other task may
        be receiving. Never raises an error; idempotent.
        """
        try:
            with trio.move_on_after(CLOSE_SECONDS):
                if self._can_close and self._peer_close is not None:
                    await self._send_event(self._peer_close.response())
                elif self._can_close:
                    await self._send_event(CloseConnection(code=_sendable(code), reason=reason))
                    await self._drain()
        except (WebSocketClosed, WireClosed, WireTimeout):
            pass
        finally:
            self._end()

    def abort(self, code: int, reason: str = "") -> None:
        """End now. A close frame is sent if that needs no waiting."""
        if self._can_close and not self._sending:
            event = CloseConnection(code=_sendable(code), reason=reason)
            self._wire.send_now(bytes(self._connection.send(event)))
        self._end()

    async def _drain(self) -> None:
        """Drop what arrives until the peer's close frame. Closing a socket with unread input would reset it,
        and the peer could lose the close frame.
        """
        limit = CLOSE_BYTES
        if self._failed:  # the peer's close frame could not be found
            self._wire.shutdown_write()
        while limit > 0:
            data = await self._wire.receive()
            limit -= len(data)
            if not data:
                return
            if not self._failed:
                self._connection.receive_data(data)
                while (event := await self._next_event()) is not None:
                    if isinstance(event, CloseConnection):
                        return

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._when_ended()


def _sendable(code: int) -> int:
    """RFC 6455, section 7.4.1: some codes may not be in a close frame."""
    return CloseCode.NORMAL if code in (CloseCode.NO_STATUS, CloseCode.ABNORMAL) else code
