"""Relayed bodies flow in both directions, and end as their other end does."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received, Upstream
from tests.gateway.passthrough.conftest import Account, code_of
from tests.gateways import Gateway, entry, eventually

MIB = 1024 * 1024
FORM = {"content-type": "multipart/form-data; boundary=x"}
FIRST = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
LAST = b"\r\n--x--\r\n"
JSON = b"Content-Type: application/json"
LIMITS = {"server": {"max_body_bytes": 1024 * MIB}}


async def begin(
    nursery: trio.Nursery, home: Path, script: raw_upstream.Script, **sections: Any
) -> tuple[Account, Upstream]:
    upstream: Upstream = await nursery.start(raw_upstream.serve, script)
    server = entry("one", f"http://127.0.0.1:{upstream.port}/v1", api_key="sk-upstream", passthrough=True)
    gateway = await gateways.start(nursery, home, servers=[server], **(LIMITS | sections))
    return Account(gateway, "", gateway.key), upstream


async def head_of(peer: Peer) -> bytes:
    """The next head that is not a health check's."""
    while (head := await peer.head()).startswith(b"GET /v1/models "):
        await peer.answer(b'{"data": []}', JSON)
    return head


async def request_of(peer: Peer) -> Received:
    """The next request that is not a health check."""
    peer._buffer = await head_of(peer) + peer._buffer
    return await peer.request()


async def own_file(peer: Peer) -> None:
    """Answer the request that creates the file of the test. A later request has a connection of its own if a
    health check uses the first one.
    """
    head = await head_of(peer)
    peer._buffer = head + peer._buffer
    if head.startswith(b"POST "):
        await peer.request()
        await peer.answer(b'{"id": "file-1"}', JSON)


async def is_idle(gateway: Gateway) -> bool:
    return await gateway.metric("bluesminds_requests_running") == 0


async def test_upload_reaches_the_server_while_the_client_sends_it(nursery: trio.Nursery, home: Path) -> None:
    seen = trio.Event()
    size = 0

    async def script(peer: Peer) -> None:
        nonlocal size
        head = await head_of(peer)
        assert b"content-type: multipart/form-data; boundary=x\r\n" in head.lower()
        while FIRST not in peer._buffer:
            await peer._more()
        seen.set()
        while not peer._buffer.endswith(b"0\r\n\r\n"):
            size += len(peer._buffer)
            peer._buffer = peer._buffer[-8:]
            await peer._more()
        await peer.answer(b'{"id": "file-1"}', JSON)

    account, _ = await begin(nursery, home, script)

    async def pieces() -> AsyncIterator[bytes]:
        yield FIRST
        await seen.wait()
        for _ in range(40):
            assert await account.gateway.metric("bluesminds_body_bytes_held") == 0
            yield b"x" * MIB
        yield LAST

    answer = await account.send("POST", "/v1/files", content=pieces(), headers=FORM)
    assert answer.json() == {"id": "file-1"}
    assert size > 40 * MIB


async def test_content_length_of_an_upload_is_kept(nursery: trio.Nursery, home: Path) -> None:
    account, upstream = await begin(nursery, home, own_file)
    body = FIRST + b"hello" + LAST
    await account.send("POST", "/v1/files", content=body, headers=FORM)
    (received,) = upstream.requests
    assert received.values(b"content-length") == [b"%d" % len(body)]
    assert received.body == body


