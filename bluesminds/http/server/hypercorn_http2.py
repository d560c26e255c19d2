"""HTTP/2: Hypercorn's protocol, changed so that streams do not block each other.

Only the reader and the sending task write to the wire, so that a cancelled app cannot leave half a frame. A
stream's window opens when its app has read the data; the connection's window has room for all streams, so
that an app that does not read blocks only its own stream. An error in a stream resets that stream. Resets by
the client are limited, and end the request.
"""

import contextlib
from typing import Any

import h2.events
import h2.exceptions
from h2.errors import ErrorCodes
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from priority.priority import DeadlockError

from bluesminds.http.server.hypercorn_apps import BodyConsumed, ResetStream, SendTimeout, StreamEnded

WINDOW = 65_535  # bytes of a stream's body that its app has not read; the default of HTTP/2
FREE_RESETS = 200  # resets by the client before the limit of one reset for two requests applies


class HTTP2Protocol(H2Protocol):
    _resets = 0

    def __init__(self, *parts: Any) -> None:  # noqa: ANN401 as Hypercorn makes it
        super().__init__(*parts)
        self._held: dict[int, int] = {}  # bytes per stream, padding included, that its app has not read
        settings = self.connection.local_settings
        settings.enable_connect_protocol = 0
        settings.acknowledge()

    async def initiate(self, headers: Any = None, settings: Any = None) -> None:  # noqa: ANN401
        await super().initiate(headers, settings)
        streams = self.config.h2_max_concurrent_streams
        self.connection.increment_flow_control_window((streams - 1) * WINDOW)

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            try:
                events = self.connection.receive_data(event.data)
            except h2.exceptions.ProtocolError:
                await self.write_out()
                await self.send(Closed())
            else:
                await self._handle_events(events)
                await self.write_out()
            return
        await super().handle(event)
        for buffer in list(self.stream_buffers.values()):
            await buffer.close()

    # Writing

    async def _flush(self) -> None:
        await self.has_data.set()

    async def write_out(self) -> None:
        """Send the data that is ready. Waiting here blocks the whole connection."""
        data = self.connection.data_to_send()
        if data:
            await self.send(RawData(data))

    async def send_task(self) -> None:
        while not self.closed:
            await self.write_out()
            try:
                stream_id = next(self.priority)
            except DeadlockError:
                await self.has_data.wait()
                await self.has_data.clear()
            else:
                await self._send_data(stream_id)

    # Events from exchanges

    async def stream_send(self, event: StreamEvent) -> None:
        number = event.stream_id
        match event:
            case BodyConsumed():
                self._acknowledge(number, self._held.pop(number, 0))
            case ResetStream():
                await self._reset(number, event.code)
            case StreamEnded():
                if number in self.streams:
                    await self._reset(number, ErrorCodes.INTERNAL_ERROR)
                await self._check_idle()
            case Body():
                await super().stream_send(event)
                await self._wait_sent(number)
            case EndBody():
                await self._end(number)
            case _:
                await super().stream_send(event)
        await self._flush()

    async def _wait_sent(self, stream_id: int) -> None:
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.drain()

    async def _end(self, stream_id: int) -> None:
        """Send END_STREAM. All data has been sent, because every send waited for it."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            buffer.set_complete()
            await self._send_data(stream_id)

    async def _check_idle(self) -> None:
        if self.idle and self.context.terminated.is_set():
            self.connection.close_connection()
        await self.send(Updated(idle=self.idle))

    # Events from the client

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                await self._data_received(event.stream_id, event.data, event.flow_controlled_length)
            elif isinstance(event, h2.events.StreamReset):
                self._count_reset()
                await self._drop(event.stream_id)
            else:
                await super()._handle_events([event])
                if isinstance(event, h2.events.RequestReceived) and self.idle:
                    await self._check_idle()

    async def _data_received(self, stream_id: int, data: bytes, size: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is None or not data:
            self._acknowledge(stream_id, size)
            return
        self._held[stream_id] = self._held.get(stream_id, 0) + size
        await stream.handle(Body(stream_id=stream_id, data=data))

    def _acknowledge(self, stream_id: int, size: int) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.acknowledge_received_data(size, stream_id)

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > FREE_RESETS + self.keep_alive_requests // 2:
            raise SendTimeout

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        fields = dict(request.headers)
        path = fields.get(b":path", b"")
        if fields[b":method"] != b"CONNECT" and path.isascii() and path.startswith((b"/", b"*")):
            await super()._create_stream(request)
        else:
            self.connection.reset_stream(request.stream_id, ErrorCodes.PROTOCOL_ERROR)
            self._count_reset()

    # The end of a stream

    async def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        with contextlib.suppress(h2.exceptions.ProtocolError):
            self.connection.reset_stream(stream_id, code)
        await self._drop(stream_id)

    async def _drop(self, stream_id: int) -> None:
        """The stream has been reset: wake its waits and drop the rest of its response."""
        await self._close_stream(stream_id)
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            await buffer.close()
        await self._window_updated(stream_id)

    async def _close_stream(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if isinstance(stream, HTTPStream) and stream.state is not ASGIHTTPState.CLOSED:
            disconnect = stream.scope["extensions"].get("disconnect")
            if disconnect is not None:
                disconnect.fire()  # type: ignore[attr-defined]
        await super()._close_stream(stream_id)
        self._acknowledge(stream_id, self._held.pop(stream_id, 0))
