"""The app's lifespan: startup before the first connection, shutdown after the last.

An app that raises on the lifespan scope before it has taken the startup event does not speak the protocol and
is served without it. An error after that is reported, and ends the lifespan but not the server.
"""

from typing import Any

import trio

from bluesminds.http.asgi import ASGI_VERSION, ASGIApp, Message, OnError


class LifespanError(Exception):
    """The app reported that it could not start or stop."""


class Lifespan:
    """Run `run` in a nursery, then `start` and `stop`, each once. `failure` is the app's own report."""

    def __init__(self, app: ASGIApp, on_error: OnError) -> None:
        self.state: dict[str, Any] = {}
        self.failure: str | None = None
        self._app = app
        self._on_error = on_error
        self._send, self._receive = trio.open_memory_channel[Message](2)
        self._started = trio.Event()
        self._stopped = trio.Event()
        self._taken = False

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": ASGI_VERSION, "state": self.state}
        try:
            await self._app(scope, self._take, self._tell)
        except Exception as error:
            if self._taken and self.failure is None:
                self._on_error(error)
                if not self._started.is_set():
                    self.failure = "startup failed: the app raised an error"
        finally:
            self._started.set()
            self._stopped.set()

    async def start(self) -> bool:
        """Whether the app can be served."""
        self._send.send_nowait({"type": "lifespan.startup"})
        await self._started.wait()
        return self.failure is None

    async def stop(self) -> None:
        if not self._stopped.is_set():
            self._send.send_nowait({"type": "lifespan.shutdown"})
            await self._stopped.wait()

    async def _take(self) -> Message:
        message = await self._receive.receive()
        self._taken = True
        return message

    async def _tell(self, message: Message) -> None:
        kind = message["type"]
        done = {"lifespan.startup": self._started, "lifespan.shutdown": self._stopped}
        stage, _, outcome = kind.rpartition(".")
        if stage not in done or outcome not in ("complete", "failed"):
            raise RuntimeError(f"{kind} is not a message of the lifespan")
        if outcome == "failed":
            self.failure = f"{stage} failed: {message.get('message') or 'no reason given'}"
        done[stage].set()
