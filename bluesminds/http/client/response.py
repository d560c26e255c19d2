"""An answer as callers see it: status, headers, and a body that is read as it arrives.

It owns its connection until the body's last byte is parsed, `close` is called, or reading fails; then the
connection goes back to the pool or is closed, exactly once and without waiting.
"""

import trio

from bluesminds.http.client.connection import Connection
from bluesminds.http.client.decode import DecodeError, Decoder
from bluesminds.http.client.errors import (
    BodyTooLarge,
    ChunkTimeout,
    UpstreamCut,
    UpstreamError,
    UpstreamProtocolError,
)
from bluesminds.http.client.slots import OriginSlots, Slots
from bluesminds.http.wire import WireClosed, WireTimeout

_DECODED_AWAY = (b"content-encoding", b"content-length")


class Response:
    """A final answer, its head complete. Close it in a `finally`; a cancelled `receive` may be repeated."""

    __slots__ = (
        "_between_chunks",
        "_buffered",
        "_connection",
        "_decoder",
        "_ended",
        "_lane",
        "_slots",
        "headers",
        "status",
    )

    def __init__(
        self,
        connection: Connection,
        lane: OriginSlots,
        slots: Slots,
        between_chunks: float,
        decoder: Decoder | None,
    ) -> None:
        self.status = connection.status
        self.headers = connection.headers  # names in lower case
        if decoder is not None:
            self.headers = [header for header in self.headers if header[0] not in _DECODED_AWAY]
        self._decoder = decoder
        self._lane = lane
        self._slots = slots
        self._between_chunks = between_chunks
        self._connection: Connection | None = connection
        self._ended = False
        self._buffered = b""
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
        trio.ClosedResourceError when it was closed before its end.
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
                raise BodyTooLarge(f"the answer is longer than {limit} bytes", phase="body", sent=True)
            parts.append(data)
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back if its answer is complete, else close it. Idempotent."""
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
        try:
            data = await connection.read_body(trio.current_time() + self._between_chunks)
        except UpstreamError:
            self._release(connection)
            raise
        except WireTimeout:
            self._release(connection)
            raise ChunkTimeout("the upstream stopped inside its answer", phase="body", sent=True) from None
        except WireClosed as exc:
            self._release(connection)
            raise UpstreamCut("the connection was lost inside the answer", phase="body", sent=True) from exc
        if connection.complete:
            self._ended = True
            self._release(connection)
        return data

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
            raise UpstreamCut("the answer's compressed body ends too early", phase="body", sent=True)
        return piece

    def _fail(self) -> None:
        self._ended = False
        self._decoder = None
        self._buffered = b""
        self.close()

    def _release(self, connection: Connection) -> None:
        self._connection = None
        if connection.complete and connection.keep_alive and not connection.wire.pending():
            self._slots.give_back(self._lane, connection)
        else:
            connection.close()
            self._slots.forget(self._lane)


def make_decoder(connection: Connection) -> Decoder | None:
    """The decoder a complete head asks for. Raises UpstreamProtocolError for a coding that is not known."""
    coding = connection.coding
    if coding is None or coding.strip().lower() in (b"", b"identity") or _bodiless(connection):
        return None
    try:
        return Decoder(coding.strip().lower())
    except DecodeError as exc:
        raise UpstreamProtocolError(str(exc), phase="head", sent=True) from None


def _bodiless(connection: Connection) -> bool:
    return connection.complete and not connection.has_body
