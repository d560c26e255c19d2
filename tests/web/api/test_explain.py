"""/api/admin/explain: what a request would do, as a request then does."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, Gateway, entry

ROUTES = [
    {
        "model": "fast*",
        "targets": ["one", {"server": "two", "model": "m"}, "gone", "three"],
        "policy": "priority",
        "fallback": ["claude", "m", "unknown"],
    },
    {"model": "claude", "targets": ["three"], "policy": "weighted"},
    {"model": "nothing", "targets": ["gone"]},
]


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path) -> Gateway:
    models: ModelServer = await nursery.start(model_server.serve)
    servers = [
        entry("one", models.url, priority=2),
        entry("two", models.url, priority=1),
        entry("three", models.url, dialect="anthropic", models=["claude"]),
        entry("gone", models.url, mode="off"),
    ]
    return await gateways.start(nursery, home, servers=servers, routes=ROUTES)


async def explain(gateway: Gateway, **query: str) -> Any:
    async with gateway.operator() as client:
        answer = await client.get("/api/admin/explain", params=query)
    return answer.json()


async def test_explain_of_a_route_shows_order_fallback_and_reasons(gateway: Gateway) -> None:
    found = await explain(gateway, model="fast-1")
    first, second, third = found["models"]
    assert (first["route"], first["policy"]) == ("fast*", "priority")
    assert [(one["server"], one["model"]) for one in first["targets"]] == [("two", "m")]
    assert (second["model"], second["route"], second["policy"]) == ("claude", "claude", "weighted")
    assert second["targets"] == [
        {
            "server": "three",
            "model": "claude",
            "format": "messages",
            "translated": True,
            "ejected": False,
            "api_keys": [],
        }
    ]
    assert (third["model"], third["route"]) == ("m", None)
    assert [one["server"] for one in third["targets"]] == ["one"]
    assert found["fallback_on"] == ["error", "limit", "timeout", "context_length"]
    assert [tuple(one.values()) for one in found["dropped"]] == [
        ("fast-1", "gone", "unknown_server"),
        ("fast-1", "one", "not_listed"),
        ("fast-1", "three", "not_listed"),
        ("m", "two", "duplicate"),
        ("unknown", None, "unknown_model"),
    ]
    assert found["error"] is None
    answer = await gateway.chat(ASK | {"model": "fast-1"})
    assert answer.headers["x-bluesminds-server"] == "two"


async def test_explain_of_a_model_without_a_route_shows_its_servers(gateway: Gateway) -> None:
    found = await explain(gateway, model="m")
    (model,) = found["models"]
    assert (model["route"], model["policy"]) == (None, "priority")
    assert [one["server"] for one in model["targets"]] == ["two", "one"]
    found = await explain(gateway, model="m", endpoint="messages")
    assert [one["translated"] for one in found["models"][0]["targets"]] == [True, True]


async def test_explain_shows_hedged_requests_and_the_shadow(gateway: Gateway) -> None:
    route = {
        "model": "hedged",
        "targets": [{"server": "one", "model": "m"}, {"server": "two", "model": "m"}],
        "hedge_after": 2.5,
        "shadow": "one",
        "shadow_model": "m",
        "shadow_share": 0.5,
    }
    async with gateway.operator() as client:
        added = (await client.post("/api/admin/routes", json=route)).json()
    found = await explain(gateway, model="hedged")
    assert found["hedge"] == {"server": "one", "after": 2.5, "share": 0.05, "daily_usd": "1"}
    shadow = {"server": "one", "model": "m", "share": 0.5, "daily_usd": "1", "reason": None}
    assert found["shadow"] == shadow
    messages = await explain(gateway, model="hedged", endpoint="messages")
    assert messages["shadow"]["reason"] == "no_endpoint", "copies are not translated"
    async with gateway.operator() as client:
        changes = {"targets": ["one"], "shadow": "three"}
        changed = await client.patch(f"/api/admin/routes/{added['id']}", json=changes)
    assert changed.status_code == 200
    found = await explain(gateway, model="hedged")
    assert (found["hedge"]["server"], found["shadow"]["reason"]) == (None, "no_endpoint")
    found = await explain(gateway, model="m")
    assert (found["hedge"], found["shadow"]) == (None, None)


FAILING: list[tuple[dict[str, str], str, list[str]]] = [
    ({"model": "other"}, "model_not_found", []),
    ({"model": "nothing"}, "model_not_found", ["unknown_server"]),
    ({"model": "claude", "endpoint": "embeddings"}, "unsupported_endpoint", ["no_endpoint"]),
]


async def test_explain_of_a_request_that_fails_has_its_error(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for query, code, dropped in FAILING:
        with subtests.test(query=query):
            found = await explain(gateway, **query)
            assert (found["models"], found["error"]["code"]) == ([], code)
            assert [one["reason"] for one in found["dropped"]] == dropped
            if "endpoint" not in query:
                refused = (await gateway.chat(ASK | {"model": query["model"]})).json()["error"]
                assert (refused["code"], refused["message"]) == (code, found["error"]["message"])


async def test_explain_with_a_key_applies_its_restrictions(gateway: Gateway) -> None:
    async with gateway.operator() as client:
        body = {"name": "n", "allowed_models": ["fast*"], "scopes": ["chat.completions"]}
        key = (await client.post("/api/admin/keys", json=body)).json()["id"]
        unknown = await client.get("/api/admin/explain", params={"model": "m", "key": "x"})
    assert unknown.json()["error"]["code"] == "key_not_found"
    found = await explain(gateway, model="fast-1", key=key)
    assert [one["model"] for one in found["models"]] == ["fast-1"]
    refused = [one["model"] for one in found["dropped"] if one["reason"] == "model_not_allowed"]
    assert refused == ["claude", "m", "unknown"]
    assert (await explain(gateway, model="m", key=key))["error"]["code"] == "model_not_allowed"
    found = await explain(gateway, model="fast-1", key=key, endpoint="embeddings")
    assert found["error"]["code"] == "scope_not_allowed"


async def test_explain_of_an_endpoint_without_a_model_is_refused(gateway: Gateway) -> None:
    refused = await explain(gateway, model="m", endpoint="models")
    assert refused["error"]["code"] == "invalid_value"
