"""httpx on the pool: streaming both ways, httpx exceptions, no state kept between requests."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from bluesminds.http.client import transport
from bluesminds.http.client.pool import BodyTooLarge, Pool, Timeouts, UpstreamError, UpstreamOrigin
from bluesminds.http.client.transport import PoolTransport
from tests.fakes.raw_upstream import Peer, Upstream, always_ok, serve, silent


@pytest.fixture
async def pool(nursery: trio.Nursery) -> Pool:
    pool = Pool(max_connections=2)
    await nursery.start(pool.run)
    return pool


@pytest.fixture
async def client(pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=PoolTransport(pool), trust_env=False, timeout=3600) as client:
        yield client


def url(upstream: Upstream, path: str = "/") -> str:
    return f"http://127.0.0.1:{upstream.port}{path}"


async def test_transport_request_is_answered(client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    for payload in ({"a": 1}, {"b": "\u00e9" * 50_000}):
        response = await client.post(url(upstream, "/v1/x"), params={"q": "a b"}, json=payload)
        assert (response.status_code, response.json()) == (200, payload)
        assert response.http_version == "HTTP/1.1"
    assert upstream.requests[0].line == b"POST /v1/x?q=a+b HTTP/1.1"
    assert upstream.requests[0].values(b"content-type") == [b"application/json"]
    assert upstream.requests[0].values(b"host") == [b"127.0.0.1:%d" % upstream.port]
    assert upstream.accepted == 1


async def test_transport_ipv6_address_in_url_is_used(client: httpx.AsyncClient) -> None:
    with trio.socket.socket(trio.socket.AF_INET6) as unused:
        await unused.bind(("::1", 0))
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://[::1]:{unused.getsockname()[1]}/")


async def test_transport_streamed_request_is_sent(client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    upstream = await nursery.start(serve, always_ok)
    assert (await client.post(url(upstream), content=body())).content == b"onetwo"
    assert upstream.requests[0].values(b"transfer-encoding") == [b"chunked"]
    files = {"file": ("a.txt", b"x" * 200_000)}
    answer = await client.post(url(upstream), files=files, data={"model": "m"})
    assert upstream.requests[1].values(b"content-length") == [b"%d" % len(upstream.requests[1].body)]
    assert answer.content == upstream.requests[1].body


async def test_transport_streamed_response_is_delivered_on_arrival(
    client: httpx.AsyncClient, nursery: trio.Nursery
) -> None:
    go = trio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.begin_chunked(b"Content-Type: text/event-stream")
        await peer.chunk(b"data: 1\n\n")
        await go.wait()
        await peer.chunk(b"data: 2\n\n")
        await peer.send(b"0\r\n\r\n")
        await always_ok(peer)

    upstream = await nursery.start(serve, script)
    lines = []
    async with client.stream("GET", url(upstream)) as response:
        async for line in response.aiter_lines():
            lines.append(line)
            go.set()
    assert lines == ["data: 1", "", "data: 2", ""]
    assert (await client.get(url(upstream))).text == "ok"
    assert upstream.accepted == 1


async def test_transport_stream_left_early_frees_slot(
    client: httpx.AsyncClient, nursery: trio.Nursery
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.begin_chunked()
        await peer.chunk(b"data")
        await peer.wait_closed()

    upstream = await nursery.start(serve, script)
    for _ in range(6):
        async with client.stream("GET", url(upstream)) as response:
            assert response.status_code == 200
    with trio.fail_after(60):
        await upstream.all_closed()


async def test_transport_cancellation_frees_slot(client: httpx.AsyncClient, nursery: trio.Nursery) -> None:
    stuck = await nursery.start(serve, silent)
    good = await nursery.start(serve, always_ok)
    for _ in range(6):
        async with trio.open_nursery() as inner:
            inner.start_soon(client.get, url(stuck))
            await trio.testing.wait_all_tasks_blocked()
            inner.cancel_scope.cancel()
    assert (await client.get(url(good))).text == "ok"


async def test_transport_compressed_response_is_decoded_once(
    client: httpx.AsyncClient, nursery: trio.Nursery
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(gzip.compress(b"plain"), b"Content-Encoding: gzip")

    upstream = await nursery.start(serve, script)
    response = await client.get(url(upstream), headers={"accept-encoding": "gzip"})
    assert response.content == b"plain"
    assert upstream.requests[0].values(b"accept-encoding") == [b"identity"]


async def test_transport_unix_socket_serves_any_url(
    pool: Pool, nursery: trio.Nursery, tmp_path: Path
) -> None:
    path = str(tmp_path / "u.sock")
    upstream = await nursery.start(lambda task_status: serve(always_ok, path=path, task_status=task_status))
    async with httpx.AsyncClient(transport=PoolTransport(pool, socket_path=path), trust_env=False) as client:
        assert (await client.get("http://litellm/v1/models")).text == "ok"
    assert upstream.requests[0].line == b"GET /v1/models HTTP/1.1"


class TestErrors:
    async def test_transport_silent_or_stalled_upstream_is_read_timeout(
        self, client: httpx.AsyncClient, nursery: trio.Nursery
    ) -> None:
        async def stalls(peer: Peer) -> None:
            await peer.request()
            await peer.begin_chunked()
            await peer.wait_closed()

        for script in (silent, stalls):
            upstream = await nursery.start(serve, script)
            for _ in range(3):
                with trio.fail_after(60), pytest.raises(httpx.ReadTimeout):
                    await client.get(url(upstream), timeout=httpx.Timeout(3600, read=0.05))

    async def test_transport_full_pool_is_pool_timeout(
        self, client: httpx.AsyncClient, nursery: trio.Nursery
    ) -> None:
        upstream = await nursery.start(serve, silent)
        async with trio.open_nursery() as inner:
            for _ in range(2):
                inner.start_soon(client.get, url(upstream))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(httpx.PoolTimeout):
                await client.get(url(upstream), timeout=httpx.Timeout(3600, pool=0.02))
            inner.cancel_scope.cancel()

    async def test_transport_upload_not_accepted_is_write_timeout(
        self, client: httpx.AsyncClient, nursery: trio.Nursery
    ) -> None:
        async def script(peer: Peer) -> None:
            await trio.sleep_forever()

        upstream = await nursery.start(serve, script)
        with pytest.raises(httpx.WriteTimeout):
            await client.post(
                url(upstream), content=bytes(50_000_000), timeout=httpx.Timeout(3600, write=0.05)
            )

    @pytest.mark.parametrize(
        ("raw", "error"),
        [
            (b"", httpx.ReadError),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", httpx.ReadError),
            (b"nonsense\r\n\r\n", httpx.RemoteProtocolError),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", httpx.RemoteProtocolError),
        ],
    )
    async def test_transport_bad_response_is_httpx_error(
        self, client: httpx.AsyncClient, nursery: trio.Nursery, raw: bytes, error: type[httpx.TransportError]
    ) -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(raw)

        upstream = await nursery.start(serve, script)
        with pytest.raises(error) as caught:
            await client.get(url(upstream))
        assert caught.value.request.url == url(upstream)

    async def test_transport_unsupported_scheme_is_rejected(self, client: httpx.AsyncClient) -> None:
        with pytest.raises(httpx.UnsupportedProtocol):
            await client.get("ftp://127.0.0.1/")

    def test_transport_every_pool_error_has_httpx_error(self) -> None:
        assert set(transport._ERRORS) == set(UpstreamError.__subclasses__()) - {BodyTooLarge}


class TestNothingIsCarriedOver:
    async def test_transport_cookies_are_not_kept(
        self, client: httpx.AsyncClient, nursery: trio.Nursery
    ) -> None:
        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.answer(b"", b"Set-Cookie: session=one-tenants; Path=/", b"Set-Cookie: a=b")

        upstream = await nursery.start(serve, script)
        for _ in range(2):
            response = await client.get(url(upstream))
            assert not response.cookies
        assert not client.cookies
        assert upstream.requests[1].values(b"cookie") == []

    async def test_transport_redirects_are_not_followed(
        self, client: httpx.AsyncClient, nursery: trio.Nursery
    ) -> None:
        inner = await nursery.start(serve, always_ok)

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"", b"Location: " + url(inner).encode(), status=b"302 Found")

        upstream = await nursery.start(serve, script)
        response = await client.get(url(upstream))
        assert response.status_code == 302
        assert inner.accepted == 0

    async def test_transport_environment_proxies_and_credentials_are_ignored(
        self, pool: Pool, nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = await nursery.start(serve, always_ok)
        upstream = await nursery.start(serve, always_ok)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, url(proxy))
            monkeypatch.setenv(name.lower(), url(proxy))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
        async with httpx.AsyncClient(transport=PoolTransport(pool), trust_env=False) as client:
            await client.get(url(upstream))
        target = UpstreamOrigin("http", "127.0.0.1", upstream.port)
        response = await pool.request(b"GET", target, b"/", [], timeouts=Timeouts())
        await response.read(10)
        assert proxy.accepted == 0
        assert [request.values(b"authorization") for request in upstream.requests] == [[], []]
