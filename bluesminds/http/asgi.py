"""The ASGI vocabulary of the listening side, and its one extension.

`scope["extensions"]["disconnect"]` is a Disconnect: it tells synchronously, while an answer is still being
produced, that nobody waits for it any more. `receive` tells the same in ASGI's own way.
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
    """Raised by `send` when the client has gone or stopped reading."""


class Disconnect:
    """Whether the client of one request has gone, and who wants to know."""

    __slots__ = ("_callbacks", "gone")

    def __init__(self) -> None:
        self.gone = False
        self._callbacks: tuple[Callable[[], object], ...] = ()

    def then(self, callback: Callable[[], object]) -> None:
        """Call back once, synchronously, when the client goes; at once if it has gone. Must not raise."""
        if self.gone:
            callback()
        else:
            self._callbacks += (callback,)

    def fire(self) -> None:
        """The client has gone. Idempotent."""
        self.gone = True
        callbacks, self._callbacks = self._callbacks, ()
        for callback in callbacks:
            callback()


def without_disconnects(error: BaseException) -> BaseException | None:
    """What is left of an app's error once the news that the client has gone is taken away."""
    if isinstance(error, ClientDisconnected):
        return None
    if isinstance(error, BaseExceptionGroup):
        return error.split(ClientDisconnected)[1]
    return error
