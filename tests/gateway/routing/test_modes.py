"""Servers that are draining or off."""

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs

from bluesminds.common.routes import ModelRoute, RouteTarget
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.policies import select_targets
from bluesminds.gateway.routing.selection import Dropped, select_candidates
from tests import gateways
from tests.deployment import code_of
from tests.fakes.model_server import ModelServer
from tests.gateway.routing.test_policies import CHAT, health_of, server
from tests.gateways import Gateway, entry

PATH = "/api/admin/servers"
SERVERS = [structs.replace(server("a"), mode="draining"), server("b")]


def test_draining_server_only_gets_requests_that_refer_to_it() -> None:
    catalog = ModelCatalog(SERVERS, {}, [ModelRoute("r", tuple(RouteTarget(name, "m") for name in "ab"))])

    def names(model: str, only: frozenset[str] | None = None) -> list[str]:
        found = select_targets(catalog, CHAT, model, health=health_of(), random=lambda: 0.5, only=only)
        return [target.server.name for target in found]

    assert names("m") == ["b"]
    assert names("m", frozenset("a")) == ["a"]
    assert catalog.routes is not None
    route = catalog.routes.match("r")
    assert route is not None
    for only, used, dropped in (
        (None, ["b"], [Dropped("r", "a", "draining")]),
        (frozenset("a"), ["a"], [Dropped("r", "b", "other_server")]),
    ):
        found = select_candidates(catalog, route, CHAT, "r", may_use=lambda _: True, only=only)
        assert [one.target.server.name for one in found.groups[0].candidates] == used
        assert list(found.dropped) == dropped


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Gateway:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url, priority=1)])
    async with gateway.operator() as client:
        new = {"name": "two", "url": second.url, "models": ["m", "only-two"]}
        assert (await client.post(PATH, json=new)).status_code == 201
    return gateway


async def test_mode_set_with_the_api_applies_at_once(gateway: Gateway) -> None:
    async def change(mode: str) -> dict[str, Any]:
        async with gateway.operator() as client:
            changed = await client.patch(f"{PATH}/two", json={"mode": mode})
            assert (changed.status_code, changed.json()["mode"]) == (200, mode)
            rows = {row["name"]: row for row in (await client.get(PATH)).json()["data"]}
            tested = (await client.post(f"{PATH}/two/test")).json()
        assert tested["ok"], tested
        return rows["two"]

    async def served_by() -> str:
        return str((await gateway.chat()).headers["x-bluesminds-server"])

    assert await served_by() == "two"
    for mode in ("draining", "off"):
        assert (await change(mode))["mode"] == mode
        assert await served_by() == "one"
        refused = await gateway.chat({"model": "only-two", "messages": []})
        assert code_of(refused) == "model_not_found"
    await change("active")
    assert await served_by() == "two"
