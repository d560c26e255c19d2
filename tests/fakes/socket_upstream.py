"""A server with WebSockets: a script runs for each of them.

    upstream = await nursery.start(socket_upstream.serve, script)

A script gets a ServerSocket after the handshake. `responses` are ordinary responses that the next handshakes
get instead, as the bytes to send, or an Event to wait for without a response.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio
import wsproto
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received, Upstream

Script = Callable[["ServerSocket"], Awaitable[None]]


@dataclass(slots=True)
class SocketUpstream:
    """`handshakes`: all requests for a WebSocket. `closed` and `reasons`: how clients have closed; 1006 for a
    lost connection. `sockets`: those that are open.
    """

    script: Script
    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    handshakes: list[Received] = field(default_factory=list)
    responses: deque[bytes | trio.Event] = field(default_factory=deque)
    closed: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    subprotocol: str | None = None
    sockets: set["ServerSocket"] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}/v1"

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            if not received.values(b"upgrade"):
                await peer.answer(b'{"object":"list","data":[]}', b"Content-Type: application/json")
                continue
            self.handshakes.append(received)
            if self.responses:
                response = self.responses.popleft()
                if isinstance(response, bytes):
                    await peer.send(response)
                    await peer.close()
                else:
                    await response.wait()
                return
            await self._talk(peer, received)
            return

    async def _talk(self, peer: Peer, received: Received) -> None:
        connection = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        connection.receive_data(received.head)
        list(connection.events())
        await peer.send(connection.send(AcceptConnection(subprotocol=self.subprotocol)))
        socket = ServerSocket(peer, connection, self)
        self.sockets.add(socket)
        try:
            await self.script(socket)
            await socket.close()
        except SocketGone:
            pass
        finally:
            self.sockets.discard(socket)
            self.closed.append(1006 if socket.code is None else socket.code)
            self.reasons.append(socket.reason)


class SocketGone(Exception):
    """The client has closed the WebSocket or left."""


@dataclass(eq=False)
class ServerSocket:
    """The server's end. Pings are answered unless `deaf`. `code` and `reason`: how the client has closed."""

    peer: Peer
    connection: wsproto.WSConnection
    server: SocketUpstream
    deaf: bool = False
    pings: int = 0
    code: int | None = None
    reason: str = ""
    received: list[Any] = field(default_factory=list)
    _events: deque[Event] = field(default_factory=deque)

    async def receive(self) -> Any:
        """The next message; text is decoded as JSON. Raises SocketGone."""
        parts: list[Any] = []
        while True:
            event = await self._event()
            if isinstance(event, CloseConnection):
                self.code, self.reason = int(event.code), event.reason or ""
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    await self._send(event.response())
                    await self.peer.close()
                raise SocketGone
            if isinstance(event, Ping):
                self.pings += 1
                if not self.deaf:
                    await self._send(event.response())
            elif isinstance(event, TextMessage | BytesMessage):
                parts.append(event.data)
                if event.message_finished:
                    whole = parts[0][:0].join(parts)
                    self.received.append(msgspec.json.decode(whole) if isinstance(whole, str) else whole)
                    return self.received[-1]
            else:
                assert isinstance(event, Pong)

    async def send(self, message: Any) -> None:
        """A dict is sent as JSON text, a str as text, and bytes as a binary message."""
        if isinstance(message, bytes):
            await self._send(BytesMessage(data=message))
        else:
            text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
            await self._send(TextMessage(data=text))

    async def send_raw(self, data: bytes) -> None:
        await self.peer.send(data)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close, and wait for the client's close frame."""
        await self._send(CloseConnection(code=code, reason=reason))
        while True:
            await self.receive()

    async def _send(self, event: Event) -> None:
        try:
            await self.peer.send(self.connection.send(event))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise SocketGone from None

    async def _event(self) -> Event:
        while not self._events:
            try:
                data = await self.peer.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise SocketGone
            self.connection.receive_data(data)
            self._events.extend(self.connection.events())
        return self._events.popleft()


async def serve(script: Script, *, task_status: trio.TaskStatus[SocketUpstream]) -> None:
    """Serve on a free loopback port until cancelled."""
    server = SocketUpstream(script)
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)


async def echo(socket: ServerSocket) -> None:
    """Send every message back."""
    while True:
        await socket.send(await socket.receive())
