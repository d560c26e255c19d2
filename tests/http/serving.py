"""A real server on a free port and a raw client, for the tests of the listener."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import h11
import trio

from bluesminds.common.networks import Networks
from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send
from bluesminds.http.server.rejections import Rejection
from bluesminds.http.server.serve import ListenerLimits, ListenerStats, bind_tcp, serve

HOST = b"Host: test\r\n"
PATIENT = ListenerLimits(
    header_timeout=3600,
    body_timeout=3600,
    write_timeout=3600,
    idle_timeout=3600,
    drain_timeout=3600,
    handshake_timeout=3600,
)
_PAUSE = threading.Event()


def patient(**changes: Any) -> ListenerLimits:
    """Limits whose timeouts do not fire during a test, except those given."""
    return replace(PATIENT, **changes)


@dataclass
class Served:
    port: int
    stats: ListenerStats
    errors: list[BaseException]
    shutdown: trio.Event
    rejections: list[tuple[str, Rejection, str, int]] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    def connect_sending(self, data: bytes) -> trio.SocketStream:
        """The data arrives before the server can accept the connection."""
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.sendall(data)
        sock.setblocking(False)
        return trio.SocketStream(trio.socket.from_stdlib_socket(sock))

    async def ask(self, data: bytes) -> bytes:
        """Send, and read to the end of the connection."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(data)
            return await read_all(stream)


async def start(
    nursery: trio.Nursery,
    app: ASGIApp,
    limits: ListenerLimits | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    http2: bool = False,
    proxies: Networks | None = None,
) -> Served:
    sockets = bind_tcp("127.0.0.1", 0)
    served = Served(sockets[0].getsockname()[1], ListenerStats(), [], trio.Event())

    async def run(task_status: trio.TaskStatus[list[Any]]) -> None:
        await serve(
            app,
            sockets,
            limits or PATIENT,
            tls=tls,
            http2=http2,
            proxies=proxies,
            on_error=served.errors.append,
            on_rejection=lambda *reported: served.rejections.append(reported),
            shutdown=served.shutdown,
            stats=served.stats,
            task_status=task_status,
        )
        served.ended.set()

    await nursery.start(run)
    return served


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait up to 60 s of real time for a condition that no event reports; works with a mock clock too."""
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "the condition did not come true within 60 s"
        await trio.to_thread.run_sync(_PAUSE.wait, 0.005)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Read to the end, or to a reset."""
    data = bytearray()
    try:
        while piece := await stream.receive_some(65536):
            data += piece
    except trio.BrokenResourceError:
        pass
    return bytes(data)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool


class Client:
    """Reads responses with h11, an independent parser."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        await self.stream.send_all(data)
        return await self.read(method)

    async def read(self, method: str = "GET") -> Answer:
        """The response to a request that has been sent as bytes."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
        self._h11.send(h11.Request(method=method, target="/", headers=[("host", "test")]))
        self._h11.send(h11.EndOfMessage())
        status, headers, body = 0, {}, b""
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, headers, body, True)
            elif event is h11.ConnectionClosed or isinstance(event, h11.ConnectionClosed):
                return Answer(status, headers, body, False)

    async def _event(self) -> Any:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError:
                return h11.ConnectionClosed()
            if event is not h11.NEED_DATA:
                return event
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                return h11.ConnectionClosed()
            self._h11.receive_data(bytes(data))


async def body_of(receive: Receive) -> bytes | None:
    """The complete body; None after a disconnect."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def answer(send: Send, body: bytes = b"ok", status: int = 200, headers: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


def app_of(handler: Callable[[Scope, Receive, Send], Any]) -> ASGIApp:
    """An app without a lifespan."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await handler(scope, receive, send)

    return app


@app_of
async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(
        send, b"%b %b %b" % (scope["method"].encode(), scope["raw_path"], await body_of(receive) or b"")
    )
