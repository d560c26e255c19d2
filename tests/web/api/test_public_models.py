"""/models, /models/providers and /ranking/models need no key, but the operator's permission."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.deployment import anonymous_client
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer, completion, whole
from tests.gateways import ASK, Gateway, entry

PATHS = ("/models", "/models/providers", "/ranking/models")


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    server.rows = [{"id": "listed", "max_model_len": 4096}]
    return server


async def get(gateway: Gateway, path: str) -> Any:
    async with anonymous_client(gateway) as client:
        answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "public, max-age=60"
    return answer.json()


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **sections: Any) -> Gateway:
    servers = [
        entry("secret-name", models.url, vendor="vllm", models=["a", "b"]),
        {"name": "other", "url": models.url},
        entry("third", models.url, vendor="vllm", models=["b", "listed"]),
    ]
    prices = [{"model": "a", "input_usd": "1", "output_usd": "2"}]
    return await gateways.start(
        nursery, home, servers=servers, prices=prices, server={"public_models": True}, **sections
    )


async def test_list_is_not_public_unless_allowed(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    for path in PATHS:
        with subtests.test(path=path):
            async with anonymous_client(gateway) as client:
                answer = await client.get(path)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (404, "unknown_url")
            assert "Did you mean /v1/models?" in error["message"] and "public_models" in error["message"]


async def test_models_are_those_of_the_list_with_a_key(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    shown = await get(gateway, "/models")
    assert shown == (await gateway.get("/v1/models")).json()
    assert {row["id"]: row.get("context_length") for row in shown["data"]} == {
        "a": None,
        "b": None,
        "listed": 4096,
    }
    assert shown["data"][0]["pricing"]["prompt"] == "0.000001"


async def test_models_follow_the_servers(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await start(nursery, home, models)
    await get(gateway, "/models")
    async with gateway.operator() as client:
        added = {"name": "new", "url": models.url, "models": ["later"]}
        assert (await client.post("/api/admin/servers", json=added)).status_code == 201
    assert "later" in [row["id"] for row in (await get(gateway, "/models"))["data"]]


async def test_providers_show_vendors_and_no_servers(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    shown = await get(gateway, "/models/providers")
    assert shown == {
        "object": "list",
        "data": [
            {"id": "other", "name": "Other", "models": ["listed"]},
            {"id": "vllm", "name": "vLLM", "models": ["a", "b", "listed"]},
        ],
    }


async def test_ranking_has_shares_of_the_models_that_are_offered(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    for model, tokens in (("a", 100), ("b", 300), ("a", 200)):
        usage = {"prompt_tokens": tokens - 10, "completion_tokens": 10, "total_tokens": tokens}
        models.plan(whole(completion(usage=usage)))
        assert (await gateway.chat(ASK | {"model": model})).status_code == 200
    await gateway.alter("UPDATE usage_site_daily SET model = 'private' WHERE model = 'b'")
    assert await get(gateway, "/ranking/models") == {
        "object": "list",
        "data": [{"model": "a", "rank": 1, "share": 1.0}],
        "days": 30,
    }


async def test_ranking_is_computed_once_for_a_while(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    assert (await get(gateway, "/ranking/models"))["data"] == []
    assert (await gateway.chat(ASK | {"model": "a"})).status_code == 200
    assert (await get(gateway, "/ranking/models"))["data"] == []


async def test_lists_are_bounded_for_each_client_address(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    async with anonymous_client(gateway) as client:
        answer = await client.get("/models")
        while answer.status_code == 200:
            answer = await client.get("/models/providers")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_requests")
    assert int(answer.headers["retry-after"]) >= 1
