"""A real LiteLLM proxy behind the gateway."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests import gateways
from tests.gateways import Gateway, eventually
from tests.process.conftest import LiteLLM

pytestmark = pytest.mark.litellm
ASK = {"model": "mocked", "messages": [{"role": "user", "content": "Say hello."}]}


async def start(nursery: trio.Nursery, home: Path, litellm: LiteLLM, **more: Any) -> Gateway:
    server = {
        "name": "litellm",
        "dialect": "litellm",
        "url": f"{litellm.url}/v1",
        "api_key": litellm.master_key,
    } | more
    upstream = {"first_byte_timeout": 60.0, "chunk_timeout": 60.0, "probe_timeout": 60.0}
    gateway = await gateways.start(nursery, home, servers=[server], upstream=upstream)
    if not more:
        await eventually(lambda: has_models(gateway))
    return gateway


async def has_models(gateway: Gateway) -> bool:
    return "mocked" in (await gateway.get("/v1/models")).text


def assert_private(headers: httpx.Headers) -> None:
    assert not [name for name in headers if name.startswith(("x-litellm", "llm_provider"))]


async def test_response_from_litellm_usage_is_recorded(
    nursery: trio.Nursery, home: Path, litellm: LiteLLM
) -> None:
    gateway = await start(nursery, home, litellm)
    answer = await gateway.chat(ASK)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["choices"][0]["message"]["content"] == "Four words from here."
    assert_private(answer.headers)
    (row,) = gateway.rows()
    assert row["usage_source"] == "upstream"
    assert row["input_tokens"] == body["usage"]["prompt_tokens"]
    assert row["output_tokens"] == body["usage"]["completion_tokens"]


async def test_stream_from_litellm_usage_is_recorded(
    nursery: trio.Nursery, home: Path, litellm: LiteLLM
) -> None:
    gateway = await start(nursery, home, litellm)
    said: dict[bool, str] = {}
    reported: dict[bool, dict[str, int]] = {}
    for wants_usage in (True, False):
        options = {"stream_options": {"include_usage": True}} if wants_usage else {}
        answer = await gateway.chat(ASK | {"stream": True} | options)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert_private(answer.headers)
        *events, end = [part.removeprefix("data: ") for part in answer.text.strip().split("\n\n")]
        assert end == "[DONE]"
        chunks = [msgspec.json.decode(event) for event in events]
        said[wants_usage] = "".join(
            choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
        )
        reported[wants_usage] = next((chunk["usage"] for chunk in chunks if chunk.get("usage")), {})
    assert said == {True: "Four words from here.", False: "Four words from here."}
    assert reported[False] == {}
    rows = gateway.rows()
    assert [row["usage_source"] for row in rows] == ["upstream"] * 2
    for row in rows:
        assert row["input_tokens"] == reported[True]["prompt_tokens"]
        assert row["output_tokens"] == reported[True]["completion_tokens"]


async def test_litellm_error_becomes_an_error_of_the_gateway(
    nursery: trio.Nursery, home: Path, litellm: LiteLLM
) -> None:
    gateway = await start(nursery, home, litellm)
    for model, status, code in (("broken", 502, "upstream_error"), ("limited", 429, "upstream_rate_limited")):
        answer = await gateway.chat(ASK | {"model": model})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        assert_private(answer.headers)
    answer = await gateway.chat(ASK | {"messages": "not a list"})
    assert 400 <= answer.status_code < 600
    assert answer.json()["error"]["message"]


async def test_litellm_master_key_is_wrong_is_reported_to_the_operator(
    nursery: trio.Nursery, home: Path, litellm: LiteLLM
) -> None:
    gateway = await start(nursery, home, litellm, api_key="sk-wrong-master-key", models=["mocked"])
    for body in (ASK, ASK | {"stream": True}):
        answer = await gateway.chat(body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_credentials_refused")
        assert "sk-wrong" not in answer.text
    async with gateway.operator() as client:
        tested = (await client.post("/api/admin/servers/litellm/test")).json()
    assert "rejected the api_key" in tested["problem"]
    assert "sk-wrong" not in gateway.log


async def test_litellm_request_has_no_client_key_and_is_not_retried(
    nursery: trio.Nursery, home: Path, litellm: LiteLLM
) -> None:
    gateway = await start(nursery, home, litellm)
    await gateway.chat(ASK)
    assert gateway.key not in litellm.log.read_text()
    assert (
        await gateway.metric("bluesminds_upstream_attempts_total", server="litellm", outcome="answered") == 1
    )


async def test_messages_reach_litellm_natively(nursery: trio.Nursery, home: Path, litellm: LiteLLM) -> None:
    gateway = await start(nursery, home, litellm)
    async with gateway.client() as client:
        answer = await client.post("/v1/messages", json=ASK | {"max_tokens": 64})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["type"], body["content"][0]["text"]) == ("message", "Four words from here.")
    (row,) = gateway.rows()
    assert row["usage_source"] == "upstream"
    assert row["output_tokens"] == body["usage"]["output_tokens"]


async def test_responses_reach_litellm_natively(nursery: trio.Nursery, home: Path, litellm: LiteLLM) -> None:
    """Not streamed: LiteLLM cannot stream its `mock_response` in this format."""
    gateway = await start(nursery, home, litellm)
    async with gateway.client() as client:
        answer = await client.post("/v1/responses", json={"model": "mocked", "input": "Say hello."})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    said = [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]
    assert said == ["Four words from here."]
    (row,) = gateway.rows()
    assert (row["endpoint"], row["usage_source"]) == ("responses", "upstream")
    assert row["output_tokens"] == body["usage"]["output_tokens"]


async def test_streamed_message_from_litellm_is_complete(
    nursery: trio.Nursery, home: Path, litellm: LiteLLM
) -> None:
    gateway = await start(nursery, home, litellm)
    async with gateway.client() as client:
        answer = await client.post("/v1/messages", json=ASK | {"max_tokens": 64, "stream": True})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [msgspec.json.decode(line) for line in lines]
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == "Four words from here."
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    (row,) = gateway.rows()
    assert (row["endpoint"], row["outcome"]) == ("messages", "ok")


async def test_embeddings_from_litellm_are_forwarded(
    nursery: trio.Nursery, home: Path, litellm: LiteLLM
) -> None:
    gateway = await start(nursery, home, litellm)
    async with gateway.client() as client:
        answer = await client.post("/v1/embeddings", json={"model": "vectors", "input": "Say hello."})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"][0]["embedding"] == [0.25, -0.5]
    (row,) = gateway.rows()
    assert (row["endpoint"], row["outcome"]) == ("embeddings", "ok")
