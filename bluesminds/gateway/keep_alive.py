"""Sends a ping to clients whose streams are silent, so that proxies and clients do not close them.

One task looks at all streams twice in each interval. A write of a stream only sets a flag. A ping is complete
before the next bytes of the stream are written.
"""

import trio

from bluesminds.gateway.response_writer import ForwardingWriter, Headers, ResponseWriter
from bluesminds.wire.base import FormatName
from bluesminds.wire.formats import FORMATS

_EVENTS = b"text/event-stream"


class KeepAlive:
    """`interval`: the longest silence of a stream, in seconds."""

    def __init__(self, interval: float) -> None:
        self._pause = interval / 2
        self.open: set[KeepAliveWriter] = set()

    def writer(self, format_: FormatName, out: ResponseWriter) -> "KeepAliveWriter | None":
        """None for formats whose clients fail on pings. The caller closes it."""
        codec = FORMATS[format_].codec
        ping = b"" if codec is None else codec.keep_alive
        return KeepAliveWriter(self, out, ping) if ping else None

    async def run(self) -> None:
        """Send pings until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._pause)
                for writer in tuple(self.open):
                    if writer.begin_ping():
                        nursery.start_soon(writer.ping)


class KeepAliveWriter(ForwardingWriter):
    """Writes one response, and pings while it is a silent stream of events."""

    def __init__(self, keep_alive: KeepAlive, out: ResponseWriter, ping: bytes) -> None:
        super().__init__(out)
        self._keep_alive = keep_alive
        self._ping = ping
        self._is_silent = False
        self._is_writing = False
        self._pinged: trio.Event | None = None
        self._scope: trio.CancelScope | None = None

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        await self._out.send(status, headers, body)

    async def start(self, status: int, headers: Headers) -> None:
        await self._out.start(status, headers)
        if any(name == b"content-type" and value.startswith(_EVENTS) for name, value in headers):
            self._keep_alive.open.add(self)

    async def write(self, data: bytes) -> None:
        if self._pinged is not None:
            await self._pinged.wait()
        self._is_writing = True
        await self._out.write(data)
        self._is_writing = self._is_silent = False

    async def end(self, data: bytes = b"") -> None:
        self._keep_alive.open.discard(self)
        if self._pinged is not None:
            await self._pinged.wait()
        await self._out.end(data)

    def begin_ping(self) -> bool:
        """Whether a ping is due: nothing was written since the last call."""
        if self._is_writing or self._pinged is not None or self.gone:
            return False
        if not self._is_silent:
            self._is_silent = True
            return False
        self._pinged = trio.Event()
        return True

    async def ping(self) -> None:
        """After `begin_ping`."""
        event = self._pinged
        try:
            with trio.CancelScope() as self._scope:
                await self._out.write(self._ping)
        except OSError:  # the client has disconnected, which the request notices itself
            pass
        finally:
            self._pinged, self._is_silent = None, False
            if event is not None:
                event.set()

    def close(self) -> None:
        """The response has ended, in whatever way."""
        self._keep_alive.open.discard(self)
        if self._scope is not None:
            self._scope.cancel()
