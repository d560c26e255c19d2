"""The ASGI lifespan: startup before the first connection, shutdown after the last.

An app that raises on the lifespan scope before it receives the startup event does not support the protocol
and is served without it. A later error is reported and ends the lifespan, not the server. Both stages have a
time limit, and a shutdown does not wait for the startup.
"""

from typing import Any

import trio

from bluesminds.http.asgi import ASGI_VERSION, ASGIApp, Message, OnError

START_SECONDS = 60.0
STOP_SECONDS = 1.0  # minimum time for the app's shutdown, also after a drain that used up its time


class LifespanError(Exception):
    """The app reported that it could not start or stop, or took too long."""


class Lifespan:
    """Run `run` in a nursery, then call `start` and `stop` once each. `failure`: why one failed."""

    def __init__(self, app: ASGIApp, on_error: OnError) -> None:
        self.state: dict[str, Any] = {}
        self.failure: str | None = None
        self._app = app
        self._on_error = on_error
        self._send, self._receive = trio.open_memory_channel[Message](2)
        self._started = trio.Event()
        self._stopped = trio.Event()
        self._startup_received = False

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": ASGI_VERSION, "state": self.state}
        try:
            await self._app(scope, self._next_event, self._handle_message)
        except Exception as error:
            if self._startup_received and self.failure is None:
                self._on_error(error)
                if not self._started.is_set():
                    self.failure = "startup failed: the app raised an error"
        finally:
            self._started.set()
            self._stopped.set()

    async def start(self, shutdown: trio.Event) -> bool:
        """Whether the app has started: False if it failed or `shutdown` was set first."""
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
        """Shut the app down by `deadline` on Trio's clock, or within STOP_SECONDS if that is later."""
        if self._stopped.is_set():
            return
        self._send.send_nowait({"type": "lifespan.shutdown"})
        with trio.move_on_at(max(deadline, trio.current_time() + STOP_SECONDS)):
            await self._stopped.wait()
        if not self._stopped.is_set():
            self.failure = "shutdown failed: the app did not end in time"

    async def _next_event(self) -> Message:
        message = await self._receive.receive()
        self._startup_received = True
        return message

    async def _handle_message(self, message: Message) -> None:
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
