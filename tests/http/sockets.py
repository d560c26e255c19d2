"""A raw WebSocket client for tests, on wsproto.

client = await SocketClient.open(stream, "/v1/realtime?model=m", headers=[...])
assert client.status == 101
await client.send("text")
assert await client.receive() == "text"
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import trio
import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + KEY + b"\r\n%b\r\n"
)


@dataclass(frozen=True)
class Closed:
    """How the server has closed the WebSocket. 1006: without a close frame."""

    code: int
    reason: str = ""


@dataclass
class SocketClient:
    """`status`: of the response to the handshake; `headers` and `body` are its. Pings are answered while
    `answers_pings` is set; `pongs` are the payloads of the server's pongs.
    """

    stream: trio.abc.Stream
    connection: wsproto.WSConnection
    status: int = 0
    subprotocol: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    answers_pings: bool = True
    pings: int = 0
    pongs: list[bytes] = field(default_factory=list)
    closed: Closed | None = None
    _events: list[Event] = field(default_factory=list)

    @classmethod
    async def open(
        cls,
        stream: trio.abc.Stream,
        target: str = "/",
        *,
        headers: Iterable[tuple[str, str]] = (),
        subprotocols: Iterable[str] = (),
    ) -> Self:
        """Send a handshake and read the response."""
        client = cls(stream, wsproto.WSConnection(wsproto.ConnectionType.CLIENT))
        fields = [(name.encode(), value.encode()) for name, value in headers]
        request = Request(host="test", target=target, subprotocols=list(subprotocols), extra_headers=fields)
        await stream.send_all(client.connection.send(request))
        await client._read_response()
        return client

    async def _read_response(self) -> None:
        while True:
            match await self._event():
                case AcceptConnection(subprotocol=subprotocol, extra_headers=headers):
                    self.status, self.subprotocol = 101, subprotocol
                    self.headers = _text(headers)
                    return
                case RejectConnection(status_code=status, headers=headers):
                    self.status, self.headers = status, _text(headers)
                case RejectData(data=data, body_finished=finished):
                    self.body += data
                    if finished:
                        return
                case CloseConnection():
                    return

    async def send(self, message: str | bytes) -> None:
        event = TextMessage(data=message) if isinstance(message, str) else BytesMessage(data=message)
        await self.stream.send_all(self.connection.send(event))

    async def send_raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ping(self, payload: bytes = b"") -> None:
        await self.stream.send_all(self.connection.send(Ping(payload=payload)))

    async def receive(self) -> str | bytes | Closed:
        """The next message, or how the server has closed."""
        parts: list[Any] = []
        while True:
            event = await self._event()
            if isinstance(event, CloseConnection):
                return await self._close_received(event)
            if isinstance(event, Ping):
                self.pings += 1
                if self.answers_pings:
                    await self.stream.send_all(self.connection.send(event.response()))
            elif isinstance(event, Pong):
                self.pongs.append(bytes(event.payload))
            elif isinstance(event, TextMessage | BytesMessage):
                parts.append(event.data)
                if event.message_finished:
                    return parts[0][:0].join(parts)  # type: ignore[no-any-return]

    async def receive_closed(self) -> Closed:
        """Drop messages until the server closes."""
        while not isinstance(got := await self.receive(), Closed):
            pass
        return got

    async def close(self, code: int = 1000, reason: str = "") -> Closed:
        """Close, and wait for the close frame of the server."""
        await self.stream.send_all(self.connection.send(CloseConnection(code=code, reason=reason)))
        return await self.receive_closed()

    async def _close_received(self, event: CloseConnection) -> Closed:
        self.closed = Closed(int(event.code), event.reason or "")
        if self.connection.state is wsproto.ConnectionState.REMOTE_CLOSING:
            try:
                await self.stream.send_all(self.connection.send(event.response()))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
        return self.closed

    async def _event(self) -> Event:
        while not self._events:
            try:
                data = bytes(await self.stream.receive_some(65536))
            except trio.BrokenResourceError:
                data = b""
            self.connection.receive_data(data or None)
            self._events = list(self.connection.events())
            if not data and not self._events:
                return CloseConnection(code=1006)
        return self._events.pop(0)


def frame(payload: bytes, opcode: int = 1, *, fin: bool = True, masked: bool = True, rsv: int = 0) -> bytes:
    """The bytes of one frame of a client. The mask is zero, so the payload is as given."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {bytes(name).decode().lower(): bytes(value).decode() for name, value in headers}
