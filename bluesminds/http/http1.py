"""The HTTP/1.1 lane: one connection's requests, answered in order by the ASGI app, inline in one task.

Nothing per request is a task, a scope or a channel; all deadlines are the wire's. Input is read only when
the head of a request is awaited or the app asks for body, so a client cannot make the server hold more than
one receive of input. That a client has left is found by the server's sweep (server.py), which calls
`client_gone`. After an answer that leaves input unread the connection lingers, so that the client can read.
"""

import contextlib
from typing import Any

import trio

from bluesminds.http import refusals
from bluesminds.http.asgi import (
    ASGI_VERSION,
    ASGIApp,
    ClientDisconnected,
    Disconnect,
    Message,
    OnError,
    Scope,
    without_disconnects,
)
from bluesminds.http.deadlines import NEVER, Deadlines
from bluesminds.http.intake import Inbound, Intake
from bluesminds.http.limits import Limits, Stats
from bluesminds.http.refusals import Refusal
from bluesminds.http.reply import Reply
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

LINGER_SECONDS = 2.0
LINGER_BYTES = 8 * 1024 * 1024
REFUSAL_SECONDS = 1.0
DRAIN_GRACE = 0.25  # an idle connection's last chance to deliver a request that is already on its way
SENDS_PER_YIELD = 32


class Lane:
    """What the connections of one server share."""

    __slots__ = ("app", "date", "deadlines", "draining", "limits", "on_error", "state", "stats")

    def __init__(
        self, app: ASGIApp, limits: Limits, stats: Stats, on_error: OnError, state: dict[str, Any]
    ) -> None:
        self.app = app
        self.limits = limits
        self.stats = stats
        self.on_error = on_error
        self.state = state
        self.deadlines = Deadlines()
        self.draining = False
        self.date = b""  # the Date header line; the server's sweep keeps it


