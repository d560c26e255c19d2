"""WebSockets of the pool: the handshake, what an upstream can do instead, and the limits of connections."""

import functools
import ssl
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from wsproto.utilities import generate_accept_token

from bluesminds.http.client.pool import (
    ConnectFailed,
    FirstByteTimeout,
    HandshakeRejected,
    Pool,
    PoolTimeout,
    Timeouts,
    UpstreamCut,
    UpstreamOrigin,
    UpstreamProtocolError,
    WebSocketRequest,
)
from bluesminds.http.client.websocket import MAX_REJECTION
from bluesminds.http.deadlines import TICK
from bluesminds.http.websocket import (
    CloseCode,
    WebSocket,
    WebSocketClosed,
    WebSocketLimits,
    WebSocketViolation,
)
from tests.fakes import raw_upstream, socket_upstream
from tests.fakes.raw_upstream import Peer, always_ok, silent
from tests.fakes.socket_upstream import ServerSocket, SocketUpstream, echo
from tests.http.serving import eventually
from tests.http.sockets import frame

TIMEOUTS = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)
LIMITS = WebSocketLimits(message_bytes=1000, ping_seconds=3600.0, write_seconds=3600.0)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.fixture
async def pool(nursery: trio.Nursery) -> Pool:
    pool = Pool()
    await nursery.start(pool.run)
    return pool


def request(limits: WebSocketLimits = LIMITS, **more: Any) -> WebSocketRequest:
    fields: dict[str, Any] = {"target": b"/v1/x?y=1", "headers": (), "subprotocols": (), "hold": len_of}
    return WebSocketRequest(limits=limits, **fields | more)


def len_of(size: int) -> None:
    """A `hold` that takes everything."""


def origin_of(port: int) -> UpstreamOrigin:
    return UpstreamOrigin("http", "127.0.0.1", port)


async def open_socket(pool: Pool, upstream: SocketUpstream, **more: Any) -> WebSocket:
    origin = origin_of(upstream.upstream.port)
    socket = await pool.open_websocket(origin, request(**more), timeouts=TIMEOUTS)
    assert isinstance(socket, WebSocket)
    return socket


async def shake(pool: Pool, nursery: trio.Nursery, answer: bytes) -> WebSocket | HandshakeRejected:
    """Open a WebSocket to a server that sends these bytes and closes."""

    async def play(peer: Peer) -> None:
        head = (await peer.request()).head
        key = head.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
        await peer.send(answer.replace(b"KEY", key))

    upstream = await nursery.start(raw_upstream.serve, play)
    return await pool.open_websocket(origin_of(upstream.port), request(), timeouts=TIMEOUTS)


def open_connections(pool: Pool) -> int:
    return sum(slots.open for slots in pool._slots.by_origin.values())


# Handshakes


async def test_websocket_handshake_arrives_as_given(pool: Pool, nursery: trio.Nursery) -> None:
    upstream: SocketUpstream = await nursery.start(socket_upstream.serve, echo)
    upstream.subprotocol = "realtime"
    headers = [(b"authorization", b"Bearer sk-1"), (b"x-request-id", b"1")]
    socket = await open_socket(pool, upstream, headers=headers, subprotocols=["realtime", "other"])
    assert socket.subprotocol == "realtime"
    (seen,) = upstream.handshakes
    assert seen.line == b"GET /v1/x?y=1 HTTP/1.1"
    assert seen.values(b"host") == [b"127.0.0.1:%d" % upstream.upstream.port]
    assert seen.values(b"authorization") == [b"Bearer sk-1"]
    assert seen.values(b"sec-websocket-protocol") == [b"realtime, other"]
    assert seen.values(b"sec-websocket-extensions") == []
    for message in ("[1]", b"\0\1"):
        await socket.send(message)
        assert await socket.receive() == message
    await socket.close(CloseCode.NORMAL, "done")
    await upstream.upstream.all_closed()
    assert (upstream.closed, upstream.reasons) == ([1000], ["done"])
    assert open_connections(pool) == 0


async def test_websocket_over_tls_carries_messages(nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    server_tls, client_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    authority.configure_trust(client_tls)
    pool = Pool(tls=client_tls)
    await nursery.start(pool.run)
    server = SocketUpstream(echo)
    upstream = await nursery.start(functools.partial(raw_upstream.serve, server.play, tls=server_tls))
    origin = UpstreamOrigin("https", "127.0.0.1", upstream.port)
    socket = await pool.open_websocket(origin, request(), timeouts=TIMEOUTS)
    assert isinstance(socket, WebSocket)
    await socket.send("[1]")
    assert await socket.receive() == "[1]"
    await socket.close(CloseCode.NORMAL)
    await upstream.all_closed()


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nX-A: b\r\n\r\nno", 401, b"no"),
        (b"HTTP/1.1 429 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", 429, b"no"),
        (b"HTTP/1.1 503 No\r\nConnection: close\r\n\r\nuntil the end", 503, b"until the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\ncut", 500, b"cut"),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\nzz", 500, b"no"),
        (b"HTTP/1.1 302 No\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", 302, b""),
        (b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 3 * MAX_REJECTION, 500, b"x" * MAX_REJECTION),
    ],
    ids=["length", "chunked", "until close", "200", "cut", "malformed body", "redirect", "long"],
)
async def test_websocket_response_instead_is_returned(
    pool: Pool, nursery: trio.Nursery, answer: bytes, status: int, body: bytes
) -> None:
    got = await shake(pool, nursery, answer)
    assert isinstance(got, HandshakeRejected)
    assert (got.status, got.body) == (status, body)
    if status == 401:
        assert (b"x-a", b"b") in got.headers
    assert open_connections(pool) == 0


