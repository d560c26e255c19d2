"""The pool against real sockets: framing, keep-alive, stale connections, uploads and early responses."""

import dataclasses
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from bluesminds.http.client import pool as pool_module
from bluesminds.http.client.pool import (
    BodyTooLarge,
    ConnectFailed,
    Pool,
    Response,
    Timeouts,
    UpstreamCut,
    UpstreamOrigin,
)
from bluesminds.http.wire import RECEIVE_BYTES
from tests.fakes.raw_upstream import Peer, Upstream, always_ok, serve

TIMEOUTS = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)


@pytest.fixture
async def pool(nursery: trio.Nursery) -> Pool:
    pool = Pool()
    await nursery.start(pool.run)
    return pool


def origin(upstream: Upstream) -> UpstreamOrigin:
    return UpstreamOrigin("http", "127.0.0.1", upstream.port)


async def get(pool: Pool, upstream: Upstream, target: bytes = b"/") -> Response:
    return await pool.request(b"GET", origin(upstream), target, [], timeouts=TIMEOUTS)


async def test_request_arrives_as_given_and_reuses_connection(pool: Pool, nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    for body in (b"one", b"two"):
        response = await pool.request(
            b"POST",
            origin(upstream),
            b"/v1/x?y=%20z",
            [(b"X-A", b"1"), (b"x-a", b"2")],
            body,
            timeouts=TIMEOUTS,
        )
        assert (response.status, await response.read(100)) == (200, body)
    assert upstream.accepted == 1
    first = upstream.requests[0]
    assert first.line == b"POST /v1/x?y=%20z HTTP/1.1"
    assert first.values(b"host") == [b"127.0.0.1:%d" % upstream.port]
    assert first.values(b"x-a") == [b"1", b"2"]
    assert first.values(b"content-length") == [b"3"]
    assert first.values(b"accept-encoding") == [b"identity"]


async def test_request_framing_headers_are_replaced(pool: Pool, nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    headers = [
        (b"Host", b"evil"),
        (b"Content-Length", b"999"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Connection", b"close, x-a"),
        (b"Expect", b"100-continue"),
        (b"Upgrade", b"h2c"),
        (b"Accept-Encoding", b"br"),
    ]
    response = await pool.request(b"POST", origin(upstream), b"/", headers, b"abc", timeouts=TIMEOUTS)
    assert await response.read(10) == b"abc"
    head = upstream.requests[0].head.lower()
    assert head.count(b"content-length") == head.count(b"host:") == head.count(b"accept-encoding") == 1
    for absent in (b"evil", b"999", b"chunked", b"connection", b"expect", b"upgrade", b"br\r\n"):
        assert absent not in head


@pytest.mark.parametrize(
    ("method", "target", "header"),
    [
        (b"GET", b"/ HTTP/1.1\r\nX: y\r\n\r\n", (b"a", b"b")),
        (b"GET", b"/a b", (b"a", b"b")),
        (b"GET", b"", (b"a", b"b")),
        (b"GET /", b"/", (b"a", b"b")),
        (b"GET", b"/", (b"a", b"b\r\nX: y")),
        (b"GET", b"/", (b"a", b"b\nX: y")),
        (b"GET", b"/", (b"a\r\nX", b"y")),
        (b"GET", b"/", (b"a", b"\r")),
        (b"GET", b"/", (b"a", b"\0")),
    ],
)
async def test_request_malformed_head_is_rejected(
    pool: Pool, nursery: trio.Nursery, method: bytes, target: bytes, header: tuple[bytes, bytes]
) -> None:
    upstream = await nursery.start(serve, always_ok)
    with pytest.raises(ValueError, match=r"malformed|line break"):
        await pool.request(method, origin(upstream), target, [header], timeouts=TIMEOUTS)
    assert (await (await get(pool, upstream)).read(10)) == b"ok"
    assert len(upstream.requests) == 1


async def test_response_headers_are_lower_case_and_ordered(pool: Pool, nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"", b"X-One: 1", b"x-two:  2 ", b"X-ONE: 3")

    upstream = await nursery.start(serve, script)
    response = await get(pool, upstream)
    assert response.headers == [
        (b"content-length", b"0"),
        (b"x-one", b"1"),
        (b"x-two", b"2"),
        (b"x-one", b"3"),
    ]
    assert response.header(b"x-one") == b"1"
    assert response.header(b"absent") is None


async def test_response_interim_is_skipped(pool: Pool, nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
            await peer.answer(b"final")

    upstream = await nursery.start(serve, script)
    for _ in range(2):
        response = await get(pool, upstream)
        assert (response.status, response.headers) == (200, [(b"content-length", b"5")])
        assert await response.read(10) == b"final"
    assert upstream.accepted == 1


@pytest.mark.parametrize(
    ("method", "raw"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nContent-Encoding: gzip\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
    ],
)
async def test_response_without_body_keeps_connection_usable(
    pool: Pool, nursery: trio.Nursery, method: bytes, raw: bytes
) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(raw)
        await always_ok(peer)

    upstream = await nursery.start(serve, script)
    for _ in range(2):
        response = await pool.request(method, origin(upstream), b"/", [], timeouts=TIMEOUTS)
        assert await response.receive() == b""
    assert await (await get(pool, upstream)).read(10) == b"ok"
    assert upstream.accepted == 1


async def test_head_response_with_body_is_not_read_as_next_response(
    pool: Pool, nursery: trio.Nursery
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await peer.wait_closed()

    upstream = await nursery.start(serve, script)
    for _ in range(2):
        response = await pool.request(b"HEAD", origin(upstream), b"/", [], timeouts=TIMEOUTS)
        assert (response.status, await response.receive()) == (200, b"")
    assert upstream.accepted == 2


async def test_response_sent_before_request_is_delivered_as_error(pool: Pool, nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(b"busy", status=b"503 Service Unavailable")
        peer.reset()

    upstream = await nursery.start(serve, script)
    for _ in range(20):
        response = await get(pool, upstream)
        assert (response.status, await response.read(10)) == (503, b"busy")


async def test_response_without_framing_ends_with_connection(pool: Pool, nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nfirst ")
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(b"second")

    upstream = await nursery.start(serve, script)
    for _ in range(2):
        assert await (await get(pool, upstream)).read(100) == b"first second"
    assert upstream.accepted == 2


async def test_response_chunks_are_delivered_on_arrival_without_trailers(
    pool: Pool, nursery: trio.Nursery
) -> None:
    go = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.begin_chunked()
        await peer.chunk(b"one")
        await go.wait()
        await peer.send(b"3;ext=1\r\ntwo\r\n0\r\nX-Trailer: t\r\n\r\n")
        await always_ok(peer)

    upstream = await nursery.start(serve, script)
    response = await get(pool, upstream)
    assert await response.receive() == b"one"
    go.set()
    assert await response.receive() == b"two"
    assert await response.receive() == b""
    assert await response.receive() == b""
    assert response.header(b"x-trailer") is None
    assert await (await get(pool, upstream)).read(10) == b"ok"
    assert upstream.accepted == 1


async def test_read_above_limit_raises_and_closes(pool: Pool, nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"x" * 300_000)

    upstream = await nursery.start(serve, script)
    response = await get(pool, upstream)
    with pytest.raises(BodyTooLarge):
        await response.read(100_000)
    with pytest.raises(trio.ClosedResourceError):
        await response.receive()


async def test_close_before_end_closes_connection(pool: Pool, nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.begin_chunked()
        await peer.wait_closed()

    upstream = await nursery.start(serve, script)
    response = await get(pool, upstream)
    response.close()
    response.close()
    with pytest.raises(trio.ClosedResourceError):
        await response.receive()
    with trio.fail_after(60):
        await upstream.all_closed()


async def test_receive_cancelled_can_be_repeated(pool: Pool, nursery: trio.Nursery) -> None:
    go = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.begin_chunked()
        await go.wait()
        await peer.chunk(b"late")
        await peer.send(b"0\r\n\r\n")

    upstream = await nursery.start(serve, script)
    response = await get(pool, upstream)
    async with trio.open_nursery() as inner:
        inner.start_soon(response.receive)
        await trio.testing.wait_all_tasks_blocked()
        inner.cancel_scope.cancel()
    go.set()
    assert await response.read(10) == b"late"


async def test_request_over_unix_socket_is_answered(
    pool: Pool, nursery: trio.Nursery, tmp_path: Path
) -> None:
    path = str(tmp_path / "u.sock")
    upstream = await nursery.start(lambda task_status: serve(always_ok, path=path, task_status=task_status))
    target, base = UpstreamOrigin.parse(f"unix:{path}:/v1/")
    assert base == "/v1"
    for _ in range(2):
        response = await pool.request(b"GET", target, b"/v1/models", [], timeouts=TIMEOUTS)
        assert await response.read(10) == b"ok"
    assert upstream.accepted == 1
    assert upstream.requests[0].values(b"host") == [b"localhost"]


async def test_connect_refused_is_not_sent(pool: Pool, tmp_path: Path) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]  # bound for as long as the test needs it, but not listening
        for target in (
            UpstreamOrigin("http", "127.0.0.1", port),
            UpstreamOrigin("unix", str(tmp_path / "absent"), 0),
        ):
            with pytest.raises(ConnectFailed) as caught:
                await pool.request(b"GET", target, b"/", [], timeouts=TIMEOUTS)
            assert (caught.value.phase, caught.value.sent) == ("connect", False)


class Nowhere(trio.abc.HostnameResolver):
    """Replaces the machine's resolver, which may be slow for a name that does not exist."""

    async def getaddrinfo(
        self, host: bytes | None, port: bytes | str | int | None, *_: int, **__: int
    ) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_connect_to_unknown_name_says_so_without_a_number(pool: Pool) -> None:
    trio.socket.set_custom_hostname_resolver(Nowhere())
    origin = UpstreamOrigin("http", "no-such-host.invalid", 80)
    with pytest.raises(ConnectFailed) as caught:
        await pool.request(b"GET", origin, b"/", [], timeouts=TIMEOUTS)
    assert str(caught.value) == "cannot connect to no-such-host.invalid: name or service not known"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid", "a..b"])
async def test_connect_to_unknown_name_fails(pool: Pool, host: str) -> None:
    trio.socket.set_custom_hostname_resolver(Nowhere())
    with pytest.raises(ConnectFailed):
        await pool.request(b"GET", UpstreamOrigin("http", host, 80), b"/", [], timeouts=TIMEOUTS)


class TestStaleConnections:
    """Kept-alive connections that the upstream has closed."""

    @pytest.mark.parametrize("reset", [False, True])
    async def test_stale_connection_closed_at_request_is_replaced_once(
        self, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, reset: bool
    ) -> None:
        monkeypatch.setattr(pool_module, "_ROUND_TRIP_SECONDS", 3600)

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"%d" % peer.number)
            await peer.head()
            if reset:
                peer.reset()

        upstream = await nursery.start(serve, script)
        for expected in (b"1", b"2", b"3"):
            response = await pool.request(b"POST", origin(upstream), b"/", [], b"body", timeouts=TIMEOUTS)
            assert await response.read(10) == expected

    async def test_stale_connection_with_iterable_body_is_not_retried(
        self, pool: Pool, nursery: trio.Nursery
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer()
            await peer.head()

        async def body() -> AsyncIterator[bytes]:
            yield b"once"

        upstream = await nursery.start(serve, script)
        await (await get(pool, upstream)).read(10)
        with pytest.raises(UpstreamCut) as caught:
            await pool.request(b"POST", origin(upstream), b"/", [], body(), timeouts=TIMEOUTS)
        assert caught.value.sent

    async def test_new_connection_that_fails_is_not_retried(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def script(peer: Peer) -> None:
            await peer.head()

        upstream = await nursery.start(serve, script)
        with pytest.raises(UpstreamCut) as caught:
            await get(pool, upstream)
        assert caught.value.sent
        assert upstream.accepted == 1

    @pytest.mark.parametrize("size", [10, 200_000])
    async def test_request_possibly_processed_is_not_retried(
        self, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer()
            await peer.request()

        monkeypatch.setattr(pool_module, "_ROUND_TRIP_SECONDS", 0)
        upstream = await nursery.start(serve, script)
        await (await get(pool, upstream)).read(10)
        with pytest.raises(UpstreamCut) as caught:
            await pool.request(b"POST", origin(upstream), b"/", [], bytes(size), timeouts=TIMEOUTS)
        assert caught.value.sent
        assert (upstream.accepted, len(upstream.requests)) == (1, 2)

    async def test_safe_request_is_retried(
        self, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "_ROUND_TRIP_SECONDS", 0)
        monkeypatch.setattr(pool_module, "_SAFE_SECONDS", 3600)

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"%d" % peer.number)
            await peer.head()

        upstream = await nursery.start(serve, script)
        for expected in (b"1", b"2"):
            assert await (await get(pool, upstream)).read(10) == expected

    async def test_safe_request_after_long_wait_is_not_retried(
        self, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "_SAFE_SECONDS", 0)

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer()
            await peer.head()

        upstream = await nursery.start(serve, script)
        await (await get(pool, upstream)).read(10)
        with pytest.raises(UpstreamCut):
            await get(pool, upstream)
        assert upstream.accepted == 1

    async def test_stale_connection_closed_during_upload_is_replaced(
        self, pool: Pool, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An incomplete request cannot have been processed, however long its sending took."""
        monkeypatch.setattr(pool_module, "_ROUND_TRIP_SECONDS", 0)
        monkeypatch.setattr(pool_module, "_SAFE_SECONDS", 3600)

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"%d" % peer.number)
            if peer.number == 1:
                await peer.head()
                await trio.testing.wait_all_tasks_blocked()
                peer.reset()
            else:
                await peer.request()
                await peer.answer(b"whole")

        upstream = await nursery.start(serve, script)
        await (await get(pool, upstream)).read(10)
        response = await pool.request(
            b"POST", origin(upstream), b"/", [], bytes(30_000_000), timeouts=TIMEOUTS
        )
        assert await response.read(10) == b"2"
        assert upstream.accepted == 2

    async def test_unsolicited_bytes_before_handover_are_not_delivered(
        self, nursery: trio.Nursery, tmp_path: Path
    ) -> None:
        """The body fills one read exactly, so the bytes after it stay in the kernel."""
        body = bytes(RECEIVE_BYTES)

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(body + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            await peer.wait_closed()

        async def ask() -> None:
            response = await pool.request(b"GET", target, b"/", [], timeouts=TIMEOUTS)
            await trio.testing.wait_all_tasks_blocked()
            assert await response.read(len(body)) == body

        pool = Pool(max_connections=1)
        await nursery.start(pool.run)
        target = UpstreamOrigin("unix", str(tmp_path / "s"), 0)

        async def start(task_status: trio.TaskStatus[Upstream]) -> None:
            await serve(script, path=target.host, task_status=task_status)

        upstream: Upstream = await nursery.start(start)
        async with trio.open_nursery() as callers:
            for _ in range(3):
                callers.start_soon(ask)
        assert upstream.accepted == 3

    async def test_request_with_partial_response_is_not_retried(
        self, pool: Pool, nursery: trio.Nursery
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer()
            await peer.head()
            await peer.send(b"HTTP/1.1 2")

        upstream = await nursery.start(serve, script)
        await (await get(pool, upstream)).read(10)
        with pytest.raises(UpstreamCut):
            await get(pool, upstream)
        assert upstream.accepted == 1

    async def test_idle_connection_closed_by_peer_is_not_used(
        self, pool: Pool, nursery: trio.Nursery
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"%d" % peer.number)

        async def body() -> AsyncIterator[bytes]:
            yield b"not repeatable"

        upstream = await nursery.start(serve, script)
        for expected in (b"1", b"2"):
            response = await pool.request(b"POST", origin(upstream), b"/", [], body(), timeouts=TIMEOUTS)
            assert await response.read(10) == expected
            with trio.fail_after(60):
                await upstream.all_closed()

    async def test_unsolicited_bytes_on_idle_connection_are_not_delivered(
        self, pool: Pool, nursery: trio.Nursery
    ) -> None:
        poisoned = [trio.Event() for _ in range(3)]

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"mine")
            await trio.testing.wait_all_tasks_blocked()
            await peer.answer(b"poison")
            poisoned[peer.number - 1].set()
            await peer.wait_closed()

        upstream = await nursery.start(serve, script)
        for number in range(3):
            assert await (await get(pool, upstream)).read(10) == b"mine"
            with trio.fail_after(60):
                await poisoned[number].wait()
        assert upstream.accepted == 3

    async def test_bytes_left_on_lost_connection_are_not_delivered(
        self, pool: Pool, nursery: trio.Nursery
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"mine")
            await trio.testing.wait_all_tasks_blocked()
            await peer.answer(b"poison")
            peer.reset()

        upstream = await nursery.start(serve, script)
        for _ in range(5):
            assert await (await get(pool, upstream)).read(10) == b"mine"
            await upstream.all_closed()

    @pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"H", b"junk"])
    async def test_bytes_after_response_close_connection(
        self, pool: Pool, nursery: trio.Nursery, extra: bytes
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine" + extra)
            await peer.wait_closed()

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            assert await (await get(pool, upstream)).read(100) == b"mine"
        assert upstream.accepted == 2

    @pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
    async def test_connection_close_is_not_reused(
        self, pool: Pool, nursery: trio.Nursery, raw: bytes
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(raw + b"Content-Length: 2\r\n\r\nok")
            await peer.wait_closed()

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            assert await (await get(pool, upstream)).read(10) == b"ok"
        assert upstream.accepted == 2

    async def test_idle_connection_after_max_idle_is_closed(self, nursery: trio.Nursery) -> None:
        pool = Pool(max_idle_seconds=0.2)
        await nursery.start(pool.run)
        upstream = await nursery.start(serve, always_ok)
        await (await get(pool, upstream)).read(10)
        assert upstream.open == 1
        with trio.fail_after(60):
            await upstream.all_closed()


class TestUploads:
    """Bodies that are sent while the response may already arrive."""

    async def test_upload_iterable_is_chunked(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def body() -> AsyncIterator[bytes]:
            for part in (b"a" * 10, b"", b"b" * 100_000):
                yield part
                await trio.lowlevel.checkpoint()

        upstream = await nursery.start(serve, always_ok)
        for _ in range(2):
            response = await pool.request(b"POST", origin(upstream), b"/", [], body(), timeouts=TIMEOUTS)
            assert await response.read(200_000) == b"a" * 10 + b"b" * 100_000
        assert upstream.requests[0].values(b"transfer-encoding") == [b"chunked"]
        assert upstream.accepted == 1

    async def test_upload_declared_length_is_kept(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"12345"

        upstream = await nursery.start(serve, always_ok)
        headers = [(b"Content-Length", b"5")]
        response = await pool.request(b"POST", origin(upstream), b"/", headers, body(), timeouts=TIMEOUTS)
        assert await response.read(10) == b"12345"
        assert upstream.requests[0].values(b"content-length") == [b"5"]
        assert upstream.requests[0].values(b"transfer-encoding") == []
        for wrong in (b"4", b"6", b"x", b"-1", b"+5"):
            with pytest.raises(ValueError, match="Content-Length"):
                await pool.request(
                    b"POST", origin(upstream), b"/", [(b"content-length", wrong)], body(), timeouts=TIMEOUTS
                )
        assert len(upstream.requests) == 1

    @pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024 + 1, 5_000_000])
    async def test_upload_long_body_is_sent_whole(self, pool: Pool, nursery: trio.Nursery, size: int) -> None:
        async def script(peer: Peer) -> None:
            while True:
                received = await peer.request()
                await peer.answer(b"%d" % len(received.body))

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            response = await pool.request(b"POST", origin(upstream), b"/", [], bytes(size), timeouts=TIMEOUTS)
            assert await response.read(10) == b"%d" % size
        assert upstream.accepted == 1

    @pytest.mark.parametrize("hang_up", [False, True])
    async def test_upload_early_error_response_is_delivered(
        self, pool: Pool, nursery: trio.Nursery, hang_up: bool
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(b"too large")
            if not hang_up:
                await trio.sleep_forever()

        upstream = await nursery.start(serve, script)
        for body in (bytes(50_000_000), _endless()):
            response = await pool.request(b"POST", origin(upstream), b"/", [], body, timeouts=TIMEOUTS)
            assert (response.status, await response.read(100)) == (413, b"too large")
        assert upstream.accepted == 2

    async def test_upload_dropped_closes_connection(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.send(
                b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 100000\r\n\r\n" + bytes(90_000)
            )
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(bytes(10_000))
            await peer.wait_closed()

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            response = await pool.request(b"POST", origin(upstream), b"/", [], _endless(), timeouts=TIMEOUTS)
            assert len(await response.read(100_000)) == 100_000
        assert upstream.accepted == 2

    async def test_upload_early_success_lets_body_finish(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def script(peer: Peer) -> None:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
            received = await peer.request()
            await peer.send(b"%d" % len(received.body))

        upstream = await nursery.start(serve, script)
        response = await pool.request(
            b"POST", origin(upstream), b"/", [], bytes(5_000_000), timeouts=TIMEOUTS
        )
        assert (response.status, await response.read(100)) == (200, b"5000000")

    async def test_upload_body_error_reaches_caller(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"some"
            await trio.testing.wait_all_tasks_blocked()
            raise LookupError("the client went away")

        upstream = await nursery.start(serve, always_ok)
        with pytest.raises(LookupError, match="went away"):
            await pool.request(b"POST", origin(upstream), b"/", [], body(), timeouts=TIMEOUTS)
        assert await (await get(pool, upstream)).read(10) == b"ok"
        assert len(upstream.requests) == 1

    async def test_upload_reset_by_upstream_is_upstream_cut(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            peer.reset()

        upstream = await nursery.start(serve, script)
        for body in (bytes(50_000_000), _endless()):
            with pytest.raises(UpstreamCut):
                await pool.request(b"POST", origin(upstream), b"/", [], body, timeouts=TIMEOUTS)


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(65536)
        await trio.lowlevel.checkpoint()


async def test_pool_not_running_rejects_requests(nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    pool = Pool()
    with pytest.raises(ConnectFailed):
        await get(pool, upstream)
    async with trio.open_nursery() as inner:
        await inner.start(pool.run)
        await (await get(pool, upstream)).read(10)
        assert upstream.open == 1
        inner.cancel_scope.cancel()
    with trio.fail_after(60):
        await upstream.all_closed()
    with pytest.raises(ConnectFailed):
        await get(pool, upstream)


async def test_pool_stop_ends_connects(nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    pool = Pool()

    async def connect() -> None:
        with pytest.raises(ConnectFailed, match="closed"):
            await get(pool, upstream)

    async def stop_while_connecting(outer: trio.Nursery) -> None:
        async with trio.open_nursery() as inner:
            await inner.start(pool.run)
            outer.start_soon(connect)
            await trio.lowlevel.checkpoint()
            inner.cancel_scope.cancel()

    async with trio.open_nursery() as outer:
        await stop_while_connecting(outer)
    with trio.fail_after(60):
        await upstream.all_closed()


async def test_pool_stop_cuts_responses_and_wakes_waiters(nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.begin_chunked()
        await peer.wait_closed()

    upstream = await nursery.start(serve, script)
    pool = Pool(max_connections=1)
    held: list[Response] = []

    async def wait() -> None:
        with pytest.raises(ConnectFailed, match="closed"):
            await get(pool, upstream)

    async def stop_under_load(outer: trio.Nursery) -> None:
        async with trio.open_nursery() as inner:
            await inner.start(pool.run)
            held.append(await get(pool, upstream))
            outer.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()

    with trio.fail_after(60):
        async with trio.open_nursery() as outer:
            await stop_under_load(outer)
    with pytest.raises(UpstreamCut):
        await held[0].receive()


def test_timeouts_default_are_finite() -> None:
    waits = dataclasses.asdict(Timeouts())
    assert waits.pop("total") is None  # only servers have it
    assert all(0 < value < 1000 for value in waits.values())
