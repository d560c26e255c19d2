"""/api/admin/servers: servers by vendor or by URL, with headers and versions."""

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.providers.vendors import from_environment
from bluesminds.web.api.servers import read_only_error
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry

PATH = "/api/admin/servers"


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path) -> Gateway:
    return await gateways.start(nursery, home, servers=[])


async def add(gateway: Gateway, **fields: Any) -> tuple[int, dict[str, Any]]:
    async with gateway.operator() as client:
        answer = await client.post(PATH, json={"name": "one", "models": ["m"]} | fields)
    return answer.status_code, answer.json()


async def test_server_of_a_vendor_needs_only_a_key(gateway: Gateway) -> None:
    status, added = await add(gateway, vendor="groq", api_key="gsk-0123456789", models=[])
    assert status == 201
    assert (added["vendor"], added["url"], added["dialect"]) == (
        "groq",
        "https://api.groq.com/openai/v1",
        "openai",
    )
    assert added["has_api_key"] is True and "gsk-0123456789" not in json.dumps(added)


async def test_vendor_is_recognised_by_the_url(gateway: Gateway) -> None:
    _, added = await add(gateway, url="https://api.anthropic.com/v1")
    assert (added["vendor"], added["dialect"]) == ("anthropic", "anthropic")
    _, added = await add(gateway, name="two", url="https://api.anthropic.com/v1", dialect="openai")
    assert (added["vendor"], added["dialect"]) == ("anthropic", "openai")
    _, added = await add(gateway, name="three", url="http://127.0.0.1:9/v1")
    assert (added["vendor"], added["dialect"]) == (None, "openai")


WRONG_FIELDS: list[tuple[dict[str, Any], str, str, str]] = [
    ({}, "invalid_value", "url", "Send a `url` or a `vendor`."),
    ({"vendor": "azure"}, "invalid_url", "url", "Azure OpenAI has no common URL"),
    ({"vendor": "grog"}, "invalid_value", "vendor", 'one of "openai"'),
    ({"url": "http://x", "dialect": "demo"}, "invalid_value", "dialect", 'one of "openai", "azure"'),
    ({"vendor": "perplexity", "models": []}, "models_required", "models", "deployments"),
    (
        {"url": "https://a.openai.azure.com", "models": []},
        *("models_required", "models", "Name them in `models`"),
    ),
    ({"url": "http://x", "headers": {"Host": "y"}}, "invalid_value", "headers", "sets the header Host"),
    ({"url": "http://x", "headers": {"a b": "y"}}, "invalid_value", "headers", "name of a header"),
    ({"url": "http://x", "headers": {"a": "y\r\nb: c"}}, "invalid_value", "headers", "printable ASCII"),
    ({"url": "http://x", "headers": {"A": "1", "a": "2"}}, "invalid_value", "headers", "twice"),
    ({"url": "http://x/v1/chat/completions"}, "invalid_url", "url", "Remove /chat/completions."),
    ({"url": "http://x/v1/responses/"}, "invalid_url", "url", "ends in /responses,"),
    ({"url": "http://x", "api_version": "a&b"}, "invalid_value", "api_version", "version of Azure"),
]


