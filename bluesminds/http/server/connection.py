"""One HTTP/1.1 connection: its requests are handled in order by the ASGI app, in one task.

A request needs no separate task, cancel scope or channel; all deadlines are the wire's. Input is read only
for a request's head or when the app asks for the body, so at most one receive of input is buffered. The
listener's sweep (serve.py) detects client disconnects. A connection that closes with unread input is drained
first, so that the client can read the response.
"""

import contextlib

import trio

from bluesminds.http.asgi import ASGI_VERSION, Scope, without_disconnects
from bluesminds.http.server import rejections
from bluesminds.http.server.exchange import HTTP1Exchange, ServerContext, send_rejection
from bluesminds.http.server.rejections import Rejection
from bluesminds.http.server.request_parser import ParsedRequest, RequestParser
from bluesminds.http.server.websocket import WebSocketUpgrade, read_upgrade
from bluesminds.http.wire import Wire, WireClosed, WireTimeout

LINGER_SECONDS = 2.0
LINGER_BYTES = 8 * 1024 * 1024
DRAIN_GRACE = 0.25  # seconds that an idle connection has for a request already under way


class ServerConnection:
    """One client connection: reads heads, runs the app, decides when to close. The caller closes the wire."""

    __slots__ = ("_base", "_is_new", "_upgrade", "exchange", "idle", "parser", "server", "wire")

    def __init__(self, server: ServerContext, wire: Wire, base: Scope) -> None:
        """`base`: the part of the scope that all requests share (client, server, scheme)."""
        self.server = server
        self.wire = wire
        self.parser = RequestParser(server.limits)
        self.exchange: HTTP1Exchange | None = None
        self._upgrade: WebSocketUpgrade | None = None
        self.idle = False
        self._is_new = True
        self._base = {"type": "http", "asgi": ASGI_VERSION, "root_path": "", **base}

    async def run(self) -> None:
        """Handle requests until the connection must close."""
        parser = self.parser
        with contextlib.suppress(WireClosed):
            while await self._read_head():
                request = parser.ready.popleft()
                if parser.rejection is not None and not request.complete:
                    await self._reject_and_close(parser.rejection)
                    break
                if not await self._handle_request(request):
                    break

    def close_when_idle(self) -> None:
        """Draining has started: close after DRAIN_GRACE if idle, else after the request in progress. A
        WebSocket is closed by the app.
        """
        if self._upgrade is not None:
            self._upgrade.draining.set()
        if self.idle:
            self.wire.read_deadline = min(self.wire.read_deadline, trio.current_time() + DRAIN_GRACE)

    def client_disconnected(self) -> None:
        """The sweep has found that the client has disconnected."""
        if self.exchange is not None:
            self.exchange.client_disconnected()

    async def _read_head(self) -> bool:
        """Wait for a request's head; False when the connection must close."""
        parser = self.parser
        if parser.ready:
            await trio.lowlevel.checkpoint()
            return True
        limits = self.server.limits
        wait = limits.header_timeout if self._is_new else limits.idle_timeout
        if self.server.draining:
            wait = DRAIN_GRACE
        deadline = trio.current_time() + (limits.header_timeout if parser.mid_head else wait)
        while not (parser.ready or parser.ended):
            was_mid_head = self._is_new or parser.mid_head
            self.idle = not parser.mid_head
            try:
                data = await self.wire.receive(deadline)
            except WireTimeout:
                if parser.mid_head:
                    await self._reject_and_close(rejections.HEADER_TIMEOUT)
                return False
            finally:
                self.idle = False
            if not data:
                return False
            parser.feed(data)
            if parser.mid_head and not was_mid_head:
                deadline = trio.current_time() + limits.header_timeout
        self._is_new = False
        if parser.ready:
            return True
        if parser.rejection is not None:
            await self._reject_and_close(parser.rejection)
        return False

    async def _handle_request(self, request: ParsedRequest) -> bool:
        """Run the app for one request. Returns whether the connection stays open."""
        server = self.server
        server.stats.requests += 1
        base = self._base
        exchange = HTTP1Exchange(server, self.wire, self.parser, request, base["client"])
        extensions: dict[str, object] = {"disconnect": exchange.disconnect}
        if request.websocket:
            upgrade = read_upgrade(exchange, self.wire, request, self.parser.leftover)
            if isinstance(upgrade, Rejection):
                await self._reject_and_close(upgrade)
                return False
            self._upgrade = extensions["websocket"] = upgrade
            if server.draining:
                upgrade.draining.set()
        self.exchange = exchange
        path, raw_path, query = request.target
        scope: Scope = {
            **base,
            "http_version": request.version,
            "method": request.method,
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": request.headers,
            "state": server.state.copy(),
            "extensions": extensions,
        }
        try:
            await server.app(scope, exchange.receive, exchange.send)
            if not (exchange.response.done or exchange.upgraded or exchange.disconnect.disconnected):
                raise RuntimeError("the app returned without completing its response")
        except Exception as error:
            self._report(error)
        except BaseExceptionGroup as group:
            self._report_group(group)
        finally:
            self.exchange = None
        return await self._finish_response(exchange)

    def _report(self, error: BaseException) -> None:
        remaining = without_disconnects(error)
        if remaining is not None:
            self.server.on_error(remaining)

    def _report_group(self, group: BaseExceptionGroup[BaseException]) -> None:
        """Report the errors of a mixed group; raise cancellations and interpreter exits again."""
        errors, others = group.split(Exception)
        if errors is not None:
            self._report(errors)
        if others is not None:
            raise others

    async def _finish_response(self, exchange: HTTP1Exchange) -> bool:
        """The app has returned: respond if it did not. Returns whether the connection stays open."""
        response, parser = exchange.response, self.parser
        clean = exchange.request.complete and not (parser.ready or parser.leftover or parser.rejection)
        if exchange.upgraded:
            if self._upgrade is not None:
                self._upgrade.end()
            return False
        if exchange.rejected:
            clean = False
        elif exchange.write_interrupted or exchange.disconnect.disconnected:
            self.wire.abort()
            return False
        elif not response.started:
            await send_rejection(self.server, self.wire, rejections.INTERNAL_ERROR, self._base["client"])
        elif not response.done:
            if response.ends_by_close:
                self.wire.abort()
            return False
        elif not response.close:
            return True
        if not clean:
            await drain_then_close(self.wire, LINGER_SECONDS, LINGER_BYTES)
        return False

    async def _reject_and_close(self, rejection: Rejection) -> None:
        await send_rejection(self.server, self.wire, rejection, self._base["client"])
        await drain_then_close(self.wire, LINGER_SECONDS, LINGER_BYTES)


async def drain_then_close(wire: Wire, seconds: float, limit: int) -> None:
    """Half-close, then read and drop up to `limit` bytes of input. The caller closes the wire.

    Closing with unread input would reset the connection, and the client could lose the response.
    """
    wire.shutdown_write()
    deadline = trio.current_time() + seconds
    with contextlib.suppress(WireTimeout):
        while limit > 0:
            data = await wire.receive(deadline)
            if not data:
                return
            limit -= len(data)