class Exchange:
    """One request and its answer: what the app sees as receive and send."""

    __slots__ = (
        "_continued",
        "_delivered",
        "_lane",
        "_over",
        "_sends",
        "_start",
        "_torn",
        "connection",
        "disconnect",
        "inbound",
        "refused",
        "reply",
        "seen",
    )

    def __init__(self, connection: "Connection", inbound: Inbound) -> None:
        self.connection = connection
        self.inbound = inbound
        self.disconnect = Disconnect()
        lane = self._lane = connection.lane
        self.reply = Reply(inbound, not inbound.keep_alive or lane.draining)
        self.refused = False
        self.seen = False  # the sweep looks only at exchanges it meets a second time
        self._start: Message | None = None
        self._over: trio.Event | None = None
        self._delivered = self._continued = self._torn = False
        self._sends = 0

    # What the app calls

    async def receive(self) -> Message:
        inbound = self.inbound
        while not (inbound.pieces or inbound.complete or self.reply.done or self.disconnect.gone):
            await self._read()
        if self.disconnect.gone or self.reply.done:
            return {"type": "http.disconnect"}
        if self._delivered:
            await self._wait_over()
            return {"type": "http.disconnect"}
        pieces = inbound.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._delivered = inbound.complete
        return {"type": "http.request", "body": body, "more_body": not inbound.complete}

    async def send(self, message: Message) -> None:
        reply = self.reply
        if self.disconnect.gone:
            raise ClientDisconnected("the client has gone")
        if self._torn:
            self.lost()
            raise ClientDisconnected("an earlier send was cut short")
        kind = message["type"]
        if kind == "http.response.body":
            if self._start is None or reply.done:
                raise RuntimeError("http.response.body is out of order")
            body = message.get("body", b"")
            more = message.get("more_body", False)
            data = reply.next(body, more) if reply.started else self._first(body, more)
            if data:
                await self._write(data)
            if not more and self._over is not None:
                self._over.set()
        elif kind == "http.response.start":
            if self._start is not None:
                raise RuntimeError("http.response.start came twice")
            self._start = message
        else:
            raise RuntimeError(f"{kind} is not a message of an HTTP response")

    def _first(self, body: bytes, more: bool) -> bytes:
        assert self._start is not None  # noqa: S101 send checked it
        reply = self.reply
        if self._lane.draining or not self.inbound.complete:
            reply.close = True
        return reply.first(self._start["status"], self._start.get("headers", ()), body, more, self._lane.date)

    async def _write(self, data: bytes) -> None:
        self._torn = True
        try:
            await self.connection.wire.send(data, trio.current_time() + self._lane.limits.write_timeout)
        except WireClosed:
            self.lost()
            raise ClientDisconnected("the client has gone") from None
        except WireTimeout:
            if not self.disconnect.gone:
                self._lane.stats.refused["write_timeout"] += 1
                self.lost()
            raise ClientDisconnected("the client does not read") from None
        self._torn = False
        self._sends += 1
        if not self._sends % SENDS_PER_YIELD:
            await trio.lowlevel.checkpoint()

    async def _read(self) -> None:
        """More of the body, or the end of this exchange."""
        connection = self.connection
        if self.inbound.expects_continue and not self._continued and not self.reply.started:
            self._continued = True
            await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            data = await connection.wire.receive(trio.current_time() + self._lane.limits.body_timeout)
        except WireClosed:
            data = b""
        except WireTimeout:
            await self._refuse(refusals.BODY_TIMEOUT)
            return
        if not data:
            self.lost()
            return
        connection.intake.feed(data)
        refusal = connection.intake.refusal
        if refusal is not None and not self.inbound.complete:
            await self._refuse(refusal)

    async def _refuse(self, refusal: Refusal) -> None:
        """The request turned out bad while the app was reading it: answer for the app if it has not begun."""
        self.refused = True
        if not self.reply.started:
            await self.connection.refuse(refusal)
        self._end()

    async def _wait_over(self) -> None:
        if self._over is None:
            self._over = trio.Event()
        await self._over.wait()

    # What the connection calls

    def lost(self) -> None:
        """The client has gone; whoever waits for it learns so now. Idempotent."""
        if not (self.disconnect.gone or self.reply.done):
            self._lane.stats.disconnects += 1
            self._end()

    def _end(self) -> None:
        try:
            self.disconnect.fire()
        except Exception as error:
            self._lane.on_error(error)
        if self._over is not None:
            self._over.set()


