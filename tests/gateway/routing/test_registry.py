"""Where servers come from, what they are asked, and the tasks that ask them."""

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.common.values import Server
from bluesminds.gateway.probe import ProbeResult, probe
from bluesminds.gateway.supervision import TaskSupervisor
from bluesminds.http.client.pool import Pool
from tests import gateways
from tests.fakes import model_server, raw_upstream
from tests.fakes.model_server import ModelServer
from tests.fakes.raw_upstream import Peer
from tests.gateways import entry


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


async def probed(nursery: trio.Nursery, pool: Pool, answer: bytes, status: bytes = b"200 OK") -> ProbeResult:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(answer, status=status)

    upstream = await nursery.start(raw_upstream.serve, script)
    found = await probe(pool, server(upstream.port), seconds=10, list_models=True)
    assert upstream.requests[0].line == b"GET /v1/models HTTP/1.1"
    assert upstream.requests[0].values(b"authorization") == [b"Bearer sk-x"]
    return found


async def test_a_probe_lists_models_in_both_shapes(nursery: trio.Nursery, pool: Pool) -> None:
    for body in (
        b'{"object":"list","data":[{"id":"a"},{"id":"b","created":3,"x":[1]}]}',
        b'[{"id":"a"},{"id":"b"}]',
    ):
        found = await probed(nursery, pool, body)
        assert found.error is None
        assert found.models is not None
        assert [row.id for row in found.models] == ["a", "b"]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (b'{"error":{"message":"bad key sk-x"}}', b"401 No", "refused the api_key"),
        (b'{"error":{"message":"bad key sk-x","code":"invalid_api_key"}}', b"403 No", "refused the api_key"),
        (b"<html>", b"403 No", "403"),
        (b"<html>", b"404 No", "404"),
        (b'{"error":{"message":"broken"}}', b"500 No", "500: broken"),
        (b"<html>", b"200 OK", "not in OpenAI's format"),
        (b'{"data":"\xff"}', b"200 OK", "not in OpenAI's format"),
        (b"[" * 100_000, b"200 OK", "not in OpenAI's format"),
    ],
)
async def test_a_probe_says_what_is_wrong(
    nursery: trio.Nursery, pool: Pool, answer: bytes, status: bytes, words: str
) -> None:
    found = await probed(nursery, pool, answer, status)
    assert found.error is not None
    assert words in found.error
    assert "sk-x" not in found.error
    assert found.models is None


async def test_a_probe_does_not_wait_for_ever(nursery: trio.Nursery, pool: Pool) -> None:
    upstream = await nursery.start(raw_upstream.serve, raw_upstream.silent)
    with trio.fail_after(30):
        found = await probe(pool, server(upstream.port), seconds=0.2, list_models=True)
    assert found.error


async def test_a_proxy_with_a_cheap_sign_of_life_is_asked_for_that(nursery: trio.Nursery, pool: Pool) -> None:
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
async def test_a_server_whose_models_are_known_need_not_list_them(
    nursery: trio.Nursery, pool: Pool, status: bytes, alive: bool
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"<html>", status=status)

    upstream = await nursery.start(raw_upstream.serve, script)
    found = await probe(pool, server(upstream.port), seconds=10, list_models=False)
    assert (found.error is None, found.models) == (alive, None)


async def test_servers_are_added_and_removed_while_it_runs(nursery: trio.Nursery, home: Path) -> None:
    first: ModelServer = await nursery.start(model_server.serve, "one-model")
    second: ModelServer = await nursery.start(model_server.serve, "org/other")
    gateway = await gateways.start(nursery, home, servers=[entry("first", first.url, models=[])])
    assert gateway.running.models == ["one-model"]
    ask = {"model": "org/other", "messages": []}
    assert (await gateway.chat(ask)).json()["error"]["code"] == "model_not_found"
    async with gateway.operator() as client:
        wanted = {"name": "second", "url": second.url, "api_key": "sk-table"}
        assert (await client.post("/api/admin/servers", json=wanted)).status_code == 201
        assert (await client.post("/api/admin/servers", json=wanted)).status_code == 409
        tested = (await client.post("/api/admin/servers/second/test")).json()
        assert (tested["ok"], tested["models"]) == (True, ["org/other"])
        assert (await gateway.chat(ask)).status_code == 200
        assert second.asked[0].header(b"authorization") == b"Bearer sk-table"
        listed = (await client.get("/api/admin/servers")).json()["data"]
        assert [(row["name"], row["origin"], row["has_api_key"]) for row in listed] == [
            ("first", "file", False),
            ("second", "table", True),
        ]
        assert "sk-table" not in str(listed)
        assert (await client.delete("/api/admin/servers/second")).status_code == 204
        assert (await client.delete("/api/admin/servers/second")).status_code == 404
        assert (await client.delete("/api/admin/servers/first")).status_code == 404
        assert (await client.post("/api/admin/servers/none/test")).status_code == 404
    assert (await gateway.chat(ask)).json()["error"]["code"] == "model_not_found"


async def test_a_task_that_fails_starts_again_and_shows(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    lines: list[bytes] = []
    tasks = TaskSupervisor(Log(SystemClock(), write=lines.append))
    runs: list[float] = []
    finished = trio.Event()

    async def work() -> None:
        runs.append(trio.current_time())
        if len(runs) < 9:
            raise ValueError("not to be told")
        assert tasks.down == {}
        finished.set()

    nursery.start_soon(tasks.run, "worker", work)
    await trio.sleep(0.1)
    assert tasks.down == {"worker": "ValueError"}
    with trio.fail_after(200):
        await finished.wait()
    pauses = [later - earlier for earlier, later in pairwise(runs)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(json.loads(line)["keeper"] == "worker" for line in lines)
    assert "not to be told" not in b"".join(lines).decode()


async def test_the_last_use_of_a_key_is_kept(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    await gateway.chat()
    await gateway.stop()
    again = await gateways.start(nursery, home, servers=[entry("one", models.url)], key=gateway.key)
    async with again.operator() as client:
        (key,) = (await client.get("/api/admin/keys")).json()["data"]
    assert key["last_used_at"] is not None
