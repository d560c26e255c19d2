"""An upstream that sends arbitrary bytes: a script runs for each accepted connection.

    upstream = await nursery.start(serve, script)

A script gets a Peer. It may raise no exception. It ends without an error when the client disconnects.
"""

import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio


@dataclass(frozen=True, slots=True)
class Received:
    """One received request. head: all bytes up to and including the empty line."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    def values(self, name: bytes) -> list[bytes]:
        """The values of every header line with this name."""
        pairs = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip() for key, _, value in pairs if key.lower() == name]


class _Gathered(trio.abc.Stream):
    """Collects the bytes that a TLS stream sends."""

    def __init__(self) -> None:
        self.data = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self.data += data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await trio.sleep_forever()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Peer:
    """The server's end of one connection."""

    def __init__(self, stream: trio.abc.Stream, sock: trio.socket.SocketType, upstream: "Upstream") -> None:
        self._stream = stream
        self._sock = sock
        self._upstream = upstream
        self._buffer = b""
        self.number = upstream.accepted  # 1 for the first connection

    async def head(self) -> bytes:
        """The next request's head; raises EOFError when the client closes instead."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    async def request(self) -> Received:
        """The next complete request. It is added to `Upstream.requests`."""
        head = await self.head()
        received = Received(head, b"")
        if received.values(b"transfer-encoding") == [b"chunked"]:
            body = await self._chunked()
        else:
            lengths = received.values(b"content-length")
            body = await self._exactly(int(lengths[0]) if lengths else 0)
        received = Received(head, body)
        self._upstream.requests.append(received)
        return received

    async def take(self, count: int) -> bytes:
        """The next bytes, after the head, as they are sent. Raises EOFError when fewer come."""
        return await self._exactly(count)

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_together(self, *pieces: bytes) -> None:
        """Send each piece in a separate TLS record, and all of them in one system call."""
        assert isinstance(self._stream, trio.SSLStream)
        transport = self._stream.transport_stream
        gathered = _Gathered()
        self._stream.transport_stream = gathered
        for piece in pieces:
            await self._stream.send_all(piece)
        self._stream.transport_stream = transport
        await transport.send_all(gathered.data)

    async def answer(self, body: bytes = b"ok", *headers: bytes, status: bytes = b"200 OK") -> None:
        lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    async def begin_chunked(self, *headers: bytes) -> None:
        lines = [b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", *headers]
        await self.send(b"\r\n".join(lines) + b"\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def close(self) -> None:
        await self._stream.aclose()

    def reset(self) -> None:
        """Close the connection with RST. Unsent data is lost."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    async def receive_some(self) -> bytes:
        """What has arrived after a head; b"" when the client has closed."""
        data, self._buffer = self._buffer, b""
        return data or bytes(await self._stream.receive_some(65536))

    async def wait_closed(self) -> None:
        """Read and discard until the client closes the connection."""
        try:
            while True:
                await self._more()
                self._buffer = b""
        except EOFError:
            return

    async def _more(self) -> None:
        data = await self._stream.receive_some(65536)
        if not data:
            raise EOFError
        self._buffer += data

    async def _exactly(self, count: int) -> bytes:
        parts = []
        while count > 0:
            if not self._buffer:
                await self._more()
            parts.append(self._buffer[:count])
            self._buffer = self._buffer[count:]
            count -= len(parts[-1])
        return b"".join(parts)

    async def _chunked(self) -> bytes:
        parts = []
        while True:
            while b"\r\n" not in self._buffer:
                await self._more()
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            parts.append(await self._exactly(int(size, 16)))
            await self._exactly(2)
            if not parts[-1]:
                return b"".join(parts)


Script = Callable[[Peer], Awaitable[None]]


@dataclass(slots=True)
class Upstream:
    """What the server saw. port: 0 on a Unix socket. open: connections not yet closed by either end."""

    port: int
    accepted: int = 0
    open: int = 0
    requests: list[Received] = field(default_factory=list)
    _closing: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            await self._closing.park()

    def opened(self) -> None:
        self.open += 1

    def closed(self) -> None:
        self.open -= 1
        self._closing.unpark_all()


async def serve(
    script: Script,
    *,
    tls: ssl.SSLContext | None = None,
    path: str | None = None,
    task_status: trio.TaskStatus[Upstream],
) -> None:
    """Serve on a free loopback port, or a Unix socket at `path`, until cancelled."""
    listening = trio.socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    await listening.bind(("127.0.0.1", 0) if path is None else path)
    listening.listen(1024)
    upstream = Upstream(listening.getsockname()[1] if path is None else 0)
    with listening:
        async with trio.open_nursery() as nursery:
            task_status.started(upstream)
            while True:
                accepted, _ = await listening.accept()
                upstream.accepted += 1
                nursery.start_soon(_play, script, accepted, tls, upstream)


async def _play(
    script: Script, sock: trio.socket.SocketType, tls: ssl.SSLContext | None, upstream: Upstream
) -> None:
    stream: trio.abc.Stream = trio.SocketStream(sock)
    if tls is not None:
        stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
    upstream.opened()
    try:
        await script(Peer(stream, sock, upstream))
    except (EOFError, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        sock.close()
        upstream.closed()


async def always_ok(peer: Peer) -> None:
    """Answer every request on a connection with 200 and its own body."""
    while True:
        received = await peer.request()
        await peer.answer(received.body or b"ok")


async def silent(peer: Peer) -> None:
    """Accept, read, and never answer."""
    await peer.wait_closed()
