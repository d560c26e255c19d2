"""How the gateway writes a response to a client."""

from collections.abc import Callable
from typing import NoReturn, Protocol

Headers = list[tuple[bytes, bytes]]


class ResponseWriter(Protocol):
    """Writes the response to the client. Writing to a client that has disconnected raises OSError."""

    @property
    def gone(self) -> bool: ...

    def on_gone(self, callback: Callable[[], object]) -> None: ...

    async def send(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes = b"") -> None: ...

    def abort(self) -> NoReturn:
        """End the connection before the end of the response, so that the client sees that it is cut."""


class ForwardingWriter:
    """Passes everything to `out`. Subclasses see or change what the client gets."""

    def __init__(self, out: ResponseWriter) -> None:
        self._out = out

    @property
    def gone(self) -> bool:
        return self._out.gone

    def on_gone(self, callback: Callable[[], object]) -> None:
        self._out.on_gone(callback)

    def abort(self) -> NoReturn:
        self._out.abort()
