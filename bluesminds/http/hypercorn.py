"""HTTP/2 (over TLS) and WebSockets through Hypercorn's own connection handler, behind a containment.

Hypercorn's Trio handler lets an error of one connection end the server, waits without limit for a client
that does not read and for an app that does not, buffers without limit on HTTP/2, breaks on DATA for a stream
it has answered, and leaves failed WebSocket handshakes open. Here every wait has the lane's limits, an app's
errors are reported and end its own stream, any other error ends its connection, and requests carry the same
`disconnect` extension and body limit as on the HTTP/1.1 lane.
"""

import contextlib
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import h11
import trio
import wsproto.utilities
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import Body, Data
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from bluesminds.http.asgi import Scope
from bluesminds.http.exchange import Lane
from bluesminds.http.hypercorn_apps import Apps, Stalled
from bluesminds.http.intake import Inbound
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

MAX_REQUESTS = 1_000_000  # per HTTP/2 connection; out of reach, as it cuts the streams under way
FREE_RESETS = 200  # streams that a client may reset before it is held to one reset for two requests

_CLIENT_FAULTS = (
    OSError,
    Stalled,
    h11.ProtocolError,
    h2.exceptions.H2Error,
    wsproto.utilities.ProtocolError,
)


class Hypercorn:
    """The hand-over point of one server."""

    def __init__(self, lane: Lane) -> None:
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

    async def websocket(self, wire: Wire, base: Scope, request: Inbound, leftover: bytes) -> None:
        """Serve one WebSocket, whose request has been read with `leftover` after it, until its end."""
        _, raw_path, query = request.target
        lines = [b"GET %b%b HTTP/1.1\r\n" % (raw_path, b"?" + query if query else b"")]
        lines += [b"%b: %b\r\n" % header for header in request.headers]
        await self._serve(wire, base, "http/1.1", b"%b\r\n%b" % (b"".join(lines), leftover))

    async def _serve(self, wire: Wire, base: Scope, alpn: str, prefix: bytes) -> None:
        stream = _WireStream(wire, prefix, self._lane.limits.write_timeout)
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

    def __init__(self, wire: Wire, prefix: bytes, write_timeout: float) -> None:
        self._wire = wire
        self._prefix = prefix
        self._write_timeout = write_timeout
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
            await self._wire.send(data, trio.current_time() + self._write_timeout)
        except (WireClosed, WireTimeout):
            raise trio.BrokenResourceError from None

    async def send_eof(self) -> None:
        self._wire.finish()

    async def aclose(self) -> None:
        self._closed = True
        self._wire.close()


class _Handler(TCPServer):
    """Hypercorn's connection handler with bounded waits; its errors leave `run` and are contained there."""

    def __init__(
        self, lane: Lane, config: Config, context: WorkerContext, stream: _WireStream, base: Scope, alpn: str
    ) -> None:
        super().__init__(ASGIWrapper(lane.app), config, context, lane.state, stream)  # type: ignore[arg-type]
        self._lane = lane
        self._base = base
        self._alpn = alpn
        self._torn = False

    async def run(self) -> None:
        apps = Apps(self._lane)
        async with apps:
            self._task_group = apps
            self.protocol = self._make_protocol(apps)
            await self.protocol.initiate()
            await self.idle_task.restart(apps, self._idle_timeout)
            try:
                await self._read_data()
            finally:
                apps.end()

    def _make_protocol(self, apps: "Apps") -> ProtocolWrapper:
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
        protocol.protocol = _HTTP2(*parts) if self._alpn == "h2" else _WebSocket(*parts)
        return protocol

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            if self._torn:
                raise Stalled
            self._torn = True  # until all of it is out: a send that is cancelled half-way ends the connection
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
            self._torn = False

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
        await self.stream.aclose()


class _WebSocket(H11Protocol):
    """Ends the connection when Hypercorn has given up on its WebSocket."""

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, RawData) and self.stream is not None and self.stream.closed:
            await self.send(Closed())


class _HTTP2(H2Protocol):
    """Holds a sender until its piece has left, forgives DATA for answered streams, tells requests when theirs
    is reset, and bounds resets.
    """

    _resets = 0

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            for buffer in list(self.stream_buffers.values()):
                await buffer.close()

    async def stream_send(self, event: StreamEvent) -> None:
        await super().stream_send(event)
        buffer = self.stream_buffers.get(event.stream_id)
        if buffer is not None and isinstance(event, (Body, Data)):
            await buffer.drain()

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                await self._flush()
                continue
            if isinstance(event, h2.events.StreamReset):
                self._resets += 1
                if self._resets > FREE_RESETS + self.keep_alive_requests // 2:
                    raise Stalled
            await super()._handle_events([event])

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        path = next((value for name, value in request.headers if name == b":path"), b"")
        if path.isascii() and path.startswith((b"/", b"*")):
            await super()._create_stream(request)
        else:
            self.connection.reset_stream(request.stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            self._resets += 1

    async def _close_stream(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if isinstance(stream, HTTPStream) and stream.state is not ASGIHTTPState.CLOSED:
            disconnect = stream.scope["extensions"].get("disconnect")
            if disconnect is not None:
                disconnect.fire()  # type: ignore[attr-defined]
        await super()._close_stream(stream_id)
