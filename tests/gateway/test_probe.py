"""Probes of servers: their models, or why they fail."""

from collections.abc import AsyncIterator

import pytest
import trio

from bluesminds.common.values import Server
from bluesminds.gateway.probe import ProbeResult, probe
from bluesminds.http.client.pool import Pool
from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer


@pytest.fixture
async def pool(nursery: trio.Nursery) -> AsyncIterator[Pool]:
    pool = Pool()
    await nursery.start(pool.run)
    yield pool


def server(port: int, dialect: str = "openai", api_key: str | None = "sk-x") -> Server:
    return Server(
        name="s", dialect=dialect, url=f"http://127.0.0.1:{port}/v1", api_key=api_key, models=(), weight=1,
        priority=0, origin="file",
    )  # fmt: skip


async def probe_answer(
    nursery: trio.Nursery, pool: Pool, answer: bytes, status: bytes = b"200 OK"
) -> ProbeResult:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(answer, status=status)

    upstream = await nursery.start(raw_upstream.serve, script)
    found = await probe(pool, server(upstream.port), seconds=10, list_models=True)
    assert upstream.requests[0].line == b"GET /v1/models HTTP/1.1"
    assert upstream.requests[0].values(b"authorization") == [b"Bearer sk-x"]
    return found


async def test_probe_reads_model_list_in_both_formats(nursery: trio.Nursery, pool: Pool) -> None:
    for body in (
        b'{"object":"list","data":[{"id":"a"},{"id":"b","created":3,"x":[1]}]}',
        b'[{"id":"a"},{"id":"b"}]',
    ):
        found = await probe_answer(nursery, pool, body)
        assert found.error is None
        assert found.models is not None
        assert [row.id for row in found.models] == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (b'{"error":{"message":"bad key sk-x"}}', b"401 No", "rejected the api_key"),
        (b'{"error":{"message":"bad key sk-x","code":"invalid_api_key"}}', b"403 No", "rejected the api_key"),
        (b"<html>", b"403 No", "403"),
        (b"<html>", b"404 No", "404"),
        (b'{"error":{"message":"broken"}}', b"500 No", "500: broken"),
        (b"<html>", b"200 OK", "not JSON"),
        (b'{"data":"\xff"}', b"200 OK", "no list of models"),
        (b"[" * 100_000, b"200 OK", "not JSON"),
    ],
)
async def test_failed_probe_reports_error_without_key(
    nursery: trio.Nursery, pool: Pool, answer: bytes, status: bytes, message: str
) -> None:
    found = await probe_answer(nursery, pool, answer, status)
    assert found.error is not None
    assert message in found.error
    assert "sk-x" not in found.error
    assert found.models is None


async def test_probe_of_silent_server_times_out(nursery: trio.Nursery, pool: Pool) -> None:
    upstream = await nursery.start(raw_upstream.serve, raw_upstream.silent)
    found = await probe(pool, server(upstream.port), seconds=0.2, list_models=True)
    assert found.error


async def test_probe_of_litellm_uses_liveliness_path(nursery: trio.Nursery, pool: Pool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b'"I\'m alive!"')

    upstream = await nursery.start(raw_upstream.serve, script)
    found = await probe(pool, server(upstream.port, "litellm"), seconds=10, list_models=False)
    assert found.error is None
    assert upstream.requests[0].line == b"GET /health/liveliness HTTP/1.1"


@pytest.mark.parametrize(
    ("status", "alive"), [(b"404 No", True), (b"405 No", True), (b"401 No", False), (b"503 No", False)]
)
async def test_probe_without_model_list_accepts_client_errors(
    nursery: trio.Nursery, pool: Pool, status: bytes, alive: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"<html>", status=status)

    upstream = await nursery.start(raw_upstream.serve, script)
    found = await probe(pool, server(upstream.port), seconds=10, list_models=False)
    assert (found.error is None, found.models) == (alive, None)
