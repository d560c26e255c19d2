"""A response: status, headers, and a body that is read as it arrives.

It owns its connection until the body is complete, `close` is called, or reading fails. Then the connection
is returned to the pool or closed, exactly once and without waiting.
"""

import trio

from bluesminds.http.client.connection import UpstreamConnection
from bluesminds.http.client.decode import DecodeError, Decoder
from bluesminds.http.client.errors import (
    BodyTooLarge,
    ChunkTimeout,
    UpstreamCut,
    UpstreamError,
    UpstreamProtocolError,
)
from bluesminds.http.client.slots import OriginSlots, PoolSlots
from bluesminds.http.wire import WireClosed, WireTimeout

_REMOVED_BY_DECODING = (b"content-encoding", b"content-length")


class Response:
    """A response with a complete head. Close it in a `finally`; a cancelled `receive` may be repeated.
    `ends_at`: when the whole body must have arrived, on Trio's clock.
    """

    __slots__ = (
        "_between_chunks",
        "_buffered",
        "_connection",
        "_decoder",
        "_ended",
        "_origin_slots",
        "_slots",
        "ends_at",
        "headers",
        "status",
    )

    def __init__(
        self,
        connection: UpstreamConnection,
        origin_slots: OriginSlots,
        slots: PoolSlots,
        between_chunks: float,
        decoder: Decoder | None,
    ) -> None:
        self.status = connection.status
        self.headers = connection.headers  # names in lower case
        if decoder is not None:
            self.headers = [header for header in self.headers if header[0] not in _REMOVED_BY_DECODING]
        self._decoder = decoder
        self._origin_slots = origin_slots
        self._slots = slots
        self._between_chunks = between_chunks
        self._connection: UpstreamConnection | None = connection
        self._ended = False
        self._buffered = b""
        self.ends_at: float | None = None
        if connection.complete:
            self._buffered = connection.take_body()
            self._ended = True
            self._release(connection)

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def receive(self) -> bytes:
        """The body bytes of one socket read; b"" at the body's end.

        Raises ChunkTimeout, UpstreamCut and UpstreamProtocolError, each of which closes the response, and
        trio.ClosedResourceError after `close`.
        """
        if self._decoder is not None:
            return await self._receive_decoded(self._decoder)
        return await self._receive_raw()

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge, closing the response, beyond `limit` bytes."""
        parts = []
        size = 0
        while data := await self.receive():
            size += len(data)
            if size > limit:
                self.close()
                raise BodyTooLarge(f"the response is longer than {limit} bytes", phase="body", sent=True)
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """Return the connection to the pool if the response is complete, else close it. Idempotent."""
        if self._connection is not None:
            self._release(self._connection)

    async def _receive_raw(self) -> bytes:
        if self._buffered:
            data, self._buffered = self._buffered, b""
            return data
        connection = self._connection
        if connection is None:
            if self._ended:
                return b""
            raise trio.ClosedResourceError("the response was closed before its end")
        deadline = trio.current_time() + self._between_chunks
        if self.ends_at is not None:
            deadline = self._bounded(connection, deadline, self.ends_at)
        try:
            data = await connection.read_body(deadline)
        except UpstreamError:
            self._release(connection)
            raise
        except WireTimeout:
            self._release(connection)
            raise ChunkTimeout("the upstream stopped sending its response", phase="body", sent=True) from None
        except WireClosed as exc:
            self._release(connection)
            raise UpstreamCut("the connection was lost during the response", phase="body", sent=True) from exc
        if connection.complete:
            self._ended = True
            self._release(connection)
        return data

    def _bounded(self, connection: UpstreamConnection, deadline: float, ends_at: float) -> float:
        """Raises ChunkTimeout if the body takes too long, although its bytes arrive."""
        if ends_at <= trio.current_time():
            self._release(connection)
            raise ChunkTimeout("the response took too long", phase="body", sent=True)
        return min(deadline, ends_at)

    async def _receive_decoded(self, decoder: Decoder) -> bytes:
        try:
            while not (piece := decoder.step()):
                data = await self._receive_raw()
                if not data:
                    break
                decoder.feed(data)
        except DecodeError as exc:
            self._fail()
            raise UpstreamProtocolError(str(exc), phase="body", sent=True) from None
        if not piece and not decoder.finished:
            self._fail()
            raise UpstreamCut("the compressed response body ends too early", phase="body", sent=True)
        return piece

    def _fail(self) -> None:
        self._ended = False
        self._decoder = None
        self._buffered = b""
        self.close()

    def _release(self, connection: UpstreamConnection) -> None:
        self._connection = None
        if connection.complete and connection.keep_alive and not connection.wire.pending():
            self._slots.return_connection(self._origin_slots, connection)
        else:
            connection.close()
            self._slots.release(self._origin_slots)


def make_decoder(connection: UpstreamConnection) -> Decoder | None:
    """The decoder for a complete head. Raises UpstreamProtocolError for an unsupported coding."""
    coding = connection.coding
    if coding is None or coding.strip().lower() in (b"", b"identity") or _bodiless(connection):
        return None
    try:
        return Decoder(coding.strip().lower())
    except DecodeError as exc:
        raise UpstreamProtocolError(str(exc), phase="head", sent=True) from None


def _bodiless(connection: UpstreamConnection) -> bool:
    return connection.complete and not connection.has_body
