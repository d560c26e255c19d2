"""The body of a request over ASGI: read whole, or piece by piece."""

from contextlib import suppress
from io import BytesIO

from bluesminds.common.errors import InvalidRequest
from bluesminds.gateway.bodies import Body, BodyMemory, body_memory_exhausted
from bluesminds.http.asgi import Receive, Scope


class ASGIBody(Body):
    __slots__ = ("_ended", "_receive", "_scope")

    def __init__(self, memory: BodyMemory, scope: Scope, receive: Receive) -> None:
        super().__init__(memory)
        self._scope = scope
        self._receive = receive
        self._ended = False

    @property
    def content_type(self) -> bytes:
        return self._header(b"content-type")

    @property
    def length(self) -> int | None:
        length = self._header(b"content-length")
        return int(length) if length.isdigit() else None

    async def read(self) -> None:
        self.check_coding()
        data: bytes | None = None
        with suppress(MemoryError):
            data = await self._collect()
        if data is None:  # raised outside of a handler: a handled MemoryError refers to what has been read
            raise body_memory_exhausted()
        self.data = data

    async def receive(self) -> bytes:
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            self._ended = not message.get("more_body", False)
            if piece := message.get("body", b""):
                return bytes(piece)
        return b""

    def check_coding(self) -> None:
        for name, coding in self._scope["headers"]:
            if name == b"content-encoding" and coding != b"identity":
                raise InvalidRequest(
                    "unsupported_encoding", "Send the request body without compression.", status=415
                )

    def _header(self, name: bytes) -> bytes:
        """The first value."""
        return next((value for key, value in self._scope["headers"] if key == name), b"")

    async def _collect(self) -> bytes:
        buffer = BytesIO()
        receive, largest = self._receive, self.memory.largest
        while (message := await receive())["type"] != "http.disconnect":
            piece: bytes = message.get("body", b"")
            self.acquire(len(piece))
            more = message.get("more_body", False)
            if not more and not buffer.tell():
                return piece
            if buffer.write(piece) and buffer.tell() > largest:
                raise InvalidRequest(
                    "body_too_large", "The request's body is larger than this server accepts.", status=413
                )
            if not more:
                return buffer.getvalue()  # without a copy
        raise ConnectionResetError
