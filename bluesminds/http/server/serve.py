"""The listening side: accepts within caps, contains whatever a connection does, drains when told to.

`serve` owns every task it starts. One connection is one task: the HTTP/1.1 lane (http1.py), or Hypercorn
behind its containment (hypercorn.py) for HTTP/2 and WebSockets. No error of an app, a parser or a client
leaves a connection's task. One sweep looks for departed clients, so that watching costs nothing per request.
"""

import contextlib
import errno
import os
import select
import socket
import ssl
from collections.abc import Iterable, Sequence
from email.utils import formatdate

import trio

from bluesminds.common.networks import Networks, read_address
from bluesminds.http.asgi import ASGIApp, OnError, Scope
from bluesminds.http.server import rejections
from bluesminds.http.server.client_address import Address, ConnectionCounter, Source, peer_of
from bluesminds.http.server.connection import Connection, drain_then_close
from bluesminds.http.server.exchange import Client, ServerContext
from bluesminds.http.server.hypercorn import Hypercorn
from bluesminds.http.server.lifespan import Lifespan, LifespanError
from bluesminds.http.server.limits import Limits, Stats
from bluesminds.http.server.proxy_protocol import BadHeader, read_client
from bluesminds.http.server.rejections import OnRefusal, Rejection
from bluesminds.http.server.sockets import BACKLOG, bind_tcp, bind_unix
from bluesminds.http.wire import SocketWire, TLSWire, Wire, WireClosed

__all__ = ["LifespanError", "Limits", "Stats", "bind_tcp", "bind_unix", "serve"]

SWEEP = 0.2  # seconds between two looks for departed clients
ACCEPTS_PER_WAKE = 64
ACCEPT_PAUSE = 0.1
COMPLAINT_INTERVAL = 60.0  # between two reports of failing accepts
CLOSE_SECONDS = 1.0
DISMISSALS = 256  # connections over a cap that may take their answer at one time
DISMISSAL_SECONDS = 1.0
DISMISSAL_BYTES = 1024 * 1024
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_BROKEN_LISTENER = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP))


