"""Slow, silent, malformed and hostile upstreams: each ends in one error within the timeouts."""

import gzip
import os
import socket
import ssl
import zlib
from collections.abc import Callable
from dataclasses import replace

import psutil
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesminds.http.client.pool import (
    ChunkTimeout,
    ConnectTimeout,
    FirstByteTimeout,
    Pool,
    Response,
    Timeouts,
    UpstreamCut,
    UpstreamError,
    UpstreamOrigin,
    UpstreamProtocolError,
    WriteTimeout,
)
from tests.fakes.raw_upstream import Peer, Script, Upstream, serve, silent

# Short where the upstream fails, and nowhere else: a slow machine must not end another phase before.
LONG = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)
ABSENT = replace(LONG, connect=0.2)
STUCK = replace(LONG, write=0.2)
SILENT = replace(LONG, first_byte=0.2)
STALLED = replace(LONG, between_chunks=0.2)
PATIENT = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)
OK = b"HTTP/1.1 200 OK\r\n"
_FRAGMENTS = [
    *(OK, b"HTTP/1.0 404 N\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"Content-Length: 3\r\n", b"\r\n", b"abc"),
    *(b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"Connection: close\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"\0", b"\xff", b"X:\r\n", b" "),
]


@pytest.fixture
async def pool(nursery: trio.Nursery) -> Pool:
    pool = Pool(max_connections=1)  # so that anything left behind fails the next request
    await nursery.start(pool.run)
    return pool


async def get(pool: Pool, upstream: Upstream, timeouts: Timeouts = PATIENT) -> Response:
    return await pool.request(
        b"GET", UpstreamOrigin("http", "127.0.0.1", upstream.port), b"/", [], timeouts=timeouts
    )


def sends(raw: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)
        await peer.wait_closed()

    return script


class TestTimeouts:
    async def test_request_without_response_times_out(self, pool: Pool, nursery: trio.Nursery) -> None:
        upstream = await nursery.start(serve, silent)
        for _ in range(2):
            with trio.fail_after(60), pytest.raises(FirstByteTimeout) as caught:
                await get(pool, upstream, SILENT)
            assert (caught.value.phase, caught.value.sent) == ("head", True)

    @pytest.mark.parametrize("upload", [b"", bytes(1_000_000)])
    async def test_head_arriving_slowly_has_one_deadline(
        self, pool: Pool, nursery: trio.Nursery, mock_clock: trio.testing.MockClock, upload: bytes
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK + b"X: ")
            while True:
                await peer.send(b"x")
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(0.05)

        upstream = await nursery.start(serve, script)
        target = UpstreamOrigin("http", "127.0.0.1", upstream.port)
        with trio.fail_after(60), pytest.raises(FirstByteTimeout):
            await pool.request(b"POST", target, b"/", [], upload, timeouts=SILENT)

    async def test_body_that_stalls_times_out(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.begin_chunked()
            for _ in range(3):
                await peer.chunk(b"data")
            await peer.wait_closed()

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            response = await get(pool, upstream, STALLED)
            with trio.fail_after(60), pytest.raises(ChunkTimeout) as caught:
                while await response.receive():
                    pass
            assert (caught.value.phase, caught.value.sent) == ("body", True)
            with pytest.raises(trio.ClosedResourceError):
                await response.receive()

    async def test_upload_not_accepted_times_out(self, pool: Pool, nursery: trio.Nursery) -> None:
        async def script(peer: Peer) -> None:
            await trio.sleep_forever()

        upstream = await nursery.start(serve, script)
        target = UpstreamOrigin("http", "127.0.0.1", upstream.port)
        with trio.fail_after(60), pytest.raises(WriteTimeout) as caught:
            await pool.request(b"POST", target, b"/", [], bytes(50_000_000), timeouts=STUCK)
        assert (caught.value.phase, caught.value.sent) == ("write", True)

    async def test_upload_not_accepted_after_response_delivers_response(
        self, pool: Pool, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
    ) -> None:
        """Uses a clock that stands still until the response has arrived."""

        async def script(peer: Peer) -> None:
            await peer.send(OK + b"Content-Length: 5\r\n\r\nearly")
            await trio.sleep_forever()

        upstream = await nursery.start(serve, script)
        target = UpstreamOrigin("http", "127.0.0.1", upstream.port)

        async def pass_time() -> None:
            while True:
                if any(connection.head_complete for connection in pool._connections):
                    mock_clock.jump(0.05)
                await trio.lowlevel.checkpoint()

        for _ in range(2):
            async with trio.open_nursery() as inner:
                inner.start_soon(pass_time)
                response = await pool.request(b"POST", target, b"/", [], bytes(50_000_000), timeouts=STUCK)
                inner.cancel_scope.cancel()
            assert await response.read(10) == b"early"

    async def test_long_upload_without_response_times_out(self, pool: Pool, nursery: trio.Nursery) -> None:
        upstream = await nursery.start(serve, silent)
        target = UpstreamOrigin("http", "127.0.0.1", upstream.port)
        with trio.fail_after(60), pytest.raises(FirstByteTimeout):
            await pool.request(b"POST", target, b"/", [], bytes(1_000_000), timeouts=SILENT)

    async def test_connect_to_full_backlog_times_out(self, pool: Pool) -> None:
        with trio.socket.socket() as listening:
            await listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            address = listening.getsockname()
            fillers = [socket.socket() for _ in range(4)]
            for filler in fillers:  # fill the queue of connections that wait to be accepted
                filler.setblocking(False)
                filler.connect_ex(address)
            with trio.fail_after(60), pytest.raises(ConnectTimeout) as caught:
                await pool.request(b"GET", UpstreamOrigin("http", *address), b"/", [], timeouts=ABSENT)
            assert (caught.value.phase, caught.value.sent) == ("connect", False)
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.7\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999999\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\nx",
        OK + b"Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        OK + b"Nul: a\0b\r\nContent-Length: 0\r\n\r\n",
        OK + b"No-Colon\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        OK + b"X: y\r\n" * 300 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" * 5_000,
        OK + b"Content-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
        OK + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
    ],
)
async def test_head_not_http_is_protocol_error(pool: Pool, nursery: trio.Nursery, raw: bytes) -> None:
    upstream = await nursery.start(serve, sends(raw))
    for _ in range(2):
        with pytest.raises(UpstreamProtocolError) as caught:
            await get(pool, upstream)
        assert (caught.value.phase, caught.value.sent) == ("head", True)


async def test_head_without_end_is_protocol_error(pool: Pool, nursery: trio.Nursery) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"X: ")
        while True:
            await peer.send(b"a" * 10_000)

    upstream = await nursery.start(serve, script)
    with pytest.raises(UpstreamProtocolError, match="too large"):
        await get(pool, upstream)


