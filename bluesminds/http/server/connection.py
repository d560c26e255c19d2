"""The HTTP/1.1 lane: one connection's requests, answered in order by the ASGI app, inline in one task.

Nothing per request is a task, a scope or a channel; all deadlines are the wire's. Input is read only when
the head of a request is awaited or the app asks for body, so a client cannot make the server hold more than
one receive of input. That a client has left is found by the server's sweep (server.py), which calls
`client_gone`. After an answer that leaves input unread the connection lingers, so that the client can read.
"""

import contextlib

import trio

from bluesminds.http.asgi import ASGI_VERSION, Scope, without_disconnects
from bluesminds.http.server import rejections
from bluesminds.http.server.exchange import Exchange, ServerContext, refuse
from bluesminds.http.server.rejections import Rejection
from bluesminds.http.server.request_parser import ParsedRequest, RequestParser
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

LINGER_SECONDS = 2.0
LINGER_BYTES = 8 * 1024 * 1024
DRAIN_GRACE = 0.25  # an idle connection's last chance to deliver a request that is already on its way


class Connection:
    """One client's connection: reads heads, runs the app, decides when it ends. Its owner closes the wire."""

    __slots__ = ("_base", "_fresh", "exchange", "idle", "intake", "lane", "wire")

    def __init__(self, lane: ServerContext, wire: Wire, base: Scope) -> None:
        """`base`: the part of the scope that all requests share (client, server, scheme)."""
        self.lane = lane
        self.wire = wire
        self.intake = RequestParser(lane.limits)
        self.exchange: Exchange | None = None
        self.idle = False
        self._fresh = True
        self._base = {"type": "http", "asgi": ASGI_VERSION, "root_path": "", **base}

    async def run(self) -> ParsedRequest | None:
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

    def close_when_idle(self) -> None:
        """Draining has begun: an idle connection gets a moment for a request already on its way."""
        if self.idle:
            self.wire.read_deadline = min(self.wire.read_deadline, trio.current_time() + DRAIN_GRACE)

    def client_gone(self) -> None:
        """The sweep found that the client has hung up."""
        if self.exchange is not None:
            self.exchange.lost()

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
                    await self._refuse_and_linger(rejections.HEADER_TIMEOUT)
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

    async def _answer(self, inbound: ParsedRequest) -> bool:
        """Run the app for one request; whether the connection goes on."""
        lane = self.lane
        lane.stats.requests += 1
        base = self._base
        exchange = self.exchange = Exchange(lane, self.wire, self.intake, inbound, base["client"])
        path, raw_path, query = inbound.target
        scope: Scope = {
            **base,
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
        elif exchange.write_interrupted or exchange.disconnect.gone:
            self.wire.abort()
            return False
        elif not reply.started:
            await refuse(self.lane, self.wire, rejections.INTERNAL_ERROR, self._base["client"])
        elif not reply.done:
            if reply.ends_by_close:
                self.wire.abort()
            return False
        elif not reply.close:
            return True
        if not clean:
            await drain_then_close(self.wire, LINGER_SECONDS, LINGER_BYTES)
        return False

    async def _refuse_and_linger(self, refusal: Rejection) -> None:
        await refuse(self.lane, self.wire, refusal, self._base["client"])
        await drain_then_close(self.wire, LINGER_SECONDS, LINGER_BYTES)


async def drain_then_close(wire: Wire, seconds: float, limit: int) -> None:
    """Say that no more comes, and take what the client is still sending, up to `limit` bytes: closing with
    unread input would reset the connection, and the client might never see the answer.
    """
    wire.finish()
    deadline = trio.current_time() + seconds
    with contextlib.suppress(WireTimeout):
        while limit > 0:
            data = await wire.receive(deadline)
            if not data:
                return
            limit -= len(data)
