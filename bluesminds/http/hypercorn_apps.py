"""The tasks behind a Hypercorn connection: apps, and the exchanges that stand between them and Hypercorn.

Hypercorn hands each HTTP/2 request or WebSocket to `Apps.spawn_app`. Every wait between the two sides is
bounded: a client that does not send or read, or an app that does not take its input, ends in Stalled, which
ends the connection. An app's own error is reported and ends its stream only.
"""

import contextlib
import math
from collections.abc import Awaitable, Callable
from typing import Any, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import Scope as HypercornScope

from bluesminds.http import refusals
from bluesminds.http.asgi import ClientDisconnected, Disconnect, Message, Scope, without_disconnects
from bluesminds.http.exchange import BODY_BYTES_PER_SECOND, SEND_SLICE, Lane

Put = Callable[[Any], Awaitable[None]]


class Stalled(Exception):
    """Client or app did not take what was meant for it in time; the connection ends."""


class Apps(TaskGroup):
    """The tasks of one connection. An app's errors end its own stream only."""

    def __init__(self, lane: Lane) -> None:
        super().__init__()
        self._lane = lane
        self._exchanges: set[_Exchange] = set()

    async def spawn_app(self, app: object, config: Config, scope: HypercornScope, send: Put) -> Put:
        assert self._nursery is not None  # noqa: S101 the group is entered
        exchange = _Exchange(self._lane, cast(Scope, scope), send, config.max_app_queue_size)
        self._nursery.start_soon(self._run, exchange)
        return exchange.put

    async def _run(self, exchange: "_Exchange") -> None:
        self._exchanges.add(exchange)
        try:
            await exchange.run()
        finally:
            self._exchanges.discard(exchange)

    def end(self) -> None:
        """The connection is over; apps that wait for the client learn it."""
        for exchange in self._exchanges:
            exchange.end()


class _Exchange:
    """One HTTP/2 request or WebSocket between Hypercorn and the app, with bounded waits on both sides.

    What Hypercorn puts waits in a bounded queue. Its disconnect message is not queued but ends the queue: the
    queue may be full, and the one who says it may be the very app that would have to empty it.
    """

    def __init__(self, lane: Lane, scope: Scope, send: Put, queue_size: int) -> None:
        self._lane = lane
        self._scope = scope
        self._send = send
        self._put, self._take = trio.open_memory_channel[Message](queue_size)
        self._kind = scope["type"]
        self._disconnect = Disconnect()
        self._last: Message = {"type": f"{self._kind}.disconnect"}
        if self._kind == "websocket":
            self._last["code"] = 1006
        self._received = 0
        self._waited = 0.0
        self._complete = self._kind == "websocket"
        self._started = False

    async def run(self) -> None:
        self._lane.stats.requests += self._kind == "http"
        self._scope["extensions"]["disconnect"] = self._disconnect
        try:
            await self._lane.app(self._scope, self.receive, self.send)
        except Stalled:
            raise
        except Exception as error:
            rest = without_disconnects(error)
            if rest is not None:
                self._lane.on_error(rest)
            if self._kind == "http" and not self._disconnect.gone:
                await self._answer(refusals.INTERNAL_ERROR)
        finally:
            self._take.close()
        await self._send(None)

    # Hypercorn's side

    async def put(self, event: Message) -> None:
        if event["type"] == self._last["type"]:
            self._last = event
            self.end()
            return
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            try:
                self._put.send_nowait(event)
            except trio.WouldBlock:
                with trio.move_on_after(self._lane.limits.body_timeout) as scope:
                    await self._put.send(event)
                if scope.cancelled_caught:
                    raise Stalled from None

    def end(self) -> None:
        self._put.close()

    # The app's side

    async def receive(self) -> Message:
        patience = math.inf if self._complete else self._lane.limits.body_timeout
        earned = patience + self._received / BODY_BYTES_PER_SECOND - self._waited
        began = trio.current_time()
        with trio.move_on_after(min(patience, earned)) as scope:
            try:
                message = await self._take.receive()
            except trio.EndOfChannel:
                return self._last
        if scope.cancelled_caught:
            raise Stalled
        self._waited += trio.current_time() - began
        self._received += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._received > self._lane.limits.body_bytes and self._kind == "http":
            await self._answer(refusals.BODY_TOO_LARGE)
            self._disconnect.fire()
            return self._last
        return message

    async def send(self, message: Message) -> None:
        if self._disconnect.gone:
            raise ClientDisconnected("the client has gone")
        self._started = True
        body = message.get("body", b"") if self._kind == "http" else b""
        for start in range(0, max(len(body), 1), SEND_SLICE):
            end = start + SEND_SLICE
            more = message.get("more_body", False) or end < len(body)
            await self._send_slice(
                {**message, "body": body[start:end], "more_body": more} if body else message
            )

    async def _send_slice(self, message: Message) -> None:
        with trio.move_on_after(self._lane.limits.write_timeout) as scope:
            try:
                await self._send(message)
            except h11.LocalProtocolError:  # the client broke the handshake while the app was answering it
                raise ClientDisconnected("the connection has failed") from None
        if scope.cancelled_caught:
            self._lane.stats.refused["write_timeout"] += 1
            raise Stalled

    async def _answer(self, refusal: refusals.Refusal) -> None:
        if not self._started:
            self._lane.stats.refused[refusal.code] += 1
            headers = [(b"content-type", b"application/json")]
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": refusal.body()})