async def test_download_reaches_the_client_while_the_server_sends_it(
    nursery: trio.Nursery, home: Path
) -> None:
    seen = trio.Event()

    async def script(peer: Peer) -> None:
        await own_file(peer)
        await request_of(peer)
        await peer.begin_chunked(b"Content-Type: application/octet-stream", b"Content-Disposition: inline")
        await peer.chunk(b"first")
        await peer.chunk(b"second")
        await seen.wait()
        for _ in range(20):
            await peer.chunk(b"x" * MIB)
        await peer.send(b"0\r\n\r\n")

    account, _ = await begin(nursery, home, script)
    await account.send("POST", "/v1/evals", json={})
    gateway = account.gateway
    size = 0
    async with (
        gateway.client() as client,
        client.stream("GET", "/v1/evals/file-1/content") as answer,
    ):
        assert answer.headers["content-disposition"] == "inline"
        async for piece in answer.aiter_bytes():
            size += len(piece)
            seen.set()
    assert size == 20 * MIB + 11
    row = gateway.rows()[-1]
    assert (row["outcome"], row["first_byte_ms"] is not None) == ("ok", True)


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_download_that_the_server_cuts_is_not_complete_for_the_client(
    nursery: trio.Nursery, home: Path, framing: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await own_file(peer)
        await request_of(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%b\r\n\r\n" % framing)
        await (peer.chunk if b"chunked" in framing else peer.send)(b"y" * 50)
        await peer.close()

    account, _ = await begin(nursery, home, script)
    await account.send("POST", "/v1/evals", json={})
    with pytest.raises(httpx.RemoteProtocolError):
        await account.send("GET", "/v1/evals/file-1/content")
    gateway = account.gateway
    rows = await gateway.settled(2)
    assert (rows[1]["outcome"], rows[1]["status"]) == ("cut", 200)
    assert gateway.events("request_failed") == []
    assert gateway.events("connection_failed") == []


@pytest.mark.parametrize("framing", [b"Content-Length: 19", b"Transfer-Encoding: chunked"])
async def test_download_does_not_contain_the_key_of_the_server(
    nursery: trio.Nursery, home: Path, framing: bytes
) -> None:
    async def script(peer: Peer) -> None:
        await own_file(peer)
        await request_of(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n%b\r\n\r\n" % framing)
        for piece in (b"key sk-ups", b"tream end"):
            await (peer.chunk if b"chunked" in framing else peer.send)(piece)
        if b"chunked" in framing:
            await peer.send(b"0\r\n\r\n")

    account, _ = await begin(nursery, home, script)
    await account.send("POST", "/v1/evals", json={})
    answer = await account.send("GET", "/v1/evals/file-1/content")
    assert answer.content == b"key *********** end"


async def test_client_that_leaves_ends_the_upload(nursery: trio.Nursery, home: Path) -> None:
    left = trio.Event()

    async def script(peer: Peer) -> None:
        await head_of(peer)
        await peer.wait_closed()
        left.set()

    account, _ = await begin(nursery, home, script)
    stream = await trio.open_tcp_stream("127.0.0.1", account.gateway.port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {account.key}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n"
    await stream.send_all(head.encode() + FIRST)
    await eventually(lambda: account.gateway.running.running_requests() == 1)
    await stream.aclose()
    with trio.fail_after(60):
        await left.wait()
    (row,) = await account.gateway.settled(1)
    assert (row["outcome"], row["status"], row["endpoint"]) == ("client_gone", 499, "passthrough")
    await eventually(lambda: is_idle(account.gateway))
    assert account.gateway.events("request_failed") == []


async def test_client_that_leaves_ends_the_download(nursery: trio.Nursery, home: Path) -> None:
    left = trio.Event()

    async def script(peer: Peer) -> None:
        await own_file(peer)
        await request_of(peer)
        await peer.begin_chunked(b"Content-Type: text/plain")
        await peer.chunk(b"first")
        await peer.chunk(b"second")
        await peer.wait_closed()
        left.set()

    account, _ = await begin(nursery, home, script)
    await account.send("POST", "/v1/evals", json={})
    gateway = account.gateway
    async with gateway.client() as client, client.stream("GET", "/v1/evals/file-1/content") as answer:
        async for _ in answer.aiter_raw():
            break
    with trio.fail_after(60):
        await left.wait()
    rows = await gateway.settled(2)
    assert rows[1]["outcome"] == "client_gone"


async def test_form_that_ends_too_early_is_refused(nursery: trio.Nursery, home: Path) -> None:
    async def script(peer: Peer) -> None:
        await head_of(peer)
        await peer.wait_closed()

    account, upstream = await begin(nursery, home, script)
    answer = await account.send("POST", "/v1/files", content=FIRST + b"hello", headers=FORM)
    assert code_of(answer) == (400, "invalid_multipart")
    assert upstream.requests == []


async def test_server_that_refuses_early_ends_the_upload(nursery: trio.Nursery, home: Path) -> None:
    async def script(peer: Peer) -> None:
        await head_of(peer)
        await peer.answer(b'{"error": {"message": "too large"}}', JSON, status=b"413 Too Large")
        await peer.wait_closed()

    account, _ = await begin(nursery, home, script)
    stream = await trio.open_tcp_stream("127.0.0.1", account.gateway.port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {account.key}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {90 * MIB}\r\n\r\n"
    await stream.send_all(head.encode() + FIRST)
    answer = b""
    while b"too large" not in answer:
        answer += await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 413 ")
    await stream.aclose()
    (row,) = await account.gateway.settled(1)
    assert (row["status"], row["outcome"]) == (413, "client_error")


async def test_large_json_answer_is_streamed(nursery: trio.Nursery, home: Path) -> None:
    large = msgspec.json.encode({"id": "file-2", "text": "x" * 3 * MIB})

    async def script(peer: Peer) -> None:
        await own_file(peer)
        await request_of(peer)
        await peer.answer(large, JSON)

    account, _ = await begin(nursery, home, script)
    await account.send("POST", "/v1/evals", json={})
    answer = await account.send("GET", "/v1/evals/file-1")
    assert answer.content == large


async def test_request_longer_than_the_total_timeout_is_an_error(nursery: trio.Nursery, home: Path) -> None:
    async def script(peer: Peer) -> None:
        await request_of(peer)
        await peer.wait_closed()

    account, _ = await begin(nursery, home, script, upstream={"total_timeout": 0.5})
    answer = await account.send("POST", "/v1/evals", json={})
    assert code_of(answer) == (504, "upstream_timeout")
    (row,) = account.gateway.rows()
    assert (row["status"], row["outcome"]) == (504, "timeout")


async def test_body_of_json_that_is_too_large_is_refused(nursery: trio.Nursery, home: Path) -> None:
    account, upstream = await begin(nursery, home, own_file)
    answer = await account.send("POST", "/v1/evals", json={"a": "x" * 9 * MIB})
    assert code_of(answer) == (413, "body_too_large")
    assert upstream.requests == []
