"""The outbound HTTP/1.1 pool: llhttp on Trio sockets, keep-alive per origin, streaming both ways.

On a kept-alive connection a small request costs one send and one wait: no lock, task or cancel scope. A
cancelled call keeps both connection limits correct. A kept-alive connection that the upstream had closed is
replaced once, if no byte of a response arrived, the body can be repeated, and the upstream cannot have
processed the request: it was not sent completely, or the connection ended within _ROUND_TRIP_SECONDS (GET and
HEAD: _SAFE_SECONDS). A slow, malformed or hostile upstream ends in an UpstreamError within the timeouts. A
WebSocket has a separate connection, which counts until it ends. Not supported: HTTP/2, other upgrades,
redirects, cookies, proxies. Only SSL_CERT_FILE and SSL_CERT_DIR, which OpenSSL reads, are taken from the
environment.
"""

import select
import ssl
from collections.abc import Callable, Sequence

import trio

from bluesminds.http.client.address_policy import AddressPolicy
from bluesminds.http.client.connect import open_wire
from bluesminds.http.client.connection import UpstreamConnection
from bluesminds.http.client.diagnosis import ConnectStep, diagnose
from bluesminds.http.client.errors import (
    BodyTooLarge,
    ChunkTimeout,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    LocalResourceError,
    Phase,
    PoolTimeout,
    UpstreamCut,
    UpstreamError,
    UpstreamProtocolError,
    WriteTimeout,
)
from bluesminds.http.client.exchange import RequestBody, Timeouts, declared_length, render_head, send_request
from bluesminds.http.client.origin import UpstreamOrigin, tls_context
from bluesminds.http.client.response import Response, make_decoder
from bluesminds.http.client.slots import OriginSlots, PoolSlots
from bluesminds.http.client.websocket import ClientHandshake, HandshakeRejected, WebSocketRequest
from bluesminds.http.deadlines import NEVER, TICK, Deadlines
from bluesminds.http.websocket import WebSocket

__all__ = [
    "AddressPolicy",
    "BodyTooLarge",
    "ChunkTimeout",
    "ConnectFailed",
    "ConnectStep",
    "ConnectTimeout",
    "FirstByteTimeout",
    "HandshakeRejected",
    "LocalResourceError",
    "Pool",
    "PoolTimeout",
    "Response",
    "Timeouts",
    "UpstreamCut",
    "UpstreamError",
    "UpstreamOrigin",
    "UpstreamProtocolError",
    "WebSocketRequest",
    "WriteTimeout",
    "tls_context",
]

# A connection that the upstream had already closed fails within a round trip. After a later failure the
# upstream may have processed the request: a completion is billed, so it is not repeated.
_ROUND_TRIP_SECONDS = 0.1  # seconds
_SAFE_METHODS = (b"GET", b"HEAD")
_SAFE_SECONDS = 2.0