class Connection:
    """One client's connection: reads heads, runs the app, decides when it ends. Its owner closes the wire."""

    __slots__ = ("_base", "_fresh", "exchange", "idle", "intake", "lane", "wire")

    def __init__(self, lane: Lane, wire: Wire, base: Scope) -> None:
        """`base`: the part of the scope that all requests share (client, server, scheme)."""
        self.lane = lane
        self.wire = wire
        self.intake = Intake(lane.limits)
        self.exchange: Exchange | None = None
        self.idle = False
        self._fresh = True
        self._base = {"type": "http", "asgi": ASGI_VERSION, "root_path": "", **base}

    async def run(self) -> Inbound | None:
        """Answer requests until the connection is to be closed. A WebSocket's request is returned."""
        intake = self.intake
        with contextlib.suppress(WireClosed):
            while await self._next():
                inbound = intake.ready.popleft()
                if inbound.websocket:
                    return inbound
                if intake.refusal is not None and not inbound.complete:
                    await self._refuse_and_linger(intake.refusal)
                    break
                if not await self._answer(inbound):
                    break
        return None

    def hurry(self) -> None:
        """Draining has begun: an idle connection gets a moment for a request already on its way."""
        if self.idle:
            self.wire.deadline = min(self.wire.deadline, trio.current_time() + DRAIN_GRACE)

    def client_gone(self) -> None:
        """The sweep found that the client has hung up."""
        if self.exchange is not None:
            self.exchange.lost()
            if self.wire.deadline != NEVER:
                self.wire.expire()

    async def refuse(self, refusal: Refusal) -> None:
        stats = self.lane.stats
        stats.refused[refusal.code] += 1
        if refusal.status == 400:
            stats.parse_errors += 1
        with contextlib.suppress(WireClosed, WireTimeout):
            await self.wire.send(refusal.response(), trio.current_time() + REFUSAL_SECONDS)

    async def _next(self) -> bool:
        """Wait until a request's head is there; False when the connection is over."""
        intake = self.intake
        if intake.ready:
            await trio.lowlevel.checkpoint()
            return True
        limits = self.lane.limits
        waiting = limits.header_timeout if self._fresh else limits.idle_timeout
        if self.lane.draining:
            waiting = DRAIN_GRACE
        deadline = trio.current_time() + (limits.header_timeout if intake.mid_head else waiting)
        while not (intake.ready or intake.ended):
            was_mid_head = self._fresh or intake.mid_head
            self.idle = not intake.mid_head
            try:
                data = await self.wire.receive(deadline)
            except WireTimeout:
                if intake.mid_head:
                    await self._refuse_and_linger(refusals.HEADER_TIMEOUT)
                return False
            finally:
                self.idle = False
            if not data:
                return False
            intake.feed(data)
            if intake.mid_head and not was_mid_head:
                deadline = trio.current_time() + limits.header_timeout
        self._fresh = False
        if intake.ready:
            return True
        if intake.refusal is not None:
            await self._refuse_and_linger(intake.refusal)
        return False

    async def _answer(self, inbound: Inbound) -> bool:
        """Run the app for one request; whether the connection goes on."""
        lane = self.lane
        lane.stats.requests += 1
        exchange = self.exchange = Exchange(self, inbound)
        path, raw_path, query = inbound.target
        scope: Scope = {
            **self._base,
            "http_version": inbound.version,
            "method": inbound.method,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": inbound.headers,
            "state": lane.state.copy(),
            "extensions": {"disconnect": exchange.disconnect},
        }
        try:
            await lane.app(scope, exchange.receive, exchange.send)
            if not (exchange.reply.done or exchange.disconnect.gone):
                raise RuntimeError("the app returned without completing its answer")
        except Exception as error:
            self._report(error)
        except BaseExceptionGroup as group:
            self._report_group(group)
        finally:
            self.exchange = None
        return await self._settle(exchange)

    def _report(self, error: BaseException) -> None:
        rest = without_disconnects(error)
        if rest is not None:
            self.lane.on_error(rest)

    def _report_group(self, group: BaseExceptionGroup[BaseException]) -> None:
        """Contain the errors of a mixed group; cancellation and the interpreter's exits pass through."""
        errors, others = group.split(Exception)
        if errors is not None:
            self._report(errors)
        if others is not None:
            raise others

    async def _settle(self, exchange: Exchange) -> bool:
        """The app has returned: complete the answer if it did not; whether the connection goes on."""
        reply = exchange.reply
        clean = exchange.inbound.complete and not self.intake.ready and self.intake.refusal is None
        if exchange.refused:
            clean = False
        elif exchange.disconnect.gone:
            if not reply.done:
                self.wire.abort()
            return False
        elif not reply.started:
            await self.refuse(refusals.INTERNAL_ERROR)
        elif not reply.done:
            if reply.ends_by_close:
                self.wire.abort()
            return False
        elif not reply.close:
            return True
        if not clean:
            await self._linger()
        return False

    async def _refuse_and_linger(self, refusal: Refusal) -> None:
        await self.refuse(refusal)
        await self._linger()

    async def _linger(self) -> None:
        """Say that no more comes, and take what the client is still sending for a moment: closing with unread
        input would reset the connection, and the client might never see the answer.
        """
        self.wire.finish()
        deadline = trio.current_time() + LINGER_SECONDS
        left = LINGER_BYTES
        with contextlib.suppress(WireTimeout):
            while left > 0:
                data = await self.wire.receive(deadline)
                if not data:
                    return
                left -= len(data)
