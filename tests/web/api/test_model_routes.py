"""/api/admin/routes and /api/admin/models: routes of the configuration and of the database."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.config.settings import RouteSettings
from bluesminds.web.api.model_routes import NewRoute, RoutePatch, RouteView
from tests import gateways
from tests.deployment import code_of
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, Gateway, entry
from tests.storage.conftest import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
PATH = "/api/admin/routes"


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture(params=["sqlite", "postgres"])
async def gateway(
    request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path, models: ModelServer
) -> Gateway:
    storage = {} if request.param == "sqlite" else {"url": request.getfixturevalue("postgres_url")}
    servers = [entry("one", models.url), entry("two", models.url, models=["m", "big"])]
    routes = [{"model": "from-file", "targets": ["one"], "policy": "weighted"}]
    prices = [{"model": "m", "input_usd": "1.5", "output_usd": "10", "max_output_tokens": 99}]
    return await gateways.start(nursery, home, servers=servers, storage=storage, routes=routes, prices=prices)


async def send(gateway: Gateway, method: str, path: str, body: Any = None) -> httpx.Response:
    async with gateway.operator() as client:
        return await client.request(method, path, json=body)


async def ask(gateway: Gateway, model: str) -> httpx.Response:
    return await gateway.chat(ASK | {"model": model})


async def test_route_added_changed_and_removed_applies_at_once(gateway: Gateway, models: ModelServer) -> None:
    assert code_of(await ask(gateway, "alias")) == "model_not_found"
    target = {"server": "two", "model": "big", "weight": 3, "priority": 1, "prefill": "message"}
    added = await send(gateway, "POST", PATH, {"model": "alias", "targets": [target], "fallback": ["m"]})
    assert added.status_code == 201
    route = added.json()
    assert route == {
        "id": route["id"],
        "model": "alias",
        "targets": [target],
        "policy": "priority",
        "fallback": ["m"],
        "fallback_on": ["error", "limit", "timeout", "context_length"],
        "recovery": "restart",
        "repeat_accepted": True,
        "queue_timeout": None,
        "queue_size": None,
        "hedge_after": None,
        "hedge_share": 0.05,
        "hedge_daily_usd": "1",
        "shadow": None,
        "shadow_model": "",
        "shadow_share": 0.05,
        "shadow_daily_usd": "1",
        "prefer_regions": [],
        "when": None,
        "first_token_timeout": None,
        "chunk_timeout": None,
        "origin": "database",
    }
    assert (await ask(gateway, "alias")).status_code == 200
    assert models.asked[-1].body["model"] == "big"

    changes = {"model": "other", "targets": ["one"], "policy": "least_busy", "fallback": []}
    changed = await send(gateway, "PATCH", f"{PATH}/{route['id']}", changes)
    assert changed.status_code == 200
    assert changed.json()["targets"] == [
        {"server": "one", "model": None, "weight": None, "priority": None, "prefill": None}
    ]
    assert code_of(await ask(gateway, "alias")) == "model_not_found"
    assert (await ask(gateway, "other")).headers["x-bluesminds-server"] == "one"
    file, stored = (await send(gateway, "GET", PATH)).json()["data"]
    assert (file["model"], file["origin"]) == ("from-file", "file")
    assert stored == changed.json()

    assert (await send(gateway, "DELETE", f"{PATH}/{route['id']}")).status_code == 204
    assert code_of(await ask(gateway, "other")) == "model_not_found"
    entries = (await send(gateway, "GET", "/api/admin/audit")).json()["data"]
    assert [one["action"] for one in entries][:3] == ["route.remove", "route.update", "route.add"]
    assert {one["subject"] for one in entries[:3]} == {route["id"]}
    assert entries[1]["detail"]["after"]["model"] == "other"


async def test_route_to_all_servers_is_stored_as_null(gateway: Gateway) -> None:
    added = await send(gateway, "POST", PATH, {"model": "m", "policy": "weighted"})
    assert added.json()["targets"] is None
    changed = await send(gateway, "PATCH", f"{PATH}/{added.json()['id']}", {"targets": ["one"]})
    assert changed.json()["targets"][0]["server"] == "one"
    changed = await send(gateway, "PATCH", f"{PATH}/{added.json()['id']}", {"targets": None})
    assert changed.json()["targets"] is None


async def test_route_of_the_file_is_read_only(gateway: Gateway) -> None:
    (route,) = (await send(gateway, "GET", PATH)).json()["data"]
    for method, body in (("PATCH", {"policy": "cheapest"}), ("DELETE", None)):
        refused = await send(gateway, method, f"{PATH}/{route['id']}", body)
        assert (refused.status_code, code_of(refused)) == (409, "read_only")
        assert "in the configuration" in refused.json()["error"]["message"]
    refused = await send(gateway, "POST", PATH, {"model": "from-file", "targets": ["two"]})
    assert code_of(refused) == "read_only"


WRONG_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "a*b", "targets": ["one"]}, "model", "a prefix"),
    ({"model": "a", "targets": []}, "targets", "at least one server"),
    ({"model": "a", "targets": ["three"]}, "targets", "no server named three"),
    ({"model": "a", "targets": ["one", {"server": "one"}]}, "targets", "twice"),
    ({"model": "a", "targets": [{"server": "one", "weight": 0}]}, "targets", "list of server names"),
    ({"model": "a", "policy": "fast"}, "policy", 'one of "priority"'),
    ({"model": "a"}, "targets", "no effect"),
    ({"model": "a", "fallback": ["b*"]}, "fallback", "without *"),
    ({"model": "a", "fallback": ["m", "m"]}, "fallback", "once"),
    ({"model": "a", "fallback": ["a"]}, "fallback", "a -> a"),
    ({"model": "a", "fallback": ["m"], "fallback_on": ["x"]}, "fallback_on", '"content_filter"'),
]


async def test_route_with_a_wrong_field_is_refused_with_a_reason(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for body, param, text in WRONG_FIELDS:
        with subtests.test(body=body):
            refused = await send(gateway, "POST", PATH, body)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_value", param)
            assert text in error["message"]


async def test_route_for_a_model_that_has_one_is_a_conflict(gateway: Gateway) -> None:
    body = {"model": "a", "targets": ["one"]}
    assert (await send(gateway, "POST", PATH, body)).status_code == 201
    refused = await send(gateway, "POST", PATH, body)
    assert (refused.status_code, code_of(refused)) == (409, "route_exists")
    other = (await send(gateway, "POST", PATH, body | {"model": "b"})).json()
    refused = await send(gateway, "PATCH", f"{PATH}/{other['id']}", {"model": "a"})
    assert (refused.status_code, code_of(refused)) == (409, "route_exists")
    for method, change in (("PATCH", {"policy": "cheapest"}), ("DELETE", None)):
        unknown = await send(gateway, method, f"{PATH}/{gateway.url[-1]}", change)
        assert (unknown.status_code, code_of(unknown)) == (404, "route_not_found")


async def test_cycle_over_two_routes_is_refused(gateway: Gateway) -> None:
    first = await send(gateway, "POST", PATH, {"model": "a", "fallback": ["b"]})
    assert first.status_code == 201
    refused = await send(gateway, "POST", PATH, {"model": "b", "fallback": ["a"]})
    assert "-> b" in refused.json()["error"]["message"]
    second = await send(gateway, "POST", PATH, {"model": "b", "fallback": ["m"]})
    refused = await send(gateway, "PATCH", f"{PATH}/{second.json()['id']}", {"fallback": ["a"]})
    assert code_of(refused) == "invalid_value"


async def test_stored_routes_apply_after_a_restart(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers)
    await send(gateway, "POST", PATH, {"model": "alias", "targets": [{"server": "one", "model": "m"}]})
    await gateway.stop()
    gateway = await gateways.start(nursery, home, servers=servers)
    rows = (await send(gateway, "GET", "/api/admin/models")).json()["data"]
    assert [row["id"] for row in rows] == ["alias", "m"]


async def test_models_show_servers_prices_and_routes(gateway: Gateway) -> None:
    await send(gateway, "POST", PATH, {"model": "b*", "targets": ["two"]})
    rows = {row["id"]: row for row in (await send(gateway, "GET", "/api/admin/models")).json()["data"]}
    assert rows.keys() == {"m", "big", "from-file"}
    assert rows["m"] == {
        "id": "m",
        "servers": ["one", "two"],
        "routes": [],
        "input_usd": "1.5",
        "cached_input_usd": "1.5",
        "output_usd": "10",
        "context_length": None,
        "max_output_tokens": 99,
    }
    assert (rows["big"]["servers"], rows["big"]["routes"]) == (["two"], ["b*"])
    assert (rows["from-file"]["servers"], rows["from-file"]["routes"]) == ([], ["from-file"])
    assert json.dumps(rows).count("api_key") == 0


async def test_route_with_conditions_and_timeouts_is_stored_and_changed(gateway: Gateway) -> None:
    plain = {"model": "a", "targets": ["one"]}
    assert (await send(gateway, "POST", PATH, plain)).status_code == 201
    when = {"tier": ["pro"], "needs": ["tools"], "prompt_tokens_over": 1000}
    added = await send(gateway, "POST", PATH, plain | {"when": when, "first_token_timeout": 2.5})
    assert added.status_code == 201
    empty = {"key_tag": [], "region": [], "tag": []}
    assert (added.json()["when"], added.json()["first_token_timeout"]) == (empty | when, 2.5)
    assert code_of(await send(gateway, "POST", PATH, plain | {"when": when})) == "route_exists"
    path = f"{PATH}/{added.json()['id']}"
    assert code_of(await send(gateway, "PATCH", path, {"when": {}})) == "route_exists"
    changes = {"when": {"region": ["eu"]}, "first_token_timeout": None, "chunk_timeout": 3}
    changed = (await send(gateway, "PATCH", path, changes)).json()
    assert (changed["when"]["region"], changed["when"]["tier"]) == (["eu"], [])
    assert (changed["first_token_timeout"], changed["chunk_timeout"]) == (None, 3)
    assert (await send(gateway, "GET", PATH)).json()["data"][-1] == changed
    refused = await send(gateway, "POST", PATH, plain | {"when": {"tier": ["gold"]}})
    assert "tier" in refused.json()["error"]["message"]


def test_routes_of_the_api_have_the_keys_of_the_file() -> None:
    keys = set(RouteSettings.__struct_fields__)
    assert set(NewRoute.__struct_fields__) == set(RoutePatch.__struct_fields__) == keys
    assert set(RouteView.__struct_fields__) == keys | {"id", "origin"}