class Pool:
    """Connections to any number of origins. Usable while `run` is running."""

    def __init__(
        self,
        *,
        max_connections: int = 1000,
        max_per_origin: int = 500,
        max_idle_seconds: float = 55.0,
        tls: ssl.SSLContext | None = None,
        policy: AddressPolicy | None = None,
    ) -> None:
        """max_idle_seconds: below the keep-alive time of common servers. tls: default, the system's store.
        policy: for origins that are not trusted; default, no private addresses.
        """
        self._policy = policy or AddressPolicy()
        self._slots = PoolSlots(max_connections, max_per_origin)
        self._max_idle = max_idle_seconds
        self._tls = tls or tls_context(None)
        self._deadlines = Deadlines()
        self._connections: set[UpstreamConnection] = set()
        self._running = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Enforce deadlines and close old idle connections until cancelled; then close every connection."""
        self._running = True
        task_status.started()
        try:
            while True:
                await trio.sleep(TICK)
                now = trio.current_time()
                self._deadlines.expire_due(now)
                self._close_idle(now)
        finally:
            self._running = False
            self._slots.wake_all()
            for origin_slots, connection in list(self._slots.idle()):
                self._slots.close_idle(origin_slots, connection)
            for connection in list(self._connections):
                connection.close()

    async def request(
        self,
        method: bytes,
        origin: UpstreamOrigin,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: RequestBody = b"",
        *,
        timeouts: Timeouts,
        sending: Callable[[], None] | None = None,
    ) -> Response:
        """Send a request; returns when the head of its final response is complete. `sending` is called when
        there is a connection for it.

        target: origin form ("/v1/models?x=y"), already percent-encoded. Framing and connection
        headers are dropped; Host and `Accept-Encoding: identity` are added. An iterable body
        is sent chunked unless `headers` has its Content-Length. Raises UpstreamError, ValueError for an
        invalid request, and the errors of an iterable body.
        """
        origin_slots = self._slots.for_origin(origin)
        head = render_head(method, target, origin_slots.host_lines, headers, body)
        length = None if isinstance(body, bytes) else declared_length(headers)
        connection = self._take_idle(origin_slots) or await self._acquire(origin_slots, timeouts)
        if sending is not None:
            sending()
        try:
            try:
                await send_request(connection, method, head, body, length, timeouts)
            except UpstreamCut:
                if not (isinstance(body, bytes) and _was_stale(connection, method)):
                    raise
                connection.close()
                connection = await self._connect(origin, timeouts)
                await send_request(connection, method, head, body, length, timeouts)
            decoder = make_decoder(connection)
        except BaseException:
            connection.close()
            self._slots.release(origin_slots)
            raise
        return Response(connection, origin_slots, self._slots, timeouts.between_chunks, decoder)

    async def diagnose(self, origin: UpstreamOrigin) -> list[ConnectStep]:
        """The steps of a new connection, which is closed again. The caller sets the deadline."""
        return await diagnose(origin, self._tls, self._policy)

    async def open_websocket(
        self, origin: UpstreamOrigin, request: WebSocketRequest, *, timeouts: Timeouts
    ) -> WebSocket | HandshakeRejected:
        """Open a WebSocket on a new connection; the caller closes it. Raises UpstreamError, and ValueError
        for an invalid request.
        """
        origin_slots = self._slots.for_origin(origin)
        connection = await self._open_new(origin_slots, timeouts)

        def end() -> None:
            connection.close()
            self._slots.release(origin_slots)

        try:
            handshake = ClientHandshake(connection.wire, origin.authority, request, timeouts)
            outcome = await handshake.run()
        except BaseException:
            end()
            raise
        if isinstance(outcome, HandshakeRejected):
            end()
            return outcome
        return WebSocket(
            connection.wire,
            outcome,
            request.limits,
            subprotocol=handshake.subprotocol,
            hold=request.hold,
            ended=end,
        )

    def in_use(self, origin: UpstreamOrigin) -> int:
        """Connections of an origin that have a request or are being opened."""
        slots = self._slots.by_origin.get(origin)
        return 0 if slots is None else slots.open - len(slots.idle)

    def _take_idle(self, origin_slots: OriginSlots) -> UpstreamConnection | None:
        """A kept-alive connection without unexpected input, which could be read as a response."""
        while origin_slots.idle:
            connection = origin_slots.idle.pop()
            if connection.is_reusable():
                return connection
            connection.close()
            self._slots.release(origin_slots)
        return None

    async def _acquire(self, origin_slots: OriginSlots, timeouts: Timeouts) -> UpstreamConnection:
        """Wait for a free slot if needed; open a connection unless one is handed over."""
        if not self._running:
            raise _closed("connect")
        if not self._slots.reserve(origin_slots):
            connection = await self._wait_for_slot(origin_slots, timeouts.pool)
            if connection is not None:
                if connection.is_reusable():
                    return connection
                connection.close()
        try:
            return await self._connect(origin_slots.origin, timeouts)
        except BaseException:
            self._slots.release(origin_slots)
            raise

    async def _open_new(self, origin_slots: OriginSlots, timeouts: Timeouts) -> UpstreamConnection:
        """A new connection. It replaces a kept-alive one if a limit is reached."""
        if not self._running:
            raise _closed("connect")
        if not self._slots.reserve(origin_slots):
            if origin_slots.idle:
                kept: UpstreamConnection | None = origin_slots.idle.popleft()
            else:
                kept = await self._wait_for_slot(origin_slots, timeouts.pool)
            if kept is not None:
                kept.close()
        try:
            return await self._connect(origin_slots.origin, timeouts)
        except BaseException:
            self._slots.release(origin_slots)
            raise

    async def _wait_for_slot(self, origin_slots: OriginSlots, limit: float) -> UpstreamConnection | None:
        waiter = self._slots.enqueue(origin_slots)
        try:
            with trio.move_on_after(limit):
                await waiter.woken.wait()
        except BaseException:
            self._slots.cancel(waiter)
            raise
        if waiter.granted:
            return waiter.connection
        self._slots.cancel(waiter)
        if not self._running:
            raise _closed("pool")
        raise PoolTimeout("no connection to the upstream became free in time", phase="pool", sent=False)

    async def _connect(self, origin: UpstreamOrigin, timeouts: Timeouts) -> UpstreamConnection:
        wire = None
        with trio.move_on_after(timeouts.connect):
            wire = await open_wire(origin, self._tls, self._policy)
        if wire is None:
            raise ConnectTimeout(
                "the upstream did not accept a connection in time", phase="connect", sent=False
            )
        if not self._running:
            wire.close()
            raise _closed("connect")
        connection = UpstreamConnection(wire, self._forget_connection)
        self._connections.add(connection)
        self._deadlines.add(wire)
        return connection

    def _forget_connection(self, connection: UpstreamConnection) -> None:
        self._connections.discard(connection)
        self._deadlines.discard(connection.wire)

    def _close_idle(self, now: float) -> None:
        """Close idle connections that are too old or have unexpected input."""
        idle = {
            connection.wire.fileno(): (origin_slots, connection)
            for origin_slots, connection in self._slots.idle()
        }
        poller = select.poll()
        for descriptor in idle:
            poller.register(descriptor, select.POLLIN)
        readable = {descriptor for descriptor, _ in poller.poll(0)}
        for descriptor, (origin_slots, connection) in idle.items():
            if descriptor in readable or connection.idle_since < now - self._max_idle:
                self._slots.close_idle(origin_slots, connection)
        self._slots.prune()


def _closed(phase: Phase) -> ConnectFailed:
    return ConnectFailed("the connection pool is closed", phase=phase, sent=False)


def _was_stale(connection: UpstreamConnection, method: bytes) -> bool:
    """Whether the failure means that the upstream had closed the kept-alive connection before the request."""
    if not connection.responses or not connection.nothing_received:
        return False
    now = trio.current_time()
    if connection.sent_at == NEVER or method in _SAFE_METHODS:
        return now - connection.started_at < _SAFE_SECONDS
    return now - connection.sent_at < _ROUND_TRIP_SECONDS
