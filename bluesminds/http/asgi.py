"""ASGI types of the listener, and its extensions.

`scope["extensions"]["disconnect"]` is a Disconnect. It reports a client disconnect synchronously, while the
response is still being produced. `receive` returns `http.disconnect` as ASGI specifies. The scope of a valid
WebSocket handshake has the extension "websocket" (http/server/websocket.py); its type is "http".
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
OnError = Callable[[BaseException], None]

ASGI_VERSION = {"version": "3.0", "spec_version": "2.5"}


class ClientDisconnected(OSError):
    """Raised by `send` when the client has disconnected or stopped reading."""


class ResponseAborted(ClientDisconnected):
    """Raised by an app that cannot complete its response: the connection closes before the end of it."""


class Disconnect:
    """Whether the client of one request has disconnected, and the callbacks to run then."""

    __slots__ = ("_callbacks", "disconnected")

    def __init__(self) -> None:
        self.disconnected = False
        self._callbacks: tuple[Callable[[], object], ...] = ()

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` once, synchronously, on disconnect; at once if it has happened. Must not raise."""
        if self.disconnected:
            callback()
        else:
            self._callbacks += (callback,)

    def fire(self) -> None:
        """Record the disconnect and run the callbacks. Idempotent."""
        self.disconnected = True
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            callback()


def without_disconnects(error: BaseException) -> BaseException | None:
    """The app's error without its ClientDisconnected parts; None when nothing else is left."""
    if isinstance(error, ClientDisconnected):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(ClientDisconnected)[1]
    return error
