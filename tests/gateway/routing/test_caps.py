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
    gateway = await start(nursery, home, [models.url], [], rpm=1)
    assert (await gateway.chat()).status_code == 200
    refused = await gateway.chat()
    assert (refused.status_code, code_of(refused)) == (503, "servers_busy")
    assert "retry-after" in refused.headers
    assert len(models.asked) == 1
    async with gateway.operator() as client:
        shown = (await client.get("/api/admin/servers")).json()["data"][0]
    assert (shown["rpm"], shown["max_concurrency"], shown["state"]) == (1, 0, "up")
