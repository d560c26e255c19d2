"""The outbound HTTP/1.1 pool: llhttp on Trio sockets, keep-alive per origin, streaming both ways.

Promises: with a kept-alive connection a small request costs one send and one wait, no lock, task or cancel
scope; a cancelled call leaves both caps true; a kept-alive connection that the upstream gave up is replaced
once, if no byte of an answer came, the body can be repeated, and nobody can have worked on the request for
long: it was not wholly sent, or the connection ended within a tenth of a second (a GET or HEAD: within two).
A slow, silent, malformed or hostile upstream ends in an UpstreamError within the limits given. Refuses:
HTTP/2, upgrades, redirects, cookies, proxies, and all that the environment has to say but where the system's
certificate authorities are (SSL_CERT_FILE and SSL_CERT_DIR, which OpenSSL reads).
"""

import select
import ssl
from collections.abc import Sequence

import trio

from bluesminds.http.client.connect import open_wire
from bluesminds.http.client.connection import Connection
from bluesminds.http.client.errors import (
    BodyTooLarge,
    ChunkTimeout,
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    Phase,
    PoolTimeout,
    UpstreamCut,
    UpstreamError,
    UpstreamProtocolError,
    WriteTimeout,
)
from bluesminds.http.client.exchange import Body, Timeouts, declared_length, exchange, render_head
from bluesminds.http.client.origin import Origin, tls_context
from bluesminds.http.client.response import Response, make_decoder
from bluesminds.http.client.slots import OriginSlots, Slots
from bluesminds.http.deadlines import NEVER, TICK, Deadlines

__all__ = [
    "BodyTooLarge",
    "ChunkTimeout",
    "ConnectFailed",
    "ConnectTimeout",
    "FirstByteTimeout",
    "Origin",
    "Pool",
    "PoolTimeout",
    "Response",
    "Timeouts",
    "UpstreamCut",
    "UpstreamError",
    "UpstreamProtocolError",
    "WriteTimeout",
    "tls_context",
]

# A connection that the upstream had already given up fails within a round trip. A later failure may be a
# request that was being worked on: a completion is billed, so it is not repeated here.
_ROUND_TRIP = 0.1  # seconds
_HARMLESS = (b"GET", b"HEAD")
_HARMLESS_SECONDS = 2.0


class Pool:
    """Connections to any number of origins. Usable while `run` runs."""

    def __init__(
        self,
        *,
        max_connections: int = 1000,
        max_per_origin: int = 500,
        max_idle_seconds: float = 55.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """max_idle_seconds: less than common servers allow. tls: by default the system's store."""
        self._slots = Slots(max_connections, max_per_origin)
        self._max_idle = max_idle_seconds
        self._tls = tls or tls_context(None)
        self._deadlines = Deadlines()
        self._connections: set[Connection] = set()
        self._running = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sweep deadlines and idle connections until cancelled; then close every connection."""
        self._running = True
        task_status.started()
        try:
            while True:
                await trio.sleep(TICK)
                now = trio.current_time()
                self._deadlines.expire_due(now)
                self._drop_idle(now)
        finally:
            self._running = False
            self._slots.refuse_all()
            for lane, connection in list(self._slots.idle()):
                self._slots.drop_idle(lane, connection)
            for connection in list(self._connections):
                connection.close()

    async def request(
        self,
        method: bytes,
        origin: Origin,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: Body = b"",
        *,
        timeouts: Timeouts,
    ) -> Response:
        """Send a request; returns when the head of its final answer is complete.

        target: origin form ("/v1/models?x=y"), already percent-encoded. Headers that frame the message or
        govern the connection are dropped; Host and `Accept-Encoding: identity` are added. An iterable body
        goes chunked unless `headers` has its Content-Length. Raises UpstreamError, ValueError for a request
        that is not well-formed, and whatever an iterable body raises.
        """
        lane = self._slots.lane(origin)
        head = render_head(method, target, lane.host_lines, headers, body)
        length = None if isinstance(body, bytes) else declared_length(headers)
        connection = self._take_idle(lane) or await self._obtain(lane, timeouts)
        try:
            try:
                await exchange(connection, method, head, body, length, timeouts)
            except UpstreamCut:
                if not (isinstance(body, bytes) and _was_stale(connection, method)):
                    raise
                connection.close()
                connection = await self._connect(origin, timeouts)
                await exchange(connection, method, head, body, length, timeouts)
            decoder = make_decoder(connection)
        except BaseException:
            connection.close()
            self._slots.forget(lane)
            raise
        return Response(connection, lane, self._slots, timeouts.between_chunks, decoder)

    def _take_idle(self, lane: OriginSlots) -> Connection | None:
        """A kept-alive connection on which nothing has arrived unasked, which could be read as an answer."""
        while lane.idle:
            connection = lane.idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()
            self._slots.forget(lane)
        return None

    async def _obtain(self, lane: OriginSlots, timeouts: Timeouts) -> Connection:
        """Wait for a turn if need be, and open a connection unless one is handed over."""
        if not self._running:
            raise _closed("connect")
        if not self._slots.reserve(lane):
            connection = await self._wait_turn(lane, timeouts.pool)
            if connection is not None:
                if connection.is_quiet():
                    return connection
                connection.close()
        try:
            return await self._connect(lane.origin, timeouts)
        except BaseException:
            self._slots.forget(lane)
            raise

    async def _wait_turn(self, lane: OriginSlots, limit: float) -> Connection | None:
        waiter = self._slots.enqueue(lane)
        try:
            with trio.move_on_after(limit):
                await waiter.woken.wait()
        except BaseException:
            self._slots.abandon(waiter)
            raise
        if waiter.granted:
            return waiter.connection
        self._slots.abandon(waiter)
        if not self._running:
            raise _closed("pool")
        raise PoolTimeout("no connection to the upstream became free in time", phase="pool", sent=False)

    async def _connect(self, origin: Origin, timeouts: Timeouts) -> Connection:
        wire = None
        with trio.move_on_after(timeouts.connect):
            wire = await open_wire(origin, self._tls)
        if wire is None:
            raise ConnectTimeout(
                "the upstream did not accept a connection in time", phase="connect", sent=False
            )
        if not self._running:
            wire.close()
            raise _closed("connect")
        connection = Connection(wire, self._forget_connection)
        self._connections.add(connection)
        self._deadlines.add(wire)
        return connection

    def _forget_connection(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._deadlines.discard(connection.wire)

    def _drop_idle(self, now: float) -> None:
        """Close idle connections that are too old, or that became readable: nothing good arrives unasked."""
        idle = {connection.wire.fileno(): (lane, connection) for lane, connection in self._slots.idle()}
        poller = select.poll()
        for descriptor in idle:
            poller.register(descriptor, select.POLLIN)
        readable = {descriptor for descriptor, _ in poller.poll(0)}
        for descriptor, (lane, connection) in idle.items():
            if descriptor in readable or connection.idle_since < now - self._max_idle:
                self._slots.drop_idle(lane, connection)
        self._slots.prune()


def _closed(phase: Phase) -> ConnectFailed:
    return ConnectFailed("the connection pool is closed", phase=phase, sent=False)


def _was_stale(connection: Connection, method: bytes) -> bool:
    """Whether a kept-alive connection failed the way one does that the upstream had given up before."""
    if not connection.answers or not connection.untouched:
        return False
    now = trio.current_time()
    if connection.sent_at == NEVER or method in _HARMLESS:
        return now - connection.begun < _HARMLESS_SECONDS
    return now - connection.sent_at < _ROUND_TRIP