@pytest.mark.parametrize(
    "raw",
    [
        b"zz\r\nx\r\n0\r\n\r\n",
        b"-1\r\nx\r\n0\r\n\r\n",
        b"1\r\nxx\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nx",
        b"1;" + b"e" * 200_000 + b"\r\nx\r\n0\r\n\r\n",
        b"0\r\n" + b"X-Trailer: t\r\n" * 20_000 + b"\r\n",
    ],
)
async def test_chunk_framing_malformed_or_endless_is_protocol_error(
    pool: Pool, nursery: trio.Nursery, raw: bytes
) -> None:
    upstream = await nursery.start(serve, sends(OK + b"Transfer-Encoding: chunked\r\n\r\n" + raw))
    for _ in range(2):
        with pytest.raises(UpstreamProtocolError):
            await (await get(pool, upstream)).read(1_000_000)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"Content-Length: 10\r\n\r\nshort",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n50\r\nhel",
    ],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_response_truncated_is_upstream_cut(
    pool: Pool, nursery: trio.Nursery, raw: bytes, reset: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)
        if reset:
            await trio.testing.wait_all_tasks_blocked()
            peer.reset()

    upstream = await nursery.start(serve, script)
    for _ in range(2):
        with pytest.raises(UpstreamCut) as caught:
            await (await get(pool, upstream)).read(1_000_000)
        assert caught.value.sent


