"""What a server of a vendor gets: paths, headers and fields, and which requests it does not get at all."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import (
    DONE,
    ModelServer,
    chunk,
    completion,
    error,
    refusal,
    streamed,
    whole,
)
from tests.gateways import ASK, STREAM, Gateway, entry

TOKEN = "eyJ0eXAiOiJKV1QifQ.eyJhdWQiOiJ4In0.c2lnbmF0dXJl"


async def start(nursery: trio.Nursery, home: Path, *servers: dict[str, Any]) -> Gateway:
    return await gateways.start(nursery, home, servers=list(servers))


def root(models: ModelServer) -> str:
    return models.url.removesuffix("/v1")


async def post(gateway: Gateway, path: str, body: dict[str, Any]) -> httpx.Response:
    async with gateway.client() as client:
        return await client.post(path, json=body)


def code_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


# Fields


async def test_field_the_vendor_ignores_is_refused_before_anything_is_sent(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", models.url, vendor="ollama"))
    assert code_of(await gateway.chat(ASK | {"n": 2})) == (400, "unsupported_by_server", "n")
    assert models.asked == []
    assert (await gateway.chat(ASK | {"n": 1, "tool_choice": "auto"})).status_code == 200
    assert len(models.asked) == 1
    messages = {"model": "m", "max_tokens": 9, "messages": ASK["messages"], "tool_choice": {"type": "any"}}
    refused = await post(gateway, "/v1/messages", messages)
    assert refused.status_code == 400 and "tool_choice" in refused.json()["error"]["message"]
    assert len(models.asked) == 1


async def test_field_one_server_ignores_goes_to_a_server_that_can(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = (
        entry("first", models.url, vendor="groq", priority=0),
        entry("second", second.url, priority=1),
    )
    gateway = await start(nursery, home, *servers)
    answer = await gateway.chat(ASK | {"logprobs": True})
    assert (answer.status_code, answer.headers["x-bluesminds-server"]) == (200, "second")
    assert models.asked == [] and second.asked[0].body["logprobs"] is True
    assert (await gateway.chat()).headers["x-bluesminds-server"] == "first"


async def test_field_the_vendor_ignores_is_refused_after_translation_too(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", models.url, vendor="perplexity"))
    tool = {"name": "f", "input_schema": {"type": "object"}}
    messages = {"model": "m", "max_tokens": 9, "messages": ASK["messages"]}
    refused = await post(gateway, "/v1/messages", messages | {"tools": [tool]})
    assert refused.status_code == 400 and "tools" in refused.json()["error"]["message"]
    assert models.asked == []
    assert (await post(gateway, "/v1/messages", messages)).status_code == 200


async def test_embeddings_field_of_a_vendor_is_checked_for_that_format(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", models.url, vendor="cohere"))
    asked = {"model": "m", "input": "a", "dimensions": 5}
    assert code_of(await post(gateway, "/v1/embeddings", asked)) == (
        400,
        "unsupported_by_server",
        "dimensions",
    )


async def test_bound_has_the_name_that_the_server_knows(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = (
        entry("first", models.url, vendor="mistral", priority=0),
        entry("second", second.url, vendor="vllm", priority=1),
    )
    gateway = await start(nursery, home, *servers)
    models.plan(refusal(500), refusal(500))
    answer = await gateway.chat(ASK | {"max_completion_tokens": 7})
    assert answer.headers["x-bluesminds-server"] == "second"
    assert [asked.body.get("max_tokens") for asked in models.asked] == [7]
    assert "max_completion_tokens" not in models.asked[0].body
    assert second.asked[0].body["max_completion_tokens"] == 7 and "max_tokens" not in second.asked[0].body


async def test_usage_that_always_comes_is_not_asked_for(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", models.url, vendor="openrouter"))
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11, "cost": 0.01}
    models.plan(streamed(chunk("a"), chunk(finish="stop"), chunk(usage=usage), DONE))
    answer = await gateway.chat(STREAM)
    assert b'"usage"' not in answer.content, "the client did not ask for it"
    assert "stream_options" not in models.asked[0].body
    (row,) = gateway.rows()
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (5, 6, "upstream")


# Endpoints


async def test_endpoint_the_vendor_lacks_is_not_asked_for(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", models.url, vendor="groq"))
    answer = await post(gateway, "/v1/embeddings", {"model": "m", "input": "a"})
    assert code_of(answer) == (404, "unsupported_endpoint", "model")
    assert models.asked == []


async def test_path_of_a_vendor_begins_at_the_host(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", models.url, vendor="cohere"))
    models.plan(whole(b'{"results":[{"index":0,"relevance_score":0.5}]}'))
    asked = {"model": "m", "query": "a", "documents": ["b"]}
    assert (await post(gateway, "/v1/rerank", asked)).status_code == 200
    assert models.asked[0].received.line == b"POST /v2/rerank HTTP/1.1"


async def test_vendor_with_messages_gets_them_as_they_are(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", models.url, vendor="deepseek", api_key="sk-deep"))
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn"}
    answer |= {"content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": 1, "output_tokens": 1}}
    models.plan(whole(json.dumps(answer).encode()))
    asked = {"model": "m", "max_tokens": 9, "messages": ASK["messages"], "top_k": 4}
    assert (await post(gateway, "/v1/messages", asked)).json() == answer
    assert models.asked[0].received.line == b"POST /anthropic/v1/messages HTTP/1.1"
    assert models.asked[0].body["top_k"] == 4
    assert models.asked[0].header(b"authorization") == b"Bearer sk-deep"


# Headers


async def test_configured_headers_are_sent_and_their_secrets_are_redacted(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    headers = {"Authorization": "Bearer provider-secret", "X-Title": "Our application"}
    server = entry("one", models.url, vendor="portkey", api_key="pk-0123456789", headers=headers)
    gateway = await start(nursery, home, server)
    models.plan(whole(completion("pk-0123456789 provider-secret Our application")))
    answer = await gateway.chat()
    asked = models.asked[0]
    assert asked.header(b"authorization") == b"Bearer provider-secret"
    assert asked.header(b"x-title") == b"Our application"
    assert asked.header(b"x-portkey-api-key") == b"pk-0123456789"
    assert answer.json()["choices"][0]["message"]["content"] == "[redacted] [redacted] Our application"
    assert "provider-secret" not in gateway.log


async def test_client_with_its_own_key_does_not_get_the_operators_credentials(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    headers = {"Authorization": "Bearer provider-secret", "X-Title": "Our application"}
    server = entry("one", models.url, vendor="portkey", headers=headers, keyless=True)
    gateway = await gateways.start(nursery, home, servers=[server], keyless={"enabled": True})
    assert (await gateway.chat(key="pk-of-the-client")).status_code == 200
    asked = models.asked[0]
    assert asked.header(b"x-portkey-api-key") == b"pk-of-the-client"
    assert asked.header(b"authorization") is None
    assert asked.header(b"x-title") == b"Our application"


# Azure


AZURE: list[tuple[str, str | None, str]] = [
    ("", None, "/openai/v1/chat/completions"),
    ("/openai/v1", None, "/openai/v1/chat/completions"),
    ("", "2024-10-21", "/openai/deployments/{model}/chat/completions?api-version=2024-10-21"),
    ("/openai", "2024-10-21", "/openai/deployments/{model}/chat/completions?api-version=2024-10-21"),
]


async def test_azure_gets_its_url_and_key(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = []
    for number, (path, version, _) in enumerate(AZURE):
        more: dict[str, Any] = {} if version is None else {"api_version": version}
        more |= {"models": [f"m{number}"], "api_key": "0123456789abcdef", "dialect": "azure"}
        servers.append(entry(f"s{number}", root(models) + path, **more))
    gateway = await start(nursery, home, *servers)
    for number, (path, _, target) in enumerate(AZURE):
        with subtests.test(f"{path} {target}"):
            assert (await gateway.chat(ASK | {"model": f"m{number}"})).status_code == 200
            asked = models.asked[number]
            assert asked.received.line == f"POST {target.format(model=f'm{number}')} HTTP/1.1".encode()
            assert asked.header(b"api-key") == b"0123456789abcdef" and asked.header(b"authorization") is None
            assert asked.body["model"] == f"m{number}"


async def test_azure_token_is_a_bearer_token(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await start(nursery, home, entry("one", root(models), dialect="azure", api_key=TOKEN))
    assert (await gateway.chat()).status_code == 200
    assert models.asked[0].header(b"authorization") == f"Bearer {TOKEN}".encode()
    assert models.asked[0].header(b"api-key") is None


async def test_azure_deployment_name_is_escaped_in_the_path(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    server = entry("one", root(models), dialect="azure", api_version="2024-10-21", models=["a/b c"])
    gateway = await start(nursery, home, server)
    assert (await gateway.chat(ASK | {"model": "a/b c"})).status_code == 200
    assert models.asked[0].received.line.startswith(b"POST /openai/deployments/a%2Fb%20c/chat/completions?")


async def test_azure_content_filter_is_the_clients_own_error(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = (
        entry("first", root(models), dialect="azure", priority=0),
        entry("second", second.url, priority=1),
    )
    gateway = await start(nursery, home, *servers)
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
    body = error("The response was filtered", code="content_filter", param="prompt", innererror=inner)
    models.plan(refusal(400, body))
    answer = await gateway.chat()
    assert code_of(answer) == (400, "content_filter", "prompt")
    assert answer.json()["error"]["innererror"] == inner
    assert second.asked == [] and gateway.rows()[0]["outcome"] == "client_error"
    async with gateway.operator() as client:
        rows = (await client.get("/api/admin/servers")).json()["data"]
    assert [row["state"] for row in rows] == ["up", "up"]


async def test_azure_prompt_filter_chunk_reaches_the_client(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, entry("one", root(models), dialect="azure"))
    filters = chunk(prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {}}])
    usage = chunk(usage={"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11})
    models.plan(streamed(filters, chunk("a"), chunk(finish="stop"), usage, DONE))
    answer = await gateway.chat(STREAM)
    assert answer.content == filters + chunk("a") + chunk(finish="stop") + DONE
    assert gateway.rows()[0]["output_tokens"] == 6


async def test_azure_probe_checks_the_key_and_reads_no_models(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    server = entry("one", root(models), dialect="azure", api_key="0123456789abcdef", models=["deployment"])
    gateway = await start(nursery, home, server)
    async with gateway.operator() as client:
        tested = (await client.post("/api/admin/servers/one/test")).json()
        assert (tested["ok"], tested["models"]) == (True, None)
        models.list_status = b"401 No"
        tested = (await client.post("/api/admin/servers/one/test")).json()
        assert tested["problem"] == "401: the server rejected the api_key"
    listed = (await gateway.get("/v1/models")).json()["data"]
    assert [row["id"] for row in listed] == ["deployment"]
