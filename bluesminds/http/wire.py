"""One connected byte stream, plain or TLS, with deadlines and no hidden checkpoints.

`receive` always waits for the kernel first, so every read is a scheduling point and read loops are fair.
`send` tries the kernel first and yields only when its buffer is full: most responses take one system call.
Reading and writing have one deadline each (see deadlines.py). A wait that expires raises WireTimeout; the
socket stays open and the other wait continues, except that TLS cannot be used after an interrupted send.
Every other end of the connection raises WireClosed.
"""

import contextlib
import math
import socket
import struct
from typing import Protocol

import trio

from bluesminds.http.deadlines import NEVER

RECEIVE_BYTES = 65536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
EXPIRED = -math.inf


class WireClosed(Exception):
    """The peer reset the connection, or this side closed it."""


class WireTimeout(Exception):
    """A wait passed its deadline."""


class _Descriptor(Protocol):
    def fileno(self) -> int: ...


class Wire(Protocol):
    """Both wires are Watched; the deadlines belong to the receive and the send in progress, else NEVER."""

    read_deadline: float
    write_deadline: float

    async def receive(self, deadline: float = NEVER) -> bytes:
        """The next bytes, at most RECEIVE_BYTES; b"" when the peer has finished sending."""

    async def send(self, data: bytes | bytearray | memoryview, seconds: float = NEVER) -> None:
        """Pass all of data to the kernel within `seconds`."""

    def send_now(self, data: bytes) -> None:
        """Send without waiting; what the kernel does not accept is dropped."""

    def pending(self) -> bool:
        """Whether bytes have left the kernel that `receive` has not returned yet."""

    def fileno(self) -> int: ...

    def expire(self) -> None:
        """Wake both waits; those past their deadline raise WireTimeout."""

    def abort_waits(self) -> None:
        """End both waits with WireTimeout now."""

    def shutdown_write(self) -> None:
        """Half-close: nothing more is sent, receiving continues. TLS cannot do this without waiting."""

    def close(self) -> None:
        """Close at once, waking any waiter with WireClosed. Idempotent."""

    def abort(self) -> None:
        """Close with a TCP reset; data that the kernel still holds is dropped."""


class SocketWire:
    """A wire over a connected, non-blocking stream socket (TCP or Unix), which it owns."""

    __slots__ = ("__weakref__", "_sock", "read_deadline", "write_deadline")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.read_deadline = self.write_deadline = NEVER

    async def receive(self, deadline: float = NEVER) -> bytes:
        sock = self._sock
        self.read_deadline = deadline
        try:
            while True:
                try:
                    await trio.lowlevel.wait_readable(sock)
                    return sock.recv(RECEIVE_BYTES)
                except (BlockingIOError, InterruptedError):
                    continue
                except trio.ClosedResourceError as exc:
                    _check_woken(sock, self.read_deadline, exc)
        except (OSError, ValueError) as exc:
            raise WireClosed from exc
        finally:
            self.read_deadline = NEVER

    async def send(self, data: bytes | bytearray | memoryview, seconds: float = NEVER) -> None:
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except (OSError, ValueError) as exc:
            raise WireClosed from exc
        if sent < len(data):
            await self._send_rest(memoryview(data)[sent:], trio.current_time() + seconds)

    async def _send_rest(self, rest: memoryview, deadline: float) -> None:
        sock = self._sock
        self.write_deadline = deadline
        try:
            while rest:
                try:
                    await trio.lowlevel.wait_writable(sock)
                    rest = rest[sock.send(rest) :]
                except (BlockingIOError, InterruptedError):
                    continue
                except trio.ClosedResourceError as exc:
                    _check_woken(sock, self.write_deadline, exc)
        except (OSError, ValueError) as exc:
            raise WireClosed from exc
        finally:
            self.write_deadline = NEVER

    def send_now(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._sock.send(data)

    def pending(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._sock.fileno()

    def expire(self) -> None:
        trio.lowlevel.notify_closing(self._sock)

    def abort_waits(self) -> None:
        self.read_deadline = self.write_deadline = EXPIRED
        self.expire()

    def shutdown_write(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.close()


class TLSWire:
    """A wire over trio's SSLStream. The caller does the handshake, under its own deadline."""

    __slots__ = ("__weakref__", "_socket", "_stream", "read_deadline", "write_deadline")

    def __init__(self, stream: "trio.SSLStream[trio.SocketStream]") -> None:
        self._stream = stream
        self._socket = stream.transport_stream.socket
        self.read_deadline = self.write_deadline = NEVER

    async def receive(self, deadline: float = NEVER) -> bytes:
        self.read_deadline = deadline
        try:
            while True:
                try:
                    return bytes(await self._stream.receive_some(RECEIVE_BYTES))
                except trio.ClosedResourceError as exc:
                    _check_woken(self._socket, self.read_deadline, exc)
                    await trio.lowlevel.checkpoint()
        except trio.BrokenResourceError as exc:
            raise WireClosed from exc
        finally:
            self.read_deadline = NEVER

    async def send(self, data: bytes | bytearray | memoryview, seconds: float = NEVER) -> None:
        self.write_deadline = trio.current_time() + seconds
        try:
            await self._stream.send_all(data)
        except trio.ClosedResourceError as exc:
            _check_woken(self._socket, self.write_deadline, exc)
            raise WireClosed from exc  # how much was sent is not known
        except trio.BrokenResourceError as exc:
            raise WireClosed from exc
        finally:
            self.write_deadline = NEVER

    def send_now(self, data: bytes) -> None:
        """Sends nothing: TLS cannot encrypt and send without waiting."""

    def pending(self) -> bool:
        # A read takes all records that have arrived and returns the first; trio keeps the rest privately.
        return bool(self._stream.pending() or self._stream._incoming.pending)

    def fileno(self) -> int:
        return self._socket.fileno()

    def expire(self) -> None:
        trio.lowlevel.notify_closing(self._socket)

    def abort_waits(self) -> None:
        self.read_deadline = self.write_deadline = EXPIRED
        self.expire()

    def shutdown_write(self) -> None:
        """See Wire."""

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.close()


def _check_woken(sock: _Descriptor, deadline: float, cause: Exception) -> None:
    """Raise the error that woke a wait; return if only the other wait has expired."""
    if sock.fileno() < 0:
        raise WireClosed from cause
    if deadline <= trio.current_time():
        raise WireTimeout from cause