class TestCompression:
    """Responses that are compressed although identity was requested."""

    @pytest.mark.parametrize(
        ("coding", "encode"),
        [
            (b"gzip", gzip.compress),
            (b"X-GZIP ", gzip.compress),
            (b"gzip", lambda data: gzip.compress(data[:100], mtime=0) + gzip.compress(data[100:])),
            (b"deflate", zlib.compress),
            (b"deflate", lambda data: zlib.compress(data, wbits=-15)),
            (b"identity", lambda data: data),
        ],
    )
    @pytest.mark.parametrize("step", [1, 7, 1_000_000])
    async def test_response_compressed_is_decoded(
        self, pool: Pool, nursery: trio.Nursery, coding: bytes, encode: Callable[[bytes], bytes], step: int
    ) -> None:
        body = os.urandom(50) * 40 + b"end"

        async def script(peer: Peer) -> None:
            encoded = encode(body)
            while await peer.head():
                await peer.begin_chunked(b"Content-Encoding: " + coding)
                for start in range(0, len(encoded), step):
                    await peer.chunk(encoded[start : start + step])
                await peer.send(b"0\r\n\r\n")

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            response = await get(pool, upstream)
            assert await response.read(10_000) == body
            assert await response.receive() == b""
            assert response.header(b"content-encoding") in (None, b"identity")

    async def test_response_compressed_stream_is_delivered_per_flush(
        self, pool: Pool, nursery: trio.Nursery
    ) -> None:
        go = trio.Event()

        async def script(peer: Peer) -> None:
            deflater = zlib.compressobj(wbits=31)
            await peer.head()
            await peer.begin_chunked(b"Content-Encoding: gzip")
            await peer.chunk(deflater.compress(b"one") + deflater.flush(zlib.Z_SYNC_FLUSH))
            await go.wait()
            await peer.chunk(deflater.compress(b"two") + deflater.flush())
            await peer.send(b"0\r\n\r\n")

        upstream = await nursery.start(serve, script)
        response = await get(pool, upstream)
        assert await response.receive() == b"one"
        go.set()
        assert await response.read(10) == b"two"

    @pytest.mark.parametrize("layout", ["one", "members"])
    async def test_compression_bomb_is_rejected_within_memory_limit(
        self, pool: Pool, nursery: trio.Nursery, layout: str
    ) -> None:
        deflater = zlib.compressobj(wbits=31)
        parts = [deflater.compress(bytes(1_000_000)) for _ in range(100)]
        bomb = b"".join(parts) + deflater.flush()
        if layout == "members":
            bomb = gzip.compress(bytes(5_000_000)) * 20
        del parts

        async def script(peer: Peer) -> None:
            await peer.head()
            await peer.answer(bomb, b"Content-Encoding: gzip")

        upstream = await nursery.start(serve, script)
        before = psutil.Process().memory_info().rss
        received = 0
        with pytest.raises(UpstreamProtocolError, match="expands"):
            response = await get(pool, upstream)
            while data := await response.receive():
                received += len(data)
        assert received < 32 * 1024 * 1024
        assert psutil.Process().memory_info().rss - before < 32 * 1024 * 1024

    @pytest.mark.parametrize(
        ("encoded", "error"),
        [
            (b"not gzip at all", UpstreamProtocolError),
            (gzip.compress(b"x" * 1000, mtime=0) + b"trailing", UpstreamProtocolError),
            (gzip.compress(b"x" * 1000, mtime=0)[:-3], UpstreamCut),
            (gzip.compress(b"x" * 1000, mtime=0)[:5], UpstreamCut),
        ],
    )
    async def test_response_compressed_and_damaged_is_error(
        self, pool: Pool, nursery: trio.Nursery, encoded: bytes, error: type[UpstreamError]
    ) -> None:
        async def script(peer: Peer) -> None:
            while await peer.head():
                await peer.answer(encoded, b"Content-Encoding: gzip")

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            response = await get(pool, upstream)
            with pytest.raises(error):
                await response.read(10_000)
            with pytest.raises(trio.ClosedResourceError):
                await response.receive()


@settings(max_examples=150)
@given(
    raw=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(_FRAGMENTS),
            max_size=8,
        ).map(b"".join),
    ),
    cut=st.integers(0, 200),
)
def test_response_any_bytes_end_in_response_or_upstream_error(raw: bytes, cut: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw[:cut])
        await trio.lowlevel.checkpoint()
        await peer.send(raw[cut:])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pool = Pool(max_connections=1, tls=context)
            await nursery.start(pool.run)
            upstream = await nursery.start(serve, script)
            for _ in range(2):
                try:
                    response = await get(pool, upstream)
                    assert 200 <= response.status < 600
                    await response.read(10_000)
                except UpstreamError:
                    pass
            nursery.cancel_scope.cancel()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused, and cheaper to make than the default
    trio.run(main)


async def test_upstream_error_messages_contain_no_request_or_response_data(
    pool: Pool, nursery: trio.Nursery
) -> None:
    canary = b"sk-canary-1234567890"
    responses = [
        OK + b"X-Key: " + canary + b"\r\n folded\r\n\r\n",
        OK + canary + b"\r\n\r\n",
        OK + b"Content-Length: " + canary + b"\r\n\r\n",
        canary,
    ]
    for raw in responses:
        upstream = await nursery.start(serve, sends(raw))
        target = UpstreamOrigin("http", "127.0.0.1", upstream.port)
        with pytest.raises(UpstreamError) as caught:
            await pool.request(b"POST", target, b"/", [(b"authorization", canary)], canary, timeouts=PATIENT)
        error: BaseException | None = caught.value
        while error is not None:
            assert "canary" not in repr(error)
            error = error.__cause__ or error.__context__


async def test_tiny_chunks_in_one_read_are_joined(pool: Pool, nursery: trio.Nursery) -> None:
    upstream = await nursery.start(
        serve, sends(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
    )
    response = await get(pool, upstream)
    assert await response.read(100_000) == b"x" * 100_000


async def test_unsolicited_response_is_not_delivered(pool: Pool, nursery: trio.Nursery) -> None:
    """It would be read as the response to the next request, possibly of another client."""
    unasked = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK + b"Content-Length: 5\r\n\r\nfirst")
        if peer.number == 1:
            await unasked.wait()
            await peer.send(OK + b"Content-Length: 6\r\n\r\nsecret")
        await peer.wait_closed()

    upstream = await nursery.start(serve, script)
    assert await (await get(pool, upstream)).read(100) == b"first"
    unasked.set()
    for _ in range(20):  # it arrives, and the pool's sweep has not come by yet
        await trio.lowlevel.checkpoint()
    assert await (await get(pool, upstream)).read(100) == b"first"
    assert upstream.accepted == 2
