"""The listener: accepts connections within limits, isolates their errors, and drains on shutdown.

`serve` owns every task it starts. One connection is one task: HTTP/1.1 and WebSockets (connection.py), or
Hypercorn for HTTP/2 (hypercorn.py). No error of an app, a parser or a client leaves its connection's task.
One sweep detects disconnected clients, so that requests pay nothing for it.
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
from bluesminds.http.server.connection import ServerConnection, drain_then_close
from bluesminds.http.server.exchange import Client, ServerContext
from bluesminds.http.server.hypercorn import Hypercorn
from bluesminds.http.server.lifespan import Lifespan, LifespanError
from bluesminds.http.server.limits import ListenerLimits, ListenerStats
from bluesminds.http.server.proxy_protocol import BadHeader, read_client
from bluesminds.http.server.rejections import OnRejection, Rejection
from bluesminds.http.server.sockets import BACKLOG, bind_tcp, bind_unix
from bluesminds.http.wire import SocketWire, TLSWire, Wire, WireClosed

__all__ = ["LifespanError", "ListenerLimits", "ListenerStats", "bind_tcp", "bind_unix", "serve"]

SWEEP_SECONDS = 0.2  # seconds between two checks for disconnected clients
ACCEPTS_PER_WAKE = 64
ACCEPT_PAUSE = 0.1
ACCEPT_ERROR_INTERVAL = 60.0  # seconds between two reports of failed accepts
CLOSE_SECONDS = 1.0
MAX_REJECTING = 256  # connections over a limit that may read their rejection at the same time
REJECT_SECONDS = 1.0
REJECT_BYTES = 1024 * 1024
_HANGUP_EVENTS = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
_BROKEN_LISTENER = frozenset((errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP))


async def serve(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    limits: ListenerLimits,
    *,
    tls: ssl.SSLContext | None = None,
    http2: bool = False,
    proxies: Networks | None = None,
    on_error: OnError,
    on_rejection: OnRejection = lambda client, rejection, request_id, suppressed: None,
    shutdown: trio.Event,
    stats: ListenerStats,
    task_status: trio.TaskStatus[list[Address]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI 3 app on listening sockets until `shutdown` and a full drain; then close the sockets.

    `task_status` gets the bound addresses once the lifespan has started and connections are accepted, or
    when `shutdown` is set before that. `on_error` gets every error of a connection, `on_rejection` (see
    rejections.py) every response sent without the app; neither may raise. Cancelling ends all connections at
    once. With `http2`, ALPN offers h2; it needs `tls`. With `proxies`, TCP connections are only accepted from
    these and begin with a PROXY protocol header (proxy_protocol.py).

    Raises LifespanError if the app fails to start or stop, or exceeds the time for it.
    """
    if tls is not None:
        tls.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    lifespan = Lifespan(app, on_error)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run)
            if await lifespan.start(shutdown):
                context = ServerContext(app, limits, stats, on_error, on_rejection, lifespan.state)
                listener = _Listener(context, tls, proxies)
                drained_by = await listener.run(sockets, shutdown, task_status)
                await lifespan.stop(drained_by)
            elif lifespan.failure is None:
                task_status.started([sock.getsockname() for sock in sockets])
            nursery.cancel_scope.cancel()
    finally:
        for sock in sockets:
            sock.close()
    if lifespan.failure is not None:
        raise LifespanError(lifespan.failure)


