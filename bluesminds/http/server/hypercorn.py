"""HTTP/2 (over TLS) and WebSockets through Hypercorn's own connection handler, behind a containment.

Hypercorn's Trio handler lets an error of one connection end the server, waits without limit for a client
that does not read and for an app that does not, buffers without limit on HTTP/2, breaks on DATA for a stream
it has answered, and leaves failed WebSocket handshakes open. Here requests have the limits, refusals and
`disconnect` extension of the HTTP/1.1 lane; what goes wrong in a stream ends that stream, and any other error
ends its connection, as does a wire that takes nothing for `write_timeout`. HTTP/2 carries no WebSockets.
"""

from typing import Any

import h2.exceptions
import h11
import trio
import wsproto.utilities
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from bluesminds.http.asgi import Scope
from bluesminds.http.server.exchange import ServerContext
from bluesminds.http.server.hypercorn_apps import Reset, SendTimeout, StreamTasks
from bluesminds.http.server.hypercorn_http2 import HTTP2
from bluesminds.http.server.request_parser import ParsedRequest
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

MAX_REQUESTS = 1_000_000  # per HTTP/2 connection; out of reach, as it cuts the streams under way

_CLIENT_FAULTS = (
    OSError,
    SendTimeout,
    h11.ProtocolError,
    h2.exceptions.H2Error,
    wsproto.utilities.ProtocolError,
)


class Hypercorn:
    """The hand-over point of one server."""

    def __init__(self, lane: ServerContext) -> None:
        self._lane = lane
        self._context = WorkerContext(None)
        config = self._config = Config()
        config.accesslog = config.errorlog = None
        config.include_server_header = False
        config.keep_alive_timeout = lane.limits.idle_timeout
        config.keep_alive_max_requests = MAX_REQUESTS
        config.h11_max_incomplete_size = config.h2_max_header_list_size = lane.limits.header_bytes
        config.websocket_max_message_size = lane.limits.body_bytes

    async def terminate(self) -> None:
        """Draining has begun: idle connections close, busy ones after their last stream."""
        await self._context.terminated.set()

    async def http2(self, wire: Wire, base: Scope) -> None:
        """Serve one TLS connection that has agreed on h2, until its end."""
        await self._serve(wire, base, "h2", b"")

    async def websocket(self, wire: Wire, base: Scope, request: ParsedRequest, leftover: bytes) -> None:
        """Serve one WebSocket, whose request has been read with `leftover` after it, until its end."""
        _, raw_path, query = request.target
        lines = [b"GET %b%b HTTP/1.1\r\n" % (raw_path, b"?" + query if query else b"")]
        lines += [b"%b: %b\r\n" % header for header in request.headers]
        await self._serve(wire, base, "http/1.1", b"%b\r\n%b" % (b"".join(lines), leftover))

    async def _serve(self, wire: Wire, base: Scope, alpn: str, prefix: bytes) -> None:
        stream = _WireStream(wire, prefix, self._lane)
        handler = _Handler(self._lane, self._config, self._context, stream, base, alpn)
        try:
            await handler.run()
        except _CLIENT_FAULTS:
            self._lane.stats.disconnects += 1
        except ExceptionGroup as group:
            rest = group.split(_CLIENT_FAULTS)[1]
            if rest is None:
                self._lane.stats.disconnects += 1
            else:
                self._lane.on_error(rest)


class _WireStream:
    """A wire in the shape of the Trio stream that Hypercorn expects."""

    def __init__(self, wire: Wire, prefix: bytes, lane: ServerContext) -> None:
        self._wire = wire
        self._prefix = prefix
        self._lane = lane
        self._closed = False

    async def receive_some(self, max_bytes: int) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        if self._prefix:
            prefix, self._prefix = self._prefix, b""
            return prefix
        try:
            return await self._wire.receive()
        except (WireClosed, WireTimeout):
            raise trio.BrokenResourceError from None

    async def send_all(self, data: bytes) -> None:
        try:
            await self._wire.send(data, trio.current_time() + self._lane.limits.write_timeout)
        except WireClosed:
            raise trio.BrokenResourceError from None
        except WireTimeout:
            self._lane.stats.refused["write_timeout"] += 1
            raise SendTimeout from None

    async def send_eof(self) -> None:
        self._wire.finish()

    async def aclose(self) -> None:
        self._closed = True
        self._wire.close()


class _Handler(TCPServer):
    """Hypercorn's connection handler with bounded waits; its errors leave `run` and are contained there."""

    def __init__(
        self,
        lane: ServerContext,
        config: Config,
        context: WorkerContext,
        stream: _WireStream,
        base: Scope,
        alpn: str,
    ) -> None:
        super().__init__(ASGIWrapper(lane.app), config, context, lane.state, stream)  # type: ignore[arg-type]
        self._lane = lane
        self._base = base
        self._alpn = alpn
        self._torn = False

    async def run(self) -> None:
        apps = StreamTasks(self._lane)
        async with apps:
            self._task_group = apps
            self.protocol = self._make_protocol(apps)
            await self.protocol.initiate()
            await self.idle_task.restart(apps, self._idle_timeout)
            try:
                await self._read_data()
            finally:
                apps.end()

    def _make_protocol(self, apps: "StreamTasks") -> ProtocolWrapper:
        parts: tuple[Any, ...] = (
            self.app,
            self.config,
            self.context,
            apps,
            self.state,
            self._base["scheme"] == "https",
            self._base["client"],
            self._base["server"],
            self.protocol_send,
        )
        protocol = ProtocolWrapper(*parts)
        protocol.protocol = HTTP2(*parts) if self._alpn == "h2" else _WebSocket(*parts)
        return protocol

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            if self._torn:
                raise SendTimeout
            self._torn = True  # until all of it is out: a send that is cancelled half-way ends the connection
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
            self._torn = False

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
        if isinstance(self.protocol.protocol, HTTP2):
            await self.protocol.protocol.write_out()
        await self.stream.aclose()


class _WebSocket(H11Protocol):
    """Ends the connection when Hypercorn has given up on its WebSocket."""

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, RawData) and self.stream is not None and self.stream.closed:
            await self.send(Closed())

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Reset):
            raise SendTimeout
        await super().stream_send(event)