@pytest.mark.parametrize(
    "answer",
    [
        SWITCHED + b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        SWITCHED + b"\r\n",
        SWITCHED.replace(b"Upgrade: websocket\r\n", b"") + b"\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 \xff\r\n\xff: \xff\r\n\r\n",
        b"HTTP/1.1 101 X\r\n" + b"a: b\r\n" * 20_000,
        SWITCHED + b"Sec-WebSocket-Protocol: \xff\r\n\r\n",
        b"\0" * 100_000,
    ],
    ids=[
        "wrong key",
        "no key",
        "no upgrade",
        "100",
        "103",
        "SSH",
        "bytes",
        "endless head",
        "subprotocol",
        "NUL",
    ],
)
async def test_websocket_invalid_response_is_a_protocol_error(
    pool: Pool, nursery: trio.Nursery, answer: bytes
) -> None:
    with pytest.raises(UpstreamProtocolError) as raised:
        await shake(pool, nursery, answer)
    assert raised.value.sent
    assert open_connections(pool) == 0


@pytest.mark.parametrize("line", [b"Protocol: other", b"Extensions: permessage-deflate"])
async def test_websocket_answer_that_was_not_offered_is_a_protocol_error(
    pool: Pool, nursery: trio.Nursery, line: bytes
) -> None:
    async def play(peer: Peer) -> None:
        (key,) = (await peer.request()).values(b"sec-websocket-key")
        accept = b"Sec-WebSocket-Accept: " + generate_accept_token(key)
        await peer.send(SWITCHED + accept + b"\r\nSec-WebSocket-" + line + b"\r\n\r\n")

    upstream = await nursery.start(raw_upstream.serve, play)
    with pytest.raises(UpstreamProtocolError, match="unrecognized"):
        await pool.open_websocket(origin_of(upstream.port), request(), timeouts=TIMEOUTS)


async def test_websocket_server_that_closes_is_cut(pool: Pool, nursery: trio.Nursery) -> None:
    for answer in (b"", b"HTTP/1.1 101 Switch"):
        with pytest.raises(UpstreamCut):
            await shake(pool, nursery, answer)
    assert open_connections(pool) == 0


