"""HTTP/2 (over TLS) and WebSockets through Hypercorn's own connection handler, behind a containment.

Hypercorn's Trio handler lets an error of one connection end the server, waits without limit for a client that
does not read and for an app that does not, and breaks on DATA for a stream it has already answered. Here
every wait has the lane's limits, an app's errors are reported and end its stream, any other error ends its
connection, and requests carry the same `disconnect` extension and body limit as on the HTTP/1.1 lane.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import h2.events
import h2.exceptions
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import Scope as HypercornScope

from bluesminds.http import refusals
from bluesminds.http.asgi import (
    ClientDisconnected,
    Disconnect,
    Message,
    Receive,
    Scope,
    Send,
    without_disconnects,
)
from bluesminds.http.http1 import Lane
from bluesminds.http.intake import Inbound
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

MAX_REQUESTS = 1_000_000  # per HTTP/2 connection; out of reach, as it cuts the streams under way
FREE_RESETS = 200  # streams that a client may reset before it is held to one reset for two requests

_Put = Callable[[Any], Awaitable[None]]


class _Stalled(Exception):
    """Client or app did not take what was meant for it in time; the connection ends."""


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
        except (OSError, _Stalled):
            self._lane.stats.disconnects += 1
        except ExceptionGroup as group:
            rest = group.split((OSError, _Stalled))[1]
            if rest is None:
                self._lane.stats.disconnects += 1
            else:
                self._lane.on_error(rest)
        finally:
            stream.close()


class _WireStream:
    """A wire in the shape of the Trio stream that Hypercorn expects."""

    def __init__(self, wire: Wire, prefix: bytes, write_timeout: float) -> None:
        self._wire = wire
        self._prefix = prefix
        self._write_timeout = write_timeout

    async def receive_some(self, max_bytes: int) -> bytes:
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
        self.close()

    def close(self) -> None:
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
        apps = _Apps(self._lane)
        async with apps:
            self._task_group = apps
            self.protocol = self._make_protocol(apps)
            await self.protocol.initiate()
            await self.idle_task.restart(apps, self._idle_timeout)
            await self._read_data()

    def _make_protocol(self, apps: "_Apps") -> ProtocolWrapper:
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
        if self._alpn == "h2":
            protocol.protocol = _HTTP2(*parts)
        return protocol

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            if self._torn:
                raise _Stalled
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


class _HTTP2(H2Protocol):
    """Forgives DATA for answered streams, tells requests when theirs is reset, and bounds resets."""

    _resets = 0

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
                    raise _Stalled
            await super()._handle_events([event])

    async def _close_stream(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if isinstance(stream, HTTPStream) and stream.state is not ASGIHTTPState.CLOSED:
            disconnect = stream.scope["extensions"].get("disconnect")
            if disconnect is not None:
                disconnect.fire()  # type: ignore[attr-defined]
        await super()._close_stream(stream_id)


class _Apps(TaskGroup):
    """The tasks of one connection. What an app no longer takes is dropped, and its errors stay its own."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self._lane = lane

    async def spawn_app(self, app: object, config: Config, scope: HypercornScope, send: _Put) -> _Put:
        put, take = trio.open_memory_channel[Message](config.max_app_queue_size)
        assert self._nursery is not None  # noqa: S101 the group is entered
        self._nursery.start_soon(self._run_app, cast(Scope, scope), take, send)

        async def deliver(event: Message) -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                try:
                    put.send_nowait(event)
                except trio.WouldBlock:
                    with trio.move_on_after(self._lane.limits.body_timeout) as wait:
                        await put.send(event)
                    if wait.cancelled_caught:
                        raise _Stalled from None

        return deliver

    async def _run_app(self, scope: Scope, take: trio.MemoryReceiveChannel[Message], send: _Put) -> None:
        lane = self._lane
        request = _Request(lane, take.receive, send) if scope["type"] == "http" else None
        if request is not None:
            lane.stats.requests += 1
            scope["extensions"]["disconnect"] = request.disconnect
        app_receive, app_send = (request.receive, request.send) if request else (take.receive, send)
        with take:
            try:
                await lane.app(scope, app_receive, app_send)
            except _Stalled:
                raise
            except Exception as error:
                rest = without_disconnects(error)
                if rest is not None:
                    lane.on_error(rest)
                if request is not None:
                    await request.fail()
            await send(None)


class _Request:
    """One HTTP/2 request as the app sees it."""

    def __init__(self, lane: Lane, receive: Receive, send: Send) -> None:
        self.disconnect = Disconnect()
        self._lane = lane
        self._receive = receive
        self._send = send
        self._received = 0
        self._complete = False
        self._started = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        with trio.move_on_after(self._lane.limits.body_timeout) as scope:
            message = await self._receive()
            self._received += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        if scope.cancelled_caught:
            raise _Stalled
        if self._received > self._lane.limits.body_bytes:
            await self._answer(refusals.BODY_TOO_LARGE)
            self.disconnect.fire()
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        if self.disconnect.gone:
            raise ClientDisconnected("the client has gone")
        self._started = True
        with trio.move_on_after(self._lane.limits.write_timeout) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            self._lane.stats.refused["write_timeout"] += 1
            raise _Stalled

    async def fail(self) -> None:
        """The app has failed; if it had not answered, this does."""
        if not self.disconnect.gone:
            await self._answer(refusals.INTERNAL_ERROR)

    async def _answer(self, refusal: refusals.Refusal) -> None:
        if not self._started:
            self._lane.stats.refused[refusal.code] += 1
            headers = [(b"content-type", b"application/json")]
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": refusal.body()})
