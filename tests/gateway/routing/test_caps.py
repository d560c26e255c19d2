"""Servers with a cap of requests at once or per minute."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.deployment import code_of
from tests.fakes.model_server import ModelServer, hang
from tests.gateways import Gateway, entry

ROUTES = [{"model": "m", "targets": ["one", "two"]}]


async def start(
    nursery: trio.Nursery, home: Path, urls: list[str], routes: list[dict[str, Any]], **caps: Any
) -> Gateway:
    names = ("one", "two")
    servers = [entry(name, url, priority=at) for at, (name, url) in enumerate(zip(names, urls, strict=False))]
    servers[0] |= caps
    return await gateways.start(nursery, home, servers=servers, routes=routes)


@pytest.mark.parametrize("routes", [[], ROUTES])
async def test_server_at_its_concurrency_is_skipped(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, routes: list[dict[str, Any]]
) -> None:
    gateway = await start(nursery, home, [models.url, second.url], routes, max_concurrency=1)
    models.plan(hang)
    async with trio.open_nursery() as running:
        running.start_soon(gateway.chat)
        await gateways.eventually(lambda: len(models.asked) == 1)
        answer = await gateway.chat()
        assert (answer.headers["x-bluesminds-server"], answer.headers["x-bluesminds-attempts"]) == (
            "two",
            "1",
        )
        running.cancel_scope.cancel()
    await gateway.settled(2)
    assert (await gateway.chat()).headers["x-bluesminds-server"] == "one"


@pytest.mark.parametrize("routes", [[], ROUTES])
async def test_server_at_its_rate_is_skipped(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, routes: list[dict[str, Any]]
) -> None:
    gateway = await start(nursery, home, [models.url, second.url], routes, rpm=2)
    served = [(await gateway.chat()).headers["x-bluesminds-server"] for _ in range(4)]
    assert served == ["one", "one", "two", "two"]


async def test_request_is_refused_if_all_servers_are_at_their_caps(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url, rpm=1)]
    gateway = await gateways.start(nursery, home, servers=servers, upstream={"queue_timeout": 0})
    assert (await gateway.chat()).status_code == 200
    refused = await gateway.chat()
    assert (refused.status_code, code_of(refused)) == (503, "servers_busy")
    assert "retry-after" in refused.headers
    assert len(models.asked) == 1
    async with gateway.operator() as client:
        shown = (await client.get("/api/admin/servers")).json()["data"][0]
    assert (shown["rpm"], shown["max_concurrency"], shown["state"]) == (1, 0, "up")


async def test_request_waits_for_a_server_at_its_cap(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, [models.url], [], max_concurrency=1)
    _, key = await gateway.new_key(concurrency=1)
    answered: list[int] = []

    async def ask() -> None:
        answered.append((await gateway.chat(key=key)).status_code)

    models.plan(hang)
    async with trio.open_nursery() as running:
        running.start_soon(gateway.chat)
        await gateways.eventually(lambda: len(models.asked) == 1)
        nursery.start_soon(ask)
        await gateways.eventually(lambda: _queued(gateway, 1))
        async with gateway.operator() as client:
            hints = (await client.get("/api/admin/health")).json()["hints"]
        assert {"model": "m", "kind": "queued", "servers": ["one"], "waiting": 1} in hints
        refused = await gateway.chat(key=key)
        assert refused.status_code == 429, "a waiting request counts as one that runs"
        assert len(models.asked) == 1
        running.cancel_scope.cancel()
    await gateways.eventually(lambda: answered == [200])
    assert await _queued(gateway, 0)
    assert await gateway.metric("bluesminds_queue_seconds_count", outcome="served") == 1
    row = (await gateway.settled(2))[-1]
    assert (row["outcome"], row["attempts"]) == ("ok", 1)
    async with gateway.operator() as client:
        shown = (await client.get(f"/api/admin/requests/{row['id']}")).json()
    assert "queued_ms" in shown["receipt"]
    assert (await gateway.chat(key=key)).status_code == 200


async def test_client_that_leaves_the_queue_is_removed_at_once(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, [models.url], [], max_concurrency=1)
    models.plan(hang)
    nursery.start_soon(gateway.chat)
    await gateways.eventually(lambda: len(models.asked) == 1)
    async with trio.open_nursery() as client:
        client.start_soon(gateway.chat)
        await gateways.eventually(lambda: _queued(gateway, 1))
        client.cancel_scope.cancel()
    await gateways.eventually(lambda: _queued(gateway, 0))
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["attempts"], row["output_tokens"]) == ("client_gone", 0, None)
    assert len(models.asked) == 1
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("route", [{"queue_timeout": 0}, {"queue_size": 0}])
async def test_route_can_refuse_to_wait(
    nursery: trio.Nursery, home: Path, models: ModelServer, route: dict[str, Any]
) -> None:
    routes = [{"model": "m", "targets": ["one"]} | route]
    gateway = await start(nursery, home, [models.url], routes, rpm=1)
    assert (await gateway.chat()).status_code == 200
    refused = await gateway.chat()
    code = "servers_busy" if "queue_timeout" in route else "queue_full"
    assert (refused.status_code, code_of(refused)) == (503, code)
    assert int(refused.headers["retry-after"]) >= 1


async def test_fallback_model_is_used_before_the_queue(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = [
        entry("one", models.url, rpm=1),
        entry("two", second.url, models=["backup"], max_concurrency=5),
    ]
    routes = [{"model": "m", "fallback": ["backup"]}]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    served = [(await gateway.chat()).headers["x-bluesminds-server"] for _ in range(3)]
    assert served == ["one", "two", "two"]


async def _queued(gateway: Gateway, count: int) -> bool:
    return await gateway.metric("bluesminds_queue_length") == count
