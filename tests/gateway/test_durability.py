"""Strict and relaxed durability while the database cannot write."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bluesminds.gateway.supervision import Watchdog
from tests import gateways
from tests.fakes.model_server import DONE, ModelServer, chunk, hang, refusal, streamed, text_chunks
from tests.gateway.limits.test_limits import Wall
from tests.gateways import ASK, STREAM, Gateway, entry, eventually
from tests.storage.locks import exclusive


async def patient_store(nursery: trio.Nursery, home: Path, models: ModelServer, **storage: Any) -> Gateway:
    """A gateway with timeouts that no slow disk reaches."""
    return await gateways.start(
        nursery,
        home,
        servers=[entry("one", models.url)],
        storage={"settle_timeout": 30.0} | storage,
        upstream={"total_timeout": 60.0, "attempts": 1},
    )


@asynccontextmanager
async def blocked(gateway: Gateway) -> AsyncIterator[None]:
    """Another process holds the write lock of the database. The key is cached before."""
    assert (await gateway.get("/v1/models")).status_code == 200
    async with exclusive(gateway.database):
        yield


@asynccontextmanager
async def blocked_for_long(gateway: Gateway) -> AsyncIterator[None]:
    """As `blocked`, with a commit timeout of one second until the lock is released."""
    watchdog: Watchdog = gateway.running.healthy.__self__  # type: ignore[attr-defined]
    recorder = watchdog._recorder
    async with blocked(gateway):
        usual, recorder._timeout = recorder._timeout, 1.0
        try:
            yield
        finally:
            recorder._timeout = usual


async def test_strict_durability_with_blocked_database_rejects_requests(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models)
    async with blocked_for_long(gateway):
        first = await gateway.chat()
        assert (first.status_code, first.json()["error"]["code"]) == (503, "storage_unavailable")
        asked = len(models.asked)
        second = await gateway.chat()
        assert (second.status_code, second.json()["error"]["code"]) == (503, "storage_unavailable")
        assert int(second.headers["retry-after"]) >= 1
        assert len(models.asked) == asked
        ready = await gateway.get("/ready")
        assert (ready.status_code, ready.json()["checks"]["store"]) == (503, "failing")
    await eventually(gateway.is_ready)
    assert (await gateway.chat()).status_code == 200
    rows = await gateway.settled(2)
    assert len(rows) == len({row["id"] for row in rows}) == 2
    assert await gateway.metric("bluesminds_usage_rows_committed_total") == 2
    assert await gateway.metric("bluesminds_usage_commit_failures_total") >= 1
    assert await gateway.metric("bluesminds_usage_rows_held") == 0


async def test_missing_usage_table_fails_requests_and_keeps_rows(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models)
    assert (await gateway.chat()).status_code == 200
    await gateway.alter("ALTER TABLE usage RENAME TO away")
    first = await gateway.chat()
    assert (first.status_code, first.json()["error"]["code"]) == (503, "storage_unavailable")
    assert first.headers["x-should-retry"] == "false"
    assert "retry-after" not in first.headers
    second = await gateway.chat()
    assert (second.status_code, second.json()["error"]["code"]) == (503, "storage_unavailable")
    assert "x-should-retry" not in second.headers
    assert len(models.asked) == 2
    assert (await gateway.get("/ready")).json()["checks"]["store"] == "failing"
    await gateway.alter("ALTER TABLE away RENAME TO usage")
    await eventually(gateway.is_ready)
    assert [row["outcome"] for row in await gateway.settled(2)] == ["ok", "ok"]
    assert gateway.events("usage_row_rejected") == []


async def test_upstream_error_with_blocked_database_reports_storage_unavailable(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models)
    models.plan(refusal(500))
    assert (await gateway.chat()).status_code == 502
    assert [row["outcome"] for row in gateway.rows()] == ["upstream_error"]
    async with blocked_for_long(gateway):
        models.plan(refusal(500))
        answer = await gateway.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-bluesminds-server"] == "one"
    assert [row["status"] for row in await gateway.settled(2)] == [502, 502]


async def test_total_timeout_while_row_waits_reports_storage_unavailable(
    nursery: trio.Nursery, home: Path, models: ModelServer, mock_clock: MockClock
) -> None:
    """The responses are complete and wait for their rows when the time is over."""
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("one", models.url)],
        storage={"settle_timeout": 30.0},
        upstream={"total_timeout": 4.0},
    )
    answers: list[httpx.Response] = []

    async def ask(body: Mapping[str, Any]) -> None:
        answers.append(await gateway.chat(body))

    async with blocked(gateway), trio.open_nursery() as clients:
        clients.start_soon(ask, ASK)
        clients.start_soon(ask, STREAM)
        while len(models.asked) < 2 or await gateway.metric("bluesminds_requests_running"):
            await trio.lowlevel.checkpoint()
        mock_clock.jump(4)
    mock_clock.rate = 1  # the checks below wait
    answer, stream = sorted(answers, key=lambda answer: -answer.status_code)
    assert stream.status_code == 200
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert b"storage_unavailable" in stream.content
    assert b"upstream_timeout" not in stream.content
    assert b"[DONE]" not in stream.content
    assert [(row["status"], row["outcome"]) for row in await gateway.settled(2)] == [(200, "ok")] * 2


async def test_strict_stream_with_blocked_database_ends_with_error(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models)
    async with blocked_for_long(gateway):
        answer = await gateway.chat(STREAM)
    assert answer.content.startswith(text_chunks()[0])
    assert b"storage_unavailable" in answer.content
    assert b"[DONE]" not in answer.content
    rows = await gateway.settled(1)
    assert [row["outcome"] for row in rows] == ["ok"]


async def test_relaxed_durability_with_blocked_database_responds(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models, durability="relaxed")
    async with blocked(gateway):
        assert (await gateway.chat()).status_code == 200
        models.plan(streamed(chunk("Hi"), DONE))
        assert (await gateway.chat(STREAM)).content == chunk("Hi") + DONE
    rows = await gateway.settled(2)
    assert [row["outcome"] for row in rows] == ["ok"] * 2


async def test_full_queue_rejects_before_upstream_request(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, storage={"queue_rows": 2})
    models.plan(hang, hang)
    async with trio.open_nursery() as waiting:
        for _ in range(2):
            waiting.start_soon(gateway.chat)
        await eventually(lambda: len(models.asked) == 2)
        refused = await gateway.chat()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "usage_queue_full")
        assert len(models.asked) == 2
        waiting.cancel_scope.cancel()
    await gateway.settled(2)
    await eventually(gateway.holds_no_rows)  # a row is in the file before its reservation ends
    assert (await gateway.chat()).status_code == 200


async def test_stop_writes_waiting_rows(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await patient_store(nursery, home, models, durability="relaxed")
    async with blocked(gateway):
        async with trio.open_nursery() as clients:
            for _ in range(5):
                clients.start_soon(gateway.chat)
        gateway.shutdown.set()
        await wait_all_tasks_blocked()
    await gateway.stop()
    assert len(gateway.rows()) == 5


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_restart_on_each_engine_keeps_keys_and_usage(
    request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path, models: ModelServer, engine: str
) -> None:
    storage: dict[str, Any] = {"url": request.getfixturevalue(f"{engine}_url")}
    servers, wall = [entry("one", models.url)], Wall()
    gateway = await gateways.start(nursery, home, servers=servers, clock=wall, storage=storage)
    async with trio.open_nursery() as clients:
        for _ in range(10):
            clients.start_soon(gateway.chat)
            clients.start_soon(lambda: gateway.chat(STREAM))
    wall.at += timedelta(minutes=1)  # ids sort by time, and the totals below by id
    key_id, key = await gateway.new_key(limits={"rpm": 1})
    assert [(await gateway.chat(key=key)).status_code for _ in range(2)] == [200, 429]
    async with gateway.operator() as client:
        (total,) = (await client.get("/api/admin/usage/stats", params={"group": "key", "days": "1"})).json()[
            "data"
        ][1:]
        assert (total["key"], total["requests"], total["input_tokens"]) == (key_id, 1, 11)
        assert (await client.delete(f"/api/admin/keys/{key_id}")).status_code == 204
    assert (await gateway.chat(key=key)).json()["error"]["code"] == "api_key_revoked"
    await gateway.stop()
    again = await gateways.start(nursery, home, servers=servers, clock=wall, storage=storage, key=gateway.key)
    assert again.running.first_run.key is None
    assert (await again.chat()).status_code == 200
    async with again.operator() as client:
        (total,) = (await client.get("/api/admin/usage/stats")).json()["data"]
    assert (total["model"], total["requests"], total["errors"], total["output_tokens"]) == (
        "m",
        22,
        0,
        44,
    )
