"""Conditions of routes, and servers that a request requires."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.deployment import code_of, create_callers
from tests.fakes.model_server import ModelServer, refusal
from tests.gateways import ASK, Gateway, entry

Start = Callable[..., Awaitable[Gateway]]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
EU = {"x-bluesminds-region": "eu"}


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Start:
    """Two servers: "us" first, and "eu" with the tag zdr."""

    async def start(*routes: dict[str, Any], **sections: Any) -> Gateway:
        servers = [
            entry("us", models.url, region="us", passthrough=True),
            entry("eu", second.url, region="eu", tags=["zdr"], priority=1, models=["m", "other"]),
        ]
        return await gateways.start(nursery, home, servers=servers, routes=list(routes), **sections)

    return start


def route(server: str, **when: Any) -> dict[str, Any]:
    return {"model": "m", "targets": [server]} | ({"when": when} if when else {})


async def served_by(gateway: Gateway, key: str | None = None, **fields: Any) -> str:
    answer = await gateway.chat(ASK | fields, key=key)
    return str(answer.headers.get("x-bluesminds-server", code_of(answer)))


async def test_condition_on_tools_and_size_chooses_the_route(start: Start) -> None:
    gateway = await start(route("eu", needs=["tools"]), route("eu", prompt_tokens_over=1000), route("us"))
    assert await served_by(gateway) == "us"
    assert await served_by(gateway, tools=TOOLS) == "eu"
    assert await served_by(gateway, messages=[{"role": "user", "content": "word " * 3000}]) == "eu"


async def test_condition_on_tier_and_key_tag_chooses_the_route(start: Start) -> None:
    gateway = await start(route("eu", tier=["pro"]), route("eu", key_tag=["batch"]), route("us"))
    callers = await create_callers(gateway)
    user = callers.users["user"]
    async with gateway.operator() as client:
        body = {"name": "n", "user_id": user, "metadata": {"tags": "night, Batch"}}
        tagged = (await client.post("/api/admin/keys", json=body)).json()["key"]
        plain = (await client.post("/api/admin/keys", json=body | {"metadata": {}})).json()["key"]
    assert await served_by(gateway, tagged) == "eu"
    assert await served_by(gateway, plain) == "us"
    async with gateway.operator() as client:
        changed = await client.patch(f"/api/admin/users/{user}", json={"tier": "pro"})
        assert changed.status_code == 200
    assert await served_by(gateway, plain) == "eu"


async def test_request_never_leaves_the_region_it_requires(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start({"model": "fast", "targets": [{"server": "us", "model": "m"}], "fallback": ["m"]})
    answer = await gateway.chat(ASK, headers=EU)
    assert answer.headers["x-bluesminds-server"] == "eu"
    answer = await gateway.chat(ASK | {"model": "fast"}, headers=EU)
    assert answer.headers["x-bluesminds-server"] == "eu"
    second.plan(*[refusal(503)] * 9)
    failed = await gateway.chat(ASK, headers={"x-bluesminds-tags": "ZDR"})
    assert failed.status_code == 503
    asked = len(models.asked)
    for headers in ({"x-bluesminds-region": "asia"}, EU | {"x-bluesminds-tags": "zdr,hipaa"}):
        for model in ("m", "fast"):
            refused = await gateway.chat(ASK | {"model": model}, headers=headers)
            assert (refused.status_code, code_of(refused)) == (404, "requirement_not_met")
    assert len(models.asked) == asked == 0


async def test_requirement_of_a_key_adds_to_that_of_the_request(start: Start) -> None:
    gateway = await start()
    _, key = await gateway.new_key(metadata={"require_region": "eu", "require_tags": "zdr"})
    assert await served_by(gateway, key) == "eu"
    refused = await gateway.chat(ASK, key=key, headers={"x-bluesminds-region": "us"})
    assert code_of(refused) == "requirement_not_met"
    async with gateway.client(key) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [row["id"] for row in listed] == ["m", "other"]
        relayed = await client.get("/v1/files")
    assert code_of(relayed) == "object_server_missing"  # only "us" relays requests


async def test_preferred_region_is_used_first_and_can_be_left(start: Start, second: ModelServer) -> None:
    targets = [{"server": "eu", "priority": 2}, {"server": "us", "priority": 1}]
    gateway = await start({"model": "m", "targets": targets, "policy": "region"})
    _, key = await gateway.new_key(metadata={"prefer_region": "eu"})
    assert await served_by(gateway, gateway.key) == "us"
    assert await served_by(gateway, key) == "eu"
    prefer = {"x-bluesminds-prefer-region": "mars, EU"}
    answer = await gateway.chat(ASK, headers=prefer)
    assert answer.headers["x-bluesminds-server"] == "eu"
    answer = await gateway.chat(ASK, key=key, headers={"x-bluesminds-prefer-region": "us"})
    assert answer.headers["x-bluesminds-server"] == "us"
    async with gateway.operator() as client:
        query = {"model": "m", "prefer_region": "eu"}
        found = (await client.get("/api/admin/explain", params=query)).json()
    assert [one["server"] for one in found["models"][0]["targets"]] == ["eu", "us"]
    second.plan(refusal(503))
    answer = await gateway.chat(ASK, headers=prefer)
    assert answer.headers["x-bluesminds-server"] == "us"


async def test_condition_on_the_required_region_and_tag(start: Start) -> None:
    gateway = await start(
        {"model": "x", "when": {"region": ["eu"]}, "targets": [{"server": "eu", "model": "m"}]},
        {"model": "x", "when": {"tag": ["zdr"]}, "targets": [{"server": "eu", "model": "other"}]},
        {"model": "x", "targets": [{"server": "us", "model": "m"}]},
    )
    for headers, server in ((EU, "eu"), ({"x-bluesminds-tags": "zdr"}, "eu"), ({}, "us")):
        answer = await gateway.chat(ASK | {"model": "x"}, headers=headers)
        assert answer.headers["x-bluesminds-server"] == server
    async with gateway.operator() as client:
        for query, models in (
            ({}, [("us", "m")]),
            ({"region": "eu"}, [("eu", "m")]),
            ({"tags": "zdr"}, [("eu", "other")]),
        ):
            found = (await client.get("/api/admin/explain", params={"model": "x"} | query)).json()
            targets = [(one["server"], one["model"]) for one in found["models"][0]["targets"]]
            assert targets == models
        query = {"model": "m", "region": "asia"}
        found = (await client.get("/api/admin/explain", params=query)).json()
    assert found["error"]["code"] == "requirement_not_met"