async def serve(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    limits: Limits,
    *,
    tls: ssl.SSLContext | None = None,
    http2: bool = False,
    proxies: Networks | None = None,
    on_error: OnError,
    on_refusal: OnRefusal = lambda client, refusal, request_id, suppressed: None,
    shutdown: trio.Event,
    stats: Stats,
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI 3 app on listening sockets, closed at the end, until `shutdown` and a full drain.

    `task_status` gets the bound addresses once the app's lifespan has started and connections are accepted,
    or `shutdown` has come before that. `on_error` gets every contained error, `on_refusal` (see refusals.py)
    the answers given without the app; neither must raise. Cancelling ends all connections at once. With
    `http2`, ALPN offers h2; it needs `tls`. With `proxies`, TCP connections come from them alone and begin
    with a PROXY protocol header (proxy_protocol.py).

    Raises LifespanError if the app says it cannot start or stop, or does neither in time.
    """
    if tls is not None:
        tls.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    lifespan = Lifespan(app, on_error)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run)
            if await lifespan.start(shutdown):
                lane = ServerContext(app, limits, stats, on_error, on_refusal, lifespan.state)
                server = _Server(lane, tls, proxies)
                drained_by = await server.run(sockets, shutdown, task_status)
                await lifespan.stop(drained_by)
            elif lifespan.failure is None:
                task_status.started([sock.getsockname() for sock in sockets])
            nursery.cancel_scope.cancel()
    finally:
        for sock in sockets:
            sock.close()
    if lifespan.failure is not None:
        raise LifespanError(lifespan.failure)


class _Server:
    def __init__(self, lane: ServerContext, tls: ssl.SSLContext | None, proxies: Networks | None) -> None:
        self._lane = lane
        self._tls = tls
        self._proxies = proxies
        self._hypercorn = Hypercorn(lane)
        self._connections: set[Connection] = set()
        self._crowd = ConnectionCounter(lane.limits.max_connections_per_ip)
        self._complained = -COMPLAINT_INTERVAL
        self._dismissals = 0

    async def run(
        self,
        sockets: Sequence[socket.socket],
        shutdown: trio.Event,
        task_status: trio.TaskStatus[list[Address]],
    ) -> float:
        """Returns the time, on Trio's clock, by which the drain had to be over."""
        self._set_date()
        async with trio.open_nursery() as sweepers:
            sweepers.start_soon(self._lane.deadlines.run)
            sweepers.start_soon(self._sweep)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as listeners:
                    for sock in sockets:
                        sock.setblocking(False)
                        listeners.start_soon(self._accept, sock, connections)
                    task_status.started([sock.getsockname() for sock in sockets])
                    await shutdown.wait()
                    listeners.cancel_scope.cancel()
                for sock in sockets:
                    self._accept_last(sock, connections)
                await self._begin_drain()
                drained_by = trio.current_time() + self._lane.limits.drain_timeout
                connections.cancel_scope.deadline = drained_by
            if connections.cancel_scope.cancelled_caught:
                self._lane.stats.refused["drain_timeout"] += 1
            sweepers.cancel_scope.cancel()
        return drained_by

    async def _begin_drain(self) -> None:
        self._lane.draining = True
        await self._hypercorn.terminate()
        for connection in self._connections:
            connection.close_when_idle()

    # Accepting

    async def _accept(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                for _ in range(ACCEPTS_PER_WAKE):
                    self._admit(*sock.accept(), nursery)
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                continue
            except OSError as error:
                if error.errno in _BROKEN_LISTENER:
                    raise
                await self._accept_failed(error)

    def _accept_last(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Close a listener; who has connected before gets an answer."""
        with contextlib.suppress(OSError):
            for _ in range(BACKLOG):
                self._admit(*sock.accept(), nursery)
        sock.close()

    async def _accept_failed(self, error: OSError) -> None:
        """Mostly a lack of descriptors, which only time mends: wait, count, and complain now and then."""
        self._lane.stats.refused["descriptors"] += 1
        now = trio.current_time()
        if now - self._complained >= COMPLAINT_INTERVAL:
            self._complained = now
            self._lane.on_error(error)
        await trio.sleep(ACCEPT_PAUSE)

    def _admit(self, client: socket.socket, address: Address, nursery: trio.Nursery) -> None:
        limits, stats = self._lane.limits, self._lane.stats
        client.setblocking(False)
        peer = peer_of(client, address)
        proxied = self._proxies is not None and peer is not None
        refusal = None
        if stats.open >= limits.max_connections:
            refusal = rejections.TOO_MANY_CONNECTIONS
        elif proxied and not self._is_proxy(peer):
            refusal = rejections.UNKNOWN_PROXY
        elif not proxied and self._crowd.is_full(peer):
            refusal = rejections.TOO_MANY_FROM_HERE
        if refusal is not None:
            request_id = self._lane.refused(refusal, peer)
            if self._tls is None and self._dismissals < DISMISSALS:
                self._dismissals += 1
                nursery.start_soon(self._dismiss, client, refusal, request_id)
            else:
                client.close()
            return
        stats.accepted += 1
        stats.open += 1
        source = None if proxied else self._crowd.enter(peer)
        nursery.start_soon(self._contain, client, peer, source, proxied)

    def _is_proxy(self, peer: Client) -> bool:
        address = None if peer is None else read_address(peer[0])
        return address is not None and self._proxies is not None and self._proxies.hold(address)

    async def _dismiss(self, client: socket.socket, refusal: Rejection, request_id: str) -> None:
        """Tell a connection that it is not served, also when it is sending already."""
        wire = SocketWire(client)
        self._lane.deadlines.add(wire)
        try:
            wire.send_now(refusal.response(request_id))
            with contextlib.suppress(WireClosed):
                await drain_then_close(wire, DISMISSAL_SECONDS, DISMISSAL_BYTES)
        finally:
            self._lane.deadlines.discard(wire)
            self._dismissals -= 1
            wire.close()

    # One connection

    async def _contain(
        self, client: socket.socket, peer: Client, source: Source | None, proxied: bool
    ) -> None:
        lane = self._lane
        try:
            await (self._proxied(client, peer) if proxied else self._connection(client, peer))
        except OSError:
            lane.stats.disconnects += 1
        except Exception as error:
            lane.on_error(error)
        except BaseExceptionGroup as group:
            errors, others = group.split(Exception)
            if errors is not None:
                lane.on_error(errors)
            if others is not None:
                raise others from None
        finally:
            client.close()
            lane.stats.open -= 1
            self._crowd.leave(source)

    async def _proxied(self, client: socket.socket, proxy: Client) -> None:
        """A connection that begins with whose it is."""
        peer, refusal = proxy, None
        try:
            with trio.fail_after(self._lane.limits.handshake_timeout):
                peer = await read_client(client, proxy)
            if self._crowd.is_full(peer):
                refusal = rejections.TOO_MANY_FROM_HERE
        except trio.TooSlowError:
            self._lane.stats.refused["handshake"] += 1
            return
        except BadHeader:
            refusal = rejections.BAD_PROXY_HEADER
        if refusal is None:
            source = self._crowd.enter(peer)
            try:
                await self._connection(client, peer)
            finally:
                self._crowd.leave(source)
            return
        request_id = self._lane.refused(refusal, peer)
        if self._tls is None and self._dismissals < DISMISSALS:
            self._dismissals += 1
            await self._dismiss(client, refusal, request_id)

    async def _connection(self, client: socket.socket, peer: Client) -> None:
        base = _scope_base(client, peer, self._tls is not None)
        if self._tls is None:
            await self._speak(SocketWire(client), base)
            return
        transport = trio.SocketStream(trio.socket.from_stdlib_socket(client))
        stream = trio.SSLStream(transport, self._tls, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._lane.limits.handshake_timeout):
                await stream.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError):
            self._lane.stats.refused["handshake"] += 1
            return
        wire = TLSWire(stream)
        try:
            if stream.selected_alpn_protocol() == "h2":
                await self._speak_http2(wire, base)
            else:
                await self._speak(wire, base)
        finally:
            with (
                contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
                trio.move_on_after(CLOSE_SECONDS, shield=True),
            ):
                await stream.aclose()

    async def _speak(self, wire: Wire, base: Scope) -> None:
        lane = self._lane
        connection = Connection(lane, wire, base)
        lane.deadlines.add(wire)
        self._connections.add(connection)
        try:
            websocket = await connection.run()
            if websocket is not None:
                lane.stats.requests += 1
                await self._hypercorn.websocket(wire, base, websocket, connection.intake.leftover)
        finally:
            self._connections.discard(connection)
            lane.deadlines.discard(wire)

    async def _speak_http2(self, wire: Wire, base: Scope) -> None:
        self._lane.deadlines.add(wire)
        try:
            await self._hypercorn.http2(wire, base)
        finally:
            self._lane.deadlines.discard(wire)

    # Sweeping

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP)
            self._set_date()
            self._find_departed()

    def _set_date(self) -> None:
        self._lane.date = f"date: {formatdate(usegmt=True)}\r\n".encode()

    def _find_departed(self) -> None:
        """Look at connections whose request has been in hand since the last sweep, in one system call."""
        watched: dict[int, Connection] = {}
        for connection in self._connections:
            exchange = connection.exchange
            if exchange is not None:
                if exchange.seen:
                    watched[connection.wire.fileno()] = connection
                exchange.seen = True
        watched.pop(-1, None)
        if watched:
            for descriptor in _hung_up(watched):
                watched[descriptor].client_gone()


def _hung_up(descriptors: Iterable[int]) -> list[int]:
    """Those whose peer has finished sending or reset. A half-closed client counts as gone."""
    if not hasattr(select, "POLLRDHUP"):
        return [descriptor for descriptor in descriptors if _at_end(descriptor)]
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, _GONE)
    return [descriptor for descriptor, _ in poll.poll(0)]


def _at_end(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        try:
            return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def _scope_base(client: socket.socket, peer: Client, tls: bool) -> Scope:
    scheme = "https" if tls else "http"
    if client.family == socket.AF_UNIX:
        return {"scheme": scheme, "client": None, "server": (client.getsockname(), None)}
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return {"scheme": scheme, "client": peer, "server": tuple(client.getsockname()[:2])}
