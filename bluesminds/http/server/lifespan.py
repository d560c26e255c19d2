"""The app's lifespan: startup before the first connection, shutdown after the last.

An app that raises on the lifespan scope before it has taken the startup event does not speak the protocol and
is served without it. An error after that is reported, and ends the lifespan but not the server. Neither
stage may take for ever, and a shutdown does not wait for the startup.
"""

from typing import Any

import trio

from bluesminds.http.asgi import ASGI_VERSION, ASGIApp, Message, OnError

START_SECONDS = 60.0
STOP_SECONDS = 1.0  # what the app gets for its shutdown even when the drain has taken all its time


class LifespanError(Exception):
    """The app reported that it could not start or stop, or took too long."""


class Lifespan:
    """Run `run` in a nursery, then `start` and `stop`, each once. `failure` says why one did not succeed."""

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

    async def start(self, shutdown: trio.Event) -> bool:
        """Whether the app can be served: not if it fails, nor if `shutdown` comes first."""
        self._send.send_nowait({"type": "lifespan.startup"})
        with trio.move_on_after(START_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, shutdown, nursery.cancel_scope)
                await self._started.wait()
                nursery.cancel_scope.cancel()
        if not (self._started.is_set() or shutdown.is_set()):
            self.failure = f"startup failed: the app was not ready after {START_SECONDS:.0f} seconds"
        return self._started.is_set() and self.failure is None

    async def stop(self, deadline: float) -> None:
        """Let the app end, until `deadline` on Trio's clock, or a moment if that is past."""
        if self._stopped.is_set():
            return
        self._send.send_nowait({"type": "lifespan.shutdown"})
        with trio.move_on_at(max(deadline, trio.current_time() + STOP_SECONDS)):
            await self._stopped.wait()
        if not self._stopped.is_set():
            self.failure = "shutdown failed: the app did not end in time"

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


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
