"""Writes the response to a request as messages of a WebSocket: one for each event of its stream."""

from collections.abc import Callable
from typing import NoReturn

from msgspec import Raw

from bluesminds.gateway.relay import Headers
from bluesminds.http.asgi import ClientDisconnected, ResponseAborted
from bluesminds.http.sse import EventSplitter
from bluesminds.http.websocket import WebSocket, WebSocketClosed
from bluesminds.wire.responses_items import TERMINAL, response_of_stream
from bluesminds.wire.responses_socket import ERROR, write_message, write_refusal
from bluesminds.wire.stages import name_and_data

_KEPT = TERMINAL | {b"response.output_item.done"}


class MessageWriter:
    """A ResponseWriter. `previous_id` and `lane`: see `write_message`. An error is the last message, because
    the client then creates the next response. `failed`: there was one.
    """

    def __init__(self, client: WebSocket, *, previous_id: str, lane: Raw) -> None:
        self._client = client
        self._previous_id = previous_id
        self._lane = lane
        self._splitter = EventSplitter()
        self._kept: list[bytes] = []  # the events that have the output
        self._callbacks: list[Callable[[], object]] = []
        self.gone = False
        self.failed = False

    def response(self) -> bytes | None:
        """The whole response, at its end; None if there is none, or it has failed."""
        if self.failed:
            return None
        try:
            return response_of_stream(b"".join(self._kept))
        except ValueError:
            return None

    def on_gone(self, callback: Callable[[], object]) -> None:
        if self.gone:
            callback()
        else:
            self._callbacks.append(callback)

    def client_left(self) -> None:
        """The client has closed the WebSocket."""
        self.gone = True
        while self._callbacks:
            self._callbacks.pop()()

    async def start(self, status: int, headers: Headers) -> None:
        """The status and the headers of a stream have no place in messages."""

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole response is an error: the request is for a stream."""
        self.failed = True
        await self._send(write_refusal(status, body, self._lane))

    async def write(self, data: bytes) -> None:
        for event in self._splitter.feed(data):
            await self._pass(event)

    async def end(self, data: bytes = b"") -> None:
        await self.write(data)
        await self._pass(self._splitter.finish())

    def abort(self) -> NoReturn:
        raise ResponseAborted("the response is cut")

    async def _pass(self, event: bytes) -> None:
        name, data = name_and_data(event)
        if self.failed or not name or not data:
            return
        if name in _KEPT:
            self._kept.append(event)
        self.failed = name in (ERROR, b"response.failed")
        await self._send(write_message(name, data, previous_id=self._previous_id, lane=self._lane))

    async def _send(self, message: str) -> None:
        try:
            await self._client.send(message)
        except WebSocketClosed:
            self.client_left()
            raise ClientDisconnected("the client has closed the WebSocket") from None
