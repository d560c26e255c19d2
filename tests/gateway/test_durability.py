"""What strict and relaxed durability promise while the database does not write."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.gateway.supervision import Watchdog
from tests import gateways
from tests.fakes.model_server import DONE, ModelServer, chunk, hang, refusal, streamed
from tests.gateway.limits.test_limits import Wall
from tests.gateways import ASK, STREAM, Gateway, entry, eventually
from tests.storage.test_trouble import exclusive


async def patient_store(nursery: trio.Nursery, home: Path, models: ModelServer, **storage: Any) -> Gateway:
    """Gives a commit as long as any disk may need."""
    return await gateways.start(
        nursery,
        home,
        servers=[entry("one", models.url)],
        storage={"settle_timeout": 30.0} | storage,
        upstream={"total_timeout": 60.0},
    )


@asynccontextmanager
async def blocked(gateway: Gateway) -> AsyncIterator[None]:
    """Another process holds the database's write lock. The key is known already."""
    assert (await gateway.get("/v1/models")).status_code == 200
    async with exclusive(gateway.database):
        yield


@asynccontextmanager
async def blocked_for_long(gateway: Gateway) -> AsyncIterator[None]:
    """The same, and meanwhile a commit has one second: those that are to succeed keep their time."""
    watchdog: Watchdog = gateway.running.is_alive.__self__  # type: ignore[attr-defined]
    recorder = watchdog._recorder
    async with blocked(gateway):
        usual, recorder._timeout = recorder._timeout, 1.0
        try:
            yield
        finally:
            recorder._timeout = usual


async def test_strict_answers_wait_for_their_row_and_new_work_is_refused(
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


async def test_a_store_that_refuses_every_row_is_a_store_that_fails(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models)
    assert (await gateway.chat()).status_code == 200
    gateway.alter("ALTER TABLE usage RENAME TO away")
    first = await gateway.chat()
    assert (first.status_code, first.json()["error"]["code"]) == (503, "storage_unavailable")
    assert first.headers["x-should-retry"] == "false"
    assert "retry-after" not in first.headers
    second = await gateway.chat()
    assert (second.status_code, second.json()["error"]["code"]) == (503, "storage_unavailable")
    assert "x-should-retry" not in second.headers
    assert len(models.asked) == 2
    assert (await gateway.get("/ready")).json()["checks"]["store"] == "failing"
    gateway.alter("ALTER TABLE away RENAME TO usage")
    await eventually(gateway.is_ready)
    assert [row["outcome"] for row in await gateway.settled(2)] == ["ok", "ok"]
    assert gateway.events("usage_row_rejected") == []


async def test_an_error_is_told_when_it_is_recorded(
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


async def test_what_takes_too_long_is_named(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    """The total time ends while an answer that is complete waits for its row."""
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
    answer, stream = sorted(answers, key=lambda answer: -answer.status_code)
    assert stream.status_code == 200
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert b"storage_unavailable" in stream.content
    assert b"upstream_timeout" not in stream.content
    assert b"[DONE]" not in stream.content
    assert [(row["status"], row["outcome"]) for row in await gateway.settled(2)] == [(200, "ok")] * 2


async def test_a_strict_stream_whose_row_cannot_be_written_does_not_end_well(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models)
    async with blocked_for_long(gateway):
        answer = await gateway.chat(STREAM)
    assert answer.content.startswith(chunk("Hello"))
    assert b"storage_unavailable" in answer.content
    assert b"[DONE]" not in answer.content
    rows = await gateway.settled(1)
    assert [row["outcome"] for row in rows] == ["ok"]


async def test_relaxed_answers_do_not_wait(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await patient_store(nursery, home, models, durability="relaxed")
    async with blocked(gateway):
        with trio.fail_after(10):  # a commit would be waited for three times as long
            assert (await gateway.chat()).status_code == 200
            models.plan(streamed(chunk("Hi"), DONE))
            assert (await gateway.chat(STREAM)).content == chunk("Hi") + DONE
    rows = await gateway.settled(2)
    assert [row["outcome"] for row in rows] == ["ok"] * 2


async def test_a_full_queue_refuses_before_the_server_is_asked(
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
    await eventually(gateway.holds_no_rows)  # a row is in the file a moment before its place is free
    assert (await gateway.chat()).status_code == 200


async def test_rows_of_a_stopping_gateway_are_written(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await patient_store(nursery, home, models, durability="relaxed")
    async with blocked(gateway):
        async with trio.open_nursery() as clients:
            for _ in range(5):
                clients.start_soon(gateway.chat)
        gateway.shutdown.set()
        await trio.sleep(0.1)
    with trio.fail_after(30):
        await gateway.ended.wait()
    assert len(gateway.rows()) == 5


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_both_engines_serve_and_remember(
    request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path, models: ModelServer, engine: str
) -> None:
    storage: dict[str, Any] = {"url": request.getfixturevalue(f"{engine}_url")}
    servers, wall = [entry("one", models.url)], Wall()
    gateway = await gateways.start(nursery, home, servers=servers, clock=wall, storage=storage)
    async with trio.open_nursery() as clients:
        for _ in range(10):
            clients.start_soon(gateway.chat)
            clients.start_soon(lambda: gateway.chat(STREAM))
    wall.at += timedelta(minutes=1)  # ids are in the order of time, and the totals below in that of ids
    key_id, key = await gateway.new_key(limits={"rpm": 1})
    assert [(await gateway.chat(key=key)).status_code for _ in range(2)] == [200, 429]
    async with gateway.operator() as client:
        (total,) = (await client.get("/api/admin/usage", params={"group": "key", "days": "1"})).json()[
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
        (total,) = (await client.get("/api/admin/usage")).json()["data"]
    assert (total["model"], total["requests"], total["errors"], total["output_tokens"]) == (
        "m",
        22,
        0,
        44,
    )