async def test_add_wrong_field_is_refused_with_a_reason(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for fields, code, param, text in WRONG_FIELDS:
        with subtests.test(fields=fields):
            status, answer = await add(gateway, **fields)
            error = answer["error"]
            assert (status, error["code"], error["param"]) == (400, code, param)
            assert text in error["message"]


async def test_headers_are_stored_encrypted_and_sent(gateway: Gateway, models: ModelServer) -> None:
    headers = {"X-Portkey-Provider": "@main", "Authorization": "Bearer provider-secret"}
    _, added = await add(gateway, vendor="portkey", url=models.url, api_key="pk-0123456789", headers=headers)
    assert added["headers"] == ["X-Portkey-Provider", "Authorization"]
    assert (await gateway.chat()).status_code == 200
    assert models.asked[0].header(b"authorization") == b"Bearer provider-secret"
    assert models.asked[0].header(b"x-portkey-provider") == b"@main"
    assert b"provider-secret" not in gateway.database.read_bytes()
    async with gateway.operator() as client:
        changed = (await client.patch(f"{PATH}/one", json={"headers": {"X-New": "1"}})).json()
        assert changed["headers"] == ["X-New"]
        audit = (await client.get("/api/admin/audit")).text
        listed = (await client.get(PATH)).text
    assert "provider-secret" not in audit + listed + gateway.log and '"headers":"[masked]"' in audit
    assert (await gateway.chat()).status_code == 200
    assert models.asked[1].header(b"authorization") is None
    assert models.asked[1].header(b"x-new") == b"1"


async def test_added_server_relays_the_paths_that_were_given(gateway: Gateway, models: ModelServer) -> None:
    _, added = await add(gateway, url=models.url, passthrough=True, passthrough_paths=["ocr"])
    assert (added["passthrough"], added["passthrough_paths"]) == (True, ["ocr"])
    async with gateway.operator() as client:
        (listed,) = (await client.get(PATH)).json()["data"]
    assert (listed["passthrough"], listed["passthrough_paths"]) == (True, ["ocr"])


async def test_change_to_the_same_values_is_not_audited(gateway: Gateway, models: ModelServer) -> None:
    await add(gateway, url=models.url, weight=7)
    async with gateway.operator() as client:
        before = (await client.get("/api/admin/audit")).json()
        same = await client.patch(f"{PATH}/one", json={"weight": 7, "url": models.url})
        assert (same.status_code, same.json()["weight"]) == (200, 7)
        assert (await client.patch(f"{PATH}/one", json={})).status_code == 200
        assert (await client.get("/api/admin/audit")).json() == before
        await client.patch(f"{PATH}/one", json={"weight": 8})
        assert len((await client.get("/api/admin/audit")).json()["data"]) == len(before["data"]) + 1


async def test_change_of_version_and_models_is_checked(gateway: Gateway, models: ModelServer) -> None:
    url = models.url.removesuffix("/v1")
    await add(gateway, url=url, dialect="azure", api_version="2024-10-21")
    async with gateway.operator() as client:
        refused = await client.patch(f"{PATH}/one", json={"models": []})
        assert refused.json()["error"]["code"] == "models_required"
        changed = (await client.patch(f"{PATH}/one", json={"api_version": ""})).json()
        assert changed["api_version"] is None
        assert (await client.patch(f"{PATH}/one", json={"headers": {"host": "x"}})).status_code == 400
        assert (await client.patch(f"{PATH}/none", json={"models": []})).status_code == 404
    assert (await gateway.chat()).status_code == 200
    assert models.asked[0].received.line == b"POST /openai/v1/chat/completions HTTP/1.1"


async def test_server_of_the_file_is_read_only(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    async with gateway.operator() as client:
        for answer in (
            await client.patch(f"{PATH}/one", json={"weight": 2}),
            await client.delete(f"{PATH}/one"),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "read_only")
            assert "in the configuration" in answer.json()["error"]["message"]


def test_server_of_the_environment_is_changed_with_a_restart() -> None:
    (server,) = from_environment({"OPENAI_API_KEY": "k"})
    message = read_only_error(server).message
    assert "detected" in message and "restart the gateway" in message


async def test_discovery_without_a_list_of_models_says_what_to_do(nursery: trio.Nursery, home: Path) -> None:
    server = {"name": "one", "url": "https://api.perplexity.ai"}
    gateway = await gateways.start(nursery, home, servers=[server])
    async with gateway.operator() as client:
        (row,) = (await client.get(PATH)).json()["data"]
        tested = (await client.post(f"{PATH}/one/test")).json()
    assert (row["vendor"], row["state"]) == ("perplexity", "down")
    assert row["last_error"] == tested["problem"] == "it does not list its models: name them with `models`"
