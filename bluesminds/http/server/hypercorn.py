"""HTTP/2 (over TLS) through Hypercorn's connection handler, with added limits.

Hypercorn's Trio handler lets an error of one connection end the process, waits without limit for a client or
an app that does not read, buffers HTTP/2 without limit, and fails on DATA for a stream it has answered. Here
requests have the limits, rejections and `disconnect` extension of HTTP/1.1. An error in a stream ends that
stream; any other error ends its connection, as does a client that reads nothing for `write_timeout`.
WebSockets over HTTP/2 are not supported.
"""

from typing import Any

import h2.exceptions
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from bluesminds.http.asgi import Scope
from bluesminds.http.server.exchange import ServerContext
from bluesminds.http.server.hypercorn_apps import SendTimeout, StreamTasks
from bluesminds.http.server.hypercorn_http2 import HTTP2Protocol
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

MAX_REQUESTS = (
    1_000_000  # per HTTP/2 connection; never reached, because Hypercorn then ends streams in progress
)

_CLIENT_FAULTS = (OSError, SendTimeout, h2.exceptions.H2Error)


class Hypercorn:
    """Passes connections of one listener to Hypercorn."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._context = WorkerContext(None)
        config = self._config = Config()
        config.accesslog = config.errorlog = None
        config.include_server_header = False
        config.keep_alive_timeout = server.limits.idle_timeout
        config.keep_alive_max_requests = MAX_REQUESTS
        config.h2_max_header_list_size = server.limits.header_bytes

    async def terminate(self) -> None:
        """Draining has started: idle connections close now, others after their last stream."""
        await self._context.terminated.set()

    async def http2(self, wire: Wire, base: Scope) -> None:
        """Serve one TLS connection that has negotiated h2, until its end."""
        stream = _WireStream(wire, self._server)
        handler = _Handler(self._server, self._config, self._context, stream, base)
        try:
            await handler.run()
        except _CLIENT_FAULTS:
            self._server.stats.disconnects += 1
        except ExceptionGroup as group:
            remaining = group.split(_CLIENT_FAULTS)[1]
            if remaining is None:
                self._server.stats.disconnects += 1
            else:
                self._server.on_error(remaining)


class _WireStream:
    """Adapts a wire to the Trio stream that Hypercorn expects."""

    def __init__(self, wire: Wire, server: ServerContext) -> None:
        self._wire = wire
        self._server = server
        self._closed = False

    async def receive_some(self, max_bytes: int) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        try:
            return await self._wire.receive()
        except (WireClosed, WireTimeout):
            raise trio.BrokenResourceError from None

    async def send_all(self, data: bytes) -> None:
        try:
            await self._wire.send(data, self._server.limits.write_timeout)
        except WireClosed:
            raise trio.BrokenResourceError from None
        except WireTimeout:
            self._server.stats.refused["write_timeout"] += 1
            raise SendTimeout from None

    async def send_eof(self) -> None:
        self._wire.shutdown_write()

    async def aclose(self) -> None:
        self._closed = True
        self._wire.close()


class _Handler(TCPServer):
    """Hypercorn's connection handler with bounded waits. `run` raises its errors."""

    def __init__(
        self,
        server: ServerContext,
        config: Config,
        context: WorkerContext,
        stream: _WireStream,
        base: Scope,
    ) -> None:
        super().__init__(ASGIWrapper(server.app), config, context, server.state, stream)  # type: ignore[arg-type]
        self._server = server
        self._base = base
        self._write_interrupted = False

    async def run(self) -> None:
        tasks = StreamTasks(self._server)
        async with tasks:
            self._task_group = tasks
            self.protocol = self._make_protocol(tasks)
            await self.protocol.initiate()
            await self.idle_task.restart(tasks, self._idle_timeout)
            try:
                await self._read_data()
            finally:
                tasks.end()

    def _make_protocol(self, tasks: StreamTasks) -> ProtocolWrapper:
        parts: tuple[Any, ...] = (
            self.app,
            self.config,
            self.context,
            tasks,
            self.state,
            self._base["scheme"] == "https",
            self._base["client"],
            self._base["server"],
            self.protocol_send,
        )
        protocol = ProtocolWrapper(*parts)
        protocol.protocol = HTTP2Protocol(*parts)
        return protocol

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            if self._write_interrupted:
                raise SendTimeout
            self._write_interrupted = (
                True  # until the send has finished: a cancelled send ends the connection
            )
            try:
                await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await self.protocol.handle(Closed())
            self._write_interrupted = False

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
        if isinstance(self.protocol.protocol, HTTP2Protocol):
            await self.protocol.protocol.write_out()
        await self.stream.aclose()