class _Listener:
    def __init__(self, server: ServerContext, tls: ssl.SSLContext | None, proxies: Networks | None) -> None:
        self._server = server
        self._tls = tls
        self._proxies = proxies
        self._hypercorn = Hypercorn(server)
        self._connections: set[ServerConnection] = set()
        self._counter = ConnectionCounter(server.limits.max_connections_per_ip)
        self._reported_at = -ACCEPT_ERROR_INTERVAL
        self._rejecting = 0

    async def run(
        self,
        sockets: Sequence[socket.socket],
        shutdown: trio.Event,
        task_status: trio.TaskStatus[list[Address]],
    ) -> float:
        """Returns the time, on Trio's clock, at which the drain had to end."""
        self._set_date()
        async with trio.open_nursery() as sweepers:
            sweepers.start_soon(self._server.deadlines.run)
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
                drained_by = trio.current_time() + self._server.limits.drain_timeout
                connections.cancel_scope.deadline = drained_by
            if connections.cancel_scope.cancelled_caught:
                self._server.stats.refused["drain_timeout"] += 1
            sweepers.cancel_scope.cancel()
        return drained_by

    async def _begin_drain(self) -> None:
        self._server.draining = True
        await self._hypercorn.terminate()
        for connection in self._connections:
            connection.close_when_idle()

    # Accepting

    async def _accept(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                for _ in range(ACCEPTS_PER_WAKE):
                    self._handle_accepted(*sock.accept(), nursery)
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                continue
            except OSError as error:
                if error.errno in _BROKEN_LISTENER:
                    raise
                await self._accept_failed(error)

    def _accept_last(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        """Close a listening socket after accepting the connections in its queue."""
        with contextlib.suppress(OSError):
            for _ in range(BACKLOG):
                self._handle_accepted(*sock.accept(), nursery)
        sock.close()

    async def _accept_failed(self, error: OSError) -> None:
        """Count the error (mostly EMFILE), report it at intervals, and pause."""
        self._server.stats.refused["descriptors"] += 1
        now = trio.current_time()
        if now - self._reported_at >= ACCEPT_ERROR_INTERVAL:
            self._reported_at = now
            self._server.on_error(error)
        await trio.sleep(ACCEPT_PAUSE)

    def _handle_accepted(self, client: socket.socket, address: Address, nursery: trio.Nursery) -> None:
        limits, stats = self._server.limits, self._server.stats
        client.setblocking(False)
        peer = peer_of(client, address)
        proxied = self._proxies is not None and peer is not None
        rejection = None
        if stats.open >= limits.max_connections:
            rejection = rejections.TOO_MANY_CONNECTIONS
        elif proxied and not self._is_proxy(peer):
            rejection = rejections.UNKNOWN_PROXY
        elif not proxied and self._counter.is_full(peer):
            rejection = rejections.TOO_MANY_CONNECTIONS_PER_IP
        if rejection is not None:
            request_id = self._server.count_rejection(rejection, peer)
            if self._tls is None and self._rejecting < MAX_REJECTING:
                self._rejecting += 1
                nursery.start_soon(self._reject, client, rejection, request_id)
            else:
                client.close()
            return
        stats.accepted += 1
        stats.open += 1
        source = None if proxied else self._counter.enter(peer)
        nursery.start_soon(self._run_connection, client, peer, source, proxied)

    def _is_proxy(self, peer: Client) -> bool:
        address = None if peer is None else read_address(peer[0])
        return address is not None and self._proxies is not None and self._proxies.hold(address)

    async def _reject(self, client: socket.socket, rejection: Rejection, request_id: str) -> None:
        """Send a rejection and close, also while the client is still sending."""
        wire = SocketWire(client)
        self._server.deadlines.add(wire)
        try:
            wire.send_now(rejection.response(request_id))
            with contextlib.suppress(WireClosed):
                await drain_then_close(wire, REJECT_SECONDS, REJECT_BYTES)
        finally:
            self._server.deadlines.discard(wire)
            self._rejecting -= 1
            wire.close()

    # One connection

    async def _run_connection(
        self, client: socket.socket, peer: Client, source: Source | None, proxied: bool
    ) -> None:
        server = self._server
        try:
            await (self._serve_proxied(client, peer) if proxied else self._serve_connection(client, peer))
        except OSError:
            server.stats.disconnects += 1
        except Exception as error:
            server.on_error(error)
        except BaseExceptionGroup as group:
            errors, others = group.split(Exception)
            if errors is not None:
                server.on_error(errors)
            if others is not None:
                raise others from None
        finally:
            client.close()
            server.stats.open -= 1
            self._counter.leave(source)

    async def _serve_proxied(self, client: socket.socket, proxy: Client) -> None:
        """Serve a connection that begins with a PROXY protocol header."""
        peer, rejection = proxy, None
        try:
            with trio.fail_after(self._server.limits.handshake_timeout):
                peer = await read_client(client, proxy)
            if self._counter.is_full(peer):
                rejection = rejections.TOO_MANY_CONNECTIONS_PER_IP
        except trio.TooSlowError:
            self._server.stats.refused["handshake"] += 1
            return
        except BadHeader:
            rejection = rejections.BAD_PROXY_HEADER
        if rejection is None:
            source = self._counter.enter(peer)
            try:
                await self._serve_connection(client, peer)
            finally:
                self._counter.leave(source)
            return
        await self._count_and_reject(client, peer, rejection, readable=self._tls is None)

    async def _count_and_reject(
        self, client: socket.socket, peer: Client, rejection: Rejection, *, readable: bool
    ) -> None:
        """`readable`: the client does not expect TLS."""
        request_id = self._server.count_rejection(rejection, peer)
        if readable and self._rejecting < MAX_REJECTING:
            self._rejecting += 1
            await self._reject(client, rejection, request_id)

    async def _serve_connection(self, client: socket.socket, peer: Client) -> None:
        base = _scope_base(client, peer, self._tls is not None)
        if self._tls is None:
            await self._serve_http1(SocketWire(client), base)
            return
        transport = trio.SocketStream(trio.socket.from_stdlib_socket(client))
        stream = trio.SSLStream(transport, self._tls, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self._server.limits.handshake_timeout):
                await stream.do_handshake()
        except trio.TooSlowError:
            self._server.stats.refused["handshake"] += 1
            return
        except trio.BrokenResourceError as error:
            if _is_plain_http(error):
                await self._count_and_reject(client, peer, rejections.HTTPS_REQUIRED, readable=True)
            else:
                self._server.stats.refused["handshake"] += 1
            return
        wire = TLSWire(stream)
        try:
            if stream.selected_alpn_protocol() == "h2":
                await self._serve_http2(wire, base)
            else:
                await self._serve_http1(wire, base)
        finally:
            with (
                contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
                trio.move_on_after(CLOSE_SECONDS, shield=True),
            ):
                await stream.aclose()

    async def _serve_http1(self, wire: Wire, base: Scope) -> None:
        server = self._server
        connection = ServerConnection(server, wire, base)
        server.deadlines.add(wire)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            server.deadlines.discard(wire)

    async def _serve_http2(self, wire: Wire, base: Scope) -> None:
        self._server.deadlines.add(wire)
        try:
            await self._hypercorn.http2(wire, base)
        finally:
            self._server.deadlines.discard(wire)

    # Sweeping

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_SECONDS)
            self._set_date()
            self._find_disconnected()

    def _set_date(self) -> None:
        self._server.date = f"date: {formatdate(usegmt=True)}\r\n".encode()

    def _find_disconnected(self) -> None:
        """Check the connections whose request is older than one sweep, in one system call."""
        watched: dict[int, ServerConnection] = {}
        for connection in self._connections:
            exchange = connection.exchange
            if exchange is not None and not exchange.upgraded:
                if exchange.swept_once:
                    watched[connection.wire.fileno()] = connection
                exchange.swept_once = True
        watched.pop(-1, None)
        if watched:
            for descriptor in _disconnected(watched):
                watched[descriptor].client_disconnected()


def _disconnected(descriptors: Iterable[int]) -> list[int]:
    """Descriptors whose peer has closed or reset. A half-closed client counts as disconnected."""
    if not hasattr(select, "POLLRDHUP"):
        return [descriptor for descriptor in descriptors if _at_end(descriptor)]
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, _HANGUP_EVENTS)
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


def _is_plain_http(error: trio.BrokenResourceError) -> bool:
    """Whether a TLS handshake failed because OpenSSL read an HTTP request line."""
    return isinstance(error.__cause__, ssl.SSLError) and error.__cause__.reason == "HTTP_REQUEST"