async def test_websocket_silent_server_is_a_first_byte_timeout(
    pool: Pool, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    upstream = await nursery.start(raw_upstream.serve, silent)
    failures: list[Exception] = []

    async def ask() -> None:
        timeouts = replace(TIMEOUTS, first_byte=5)
        try:
            await pool.open_websocket(origin_of(upstream.port), request(), timeouts=timeouts)
        except FirstByteTimeout as exc:
            failures.append(exc)

    nursery.start_soon(ask)
    await eventually(lambda: upstream.open == 1)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(5)

    def failed() -> bool:
        mock_clock.jump(TICK)
        return bool(failures)

    await eventually(failed)
    assert open_connections(pool) == 0


async def test_websocket_without_server_or_with_bad_header_is_an_error(
    pool: Pool, nursery: trio.Nursery
) -> None:
    with pytest.raises(ConnectFailed):
        await pool.open_websocket(origin_of(1), request(), timeouts=TIMEOUTS)
    upstream: SocketUpstream = await nursery.start(socket_upstream.serve, echo)
    for header in ((b"x-a", b"1\r\nx-b: 2"), (b"x a", b"1")):
        with pytest.raises(ValueError, match="malformed") as raised:
            await open_socket(pool, upstream, headers=[header])
        assert "x-b" not in str(raised.value)
    assert open_connections(pool) == 0
    assert upstream.handshakes == []


async def test_websocket_cancelled_handshake_leaves_no_connection(pool: Pool, nursery: trio.Nursery) -> None:
    upstream = await nursery.start(raw_upstream.serve, silent)
    with trio.CancelScope() as scope:

        async def cancel() -> None:
            await eventually(lambda: upstream.open == 1)
            scope.cancel()

        nursery.start_soon(cancel)
        await pool.open_websocket(origin_of(upstream.port), request(), timeouts=TIMEOUTS)
    assert scope.cancelled_caught
    await upstream.all_closed()
    assert open_connections(pool) == 0


# Limits of connections


async def test_websocket_counts_as_a_connection_until_it_ends(nursery: trio.Nursery) -> None:
    pool = Pool(max_per_origin=1)
    await nursery.start(pool.run)
    upstream: SocketUpstream = await nursery.start(socket_upstream.serve, echo)
    origin = origin_of(upstream.upstream.port)
    socket = await open_socket(pool, upstream)
    with pytest.raises(PoolTimeout):
        await pool.open_websocket(origin, request(), timeouts=replace(TIMEOUTS, pool=0))
    with pytest.raises(PoolTimeout):
        await pool.request(b"GET", origin, b"/", (), timeouts=replace(TIMEOUTS, pool=0))
    socket.abort(CloseCode.GOING_AWAY)
    socket.abort(CloseCode.GOING_AWAY)
    assert open_connections(pool) == 0
    await (await open_socket(pool, upstream)).close(CloseCode.NORMAL)
    assert open_connections(pool) == 0


async def test_websocket_at_the_limit_takes_the_place_of_a_kept_connection(nursery: trio.Nursery) -> None:
    pool = Pool(max_per_origin=1)
    await nursery.start(pool.run)
    upstream: SocketUpstream = await nursery.start(socket_upstream.serve, echo)
    origin = origin_of(upstream.upstream.port)
    response = await pool.request(b"GET", origin, b"/", (), timeouts=TIMEOUTS)
    await response.read(1000)
    socket = await open_socket(pool, upstream)
    assert upstream.upstream.accepted == 2
    assert open_connections(pool) == 1
    await socket.close(CloseCode.NORMAL)


async def test_websocket_waiting_gets_the_place_of_a_request(nursery: trio.Nursery) -> None:
    pool = Pool(max_per_origin=1)
    await nursery.start(pool.run)
    go_on = trio.Event()

    async def play(peer: Peer) -> None:
        if (await peer.request()).values(b"upgrade"):
            await peer.answer(b"no", status=b"404 Not Found")
            return
        await go_on.wait()
        await peer.answer()
        await always_ok(peer)

    upstream = await nursery.start(raw_upstream.serve, play)
    origin = origin_of(upstream.port)

    async def first() -> None:
        response = await pool.request(b"GET", origin, b"/", (), timeouts=TIMEOUTS)
        await response.read(1000)

    async with trio.open_nursery() as tasks:
        tasks.start_soon(first)
        await eventually(lambda: len(upstream.requests) == 1)
        nursery.start_soon(_set_when_blocked, go_on)
        got = await pool.open_websocket(origin, request(), timeouts=TIMEOUTS)
    assert isinstance(got, HandshakeRejected)
    assert open_connections(pool) == 0


async def _set_when_blocked(event: trio.Event) -> None:
    await trio.testing.wait_all_tasks_blocked()
    event.set()


async def test_websocket_ends_with_the_pool(nursery: trio.Nursery) -> None:
    upstream: SocketUpstream = await nursery.start(socket_upstream.serve, echo)
    pool = Pool()
    async with trio.open_nursery() as running:
        await running.start(pool.run)
        socket = await open_socket(pool, upstream)
        running.cancel_scope.cancel()
    with pytest.raises(WebSocketClosed) as raised:
        await socket.receive()
    assert raised.value.code == CloseCode.ABNORMAL
    await socket.close(CloseCode.NORMAL)
    assert open_connections(pool) == 0


# Messages


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x" * 1001, masked=False), CloseCode.MESSAGE_TOO_BIG),
        (frame(b"\xff", masked=False), 1007),
        (frame(b"x"), CloseCode.PROTOCOL_ERROR),
    ],
    ids=["too large", "not UTF-8", "masked"],
)
async def test_websocket_server_against_the_rules_is_a_violation(
    pool: Pool, nursery: trio.Nursery, data: bytes, code: int
) -> None:
    async def play(socket: ServerSocket) -> None:
        await socket.send_raw(data)
        await socket.receive()

    upstream: SocketUpstream = await nursery.start(socket_upstream.serve, play)
    socket = await open_socket(pool, upstream)
    with pytest.raises(WebSocketViolation) as raised:
        await socket.receive()
    assert raised.value.code == code
    await socket.close(raised.value.code, raised.value.reason)
    await upstream.upstream.all_closed()
    assert upstream.closed == [code]


async def test_websocket_close_of_the_server_is_answered(pool: Pool, nursery: trio.Nursery) -> None:
    async def play(socket: ServerSocket) -> None:
        await socket.send("{}")
        await socket.close(4000, "enough")

    upstream: SocketUpstream = await nursery.start(socket_upstream.serve, play)
    socket = await open_socket(pool, upstream)
    assert await socket.receive() == "{}"
    with pytest.raises(WebSocketClosed) as raised:
        await socket.receive()
    assert (raised.value.code, raised.value.reason) == (4000, "enough")
    with pytest.raises(WebSocketClosed):
        await socket.send("late")
    await socket.close(CloseCode.GOING_AWAY)
    await upstream.upstream.all_closed()
    assert upstream.closed == [4000]
