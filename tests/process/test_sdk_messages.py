"""Anthropic's own Python SDK against the gateway: servers that speak Messages, and servers that do not."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import trio
from anthropic import AsyncAnthropic

from tests import gateways
from tests.fakes import anthropic_server
from tests.fakes.anthropic_server import (
    COUNT,
    PING,
    end,
    error,
    error_event,
    message,
    start,
    text_block,
    thinking_block,
    tool_block,
)
from tests.fakes.model_server import DONE, Cut, ModelServer, chunk, completion, refusal, streamed, whole
from tests.gateways import Gateway, entry

# The SDK leaves its own generators to the garbage collector, which Trio remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
ASK: dict[str, Any] = {
    "model": "m",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Say hello."}],
}
TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
PRICE = {"model": "m", "input_usd": 1, "output_usd": 10, "cached_input_usd": 0.1}


@pytest.fixture
async def claude(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(anthropic_server.serve)
    return server


@pytest.fixture
async def native(nursery: trio.Nursery, home: Path, claude: ModelServer) -> Gateway:
    servers = [entry("claude", claude.url, dialect="anthropic", api_key="sk-ant-upstream")]
    return await gateways.start(nursery, home, servers=servers, prices=[PRICE])


def client_of(gateway: Gateway, key: str | None = None) -> AsyncAnthropic:
    return AsyncAnthropic(base_url=gateway.url, api_key=key or gateway.key, max_retries=0, timeout=60)


@pytest.fixture
async def sdk(native: Gateway) -> AsyncIterator[AsyncAnthropic]:
    async with client_of(native) as client:
        yield client


@pytest.fixture
async def translated(gateway: Gateway) -> AsyncIterator[AsyncAnthropic]:
    """A client of a gateway whose server has chat completions only."""
    async with client_of(gateway) as client:
        yield client


# A server that speaks Messages


async def test_native_answer_passes_byte_for_byte(
    sdk: AsyncAnthropic, native: Gateway, claude: ModelServer
) -> None:
    body = message([{"type": "text", "text": "Hello"}, {"type": "new_kind", "x": [1.50]}])
    claude.plan(whole(body))
    answer = await sdk.messages.with_raw_response.create(**ASK)
    assert await answer.read() == body
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert "x-bluesminds-dropped" not in answer.headers
    asked = claude.asked[0]
    assert asked.received.line == b"POST /v1/messages HTTP/1.1"
    assert asked.header(b"x-api-key") == b"sk-ant-upstream"
    assert asked.header(b"authorization") is None
    row = native.rows()[0]
    assert (row["endpoint"], row["input_tokens"], row["output_tokens"]) == ("messages", 127, 5)
    assert (row["cache_read_tokens"], row["cache_write_tokens"]) == (100, 20)
    # 27 tokens at 1 USD, 100 at 0.1 USD and 5 at 10 USD per million, in nano-USD
    assert row["cost_nano"] == 27_000 + 10_000 + 50_000
    assert answer.headers["x-cost-usd"] == "0.000087"


async def test_native_stream_with_thinking_passes(
    sdk: AsyncAnthropic, native: Gateway, claude: ModelServer
) -> None:
    events = [start(), PING, *thinking_block(0, "Hm.", "c2lnbmVk"), *text_block(1, "Hello", "!"), *end()]
    claude.plan(streamed(*events))
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    async with sdk.messages.stream(**ASK, thinking=thinking) as stream:
        final = await stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].type == "thinking" and final.content[0].signature == "c2lnbmVk"
    assert final.usage.cache_read_input_tokens == 100
    assert claude.asked[0].body["thinking"] == thinking
    row = native.rows()[0]
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (127, 5, "upstream")


async def test_native_server_that_answers_in_the_other_form_is_converted(
    sdk: AsyncAnthropic, claude: ModelServer
) -> None:
    claude.plan(whole(message()), streamed(start(), *text_block(0, "Hello", " world"), *end()))
    async with sdk.messages.stream(**ASK) as stream:
        assert await stream.get_final_text() == "Hello world"
    assert (await sdk.messages.create(**ASK)).content[0].to_dict() == {"type": "text", "text": "Hello world"}


async def test_claude_code_request_reaches_a_native_server_unchanged(
    native: Gateway, claude: ModelServer
) -> None:
    body = ASK | {
        "stream": True,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=1;"},
            {"type": "text", "text": "You are a tool.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "tools": [TOOL],
        "metadata": {"user_id": "user_1"},
        "context_management": {"edits": []},
        "unknown_field": {"x": 1},
    }
    headers = {
        "anthropic-version": "2026-10-21",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
        "anthropic-future": "1",
        "anthropic-workspace-id": "wrkspc_1",
        "x-claude-code-session-id": "s1",
        "x-api-key": native.key,
    }
    async with native.client() as client:
        answer = await client.post("/v1/messages?beta=true", json=body, headers=headers)
    assert answer.status_code == 200 and answer.text.endswith(
        'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    )
    asked = claude.asked[0]
    assert asked.body == body
    assert asked.received.values(b"anthropic-version") == [b"2026-10-21"]
    assert asked.header(b"anthropic-beta") == headers["anthropic-beta"].encode()
    assert asked.header(b"anthropic-future") == b"1"
    assert asked.header(b"anthropic-workspace-id") is None


async def test_native_error_passes_unmodified(native: Gateway, claude: ModelServer) -> None:
    said = error("invalid_request_error", "context_management: Extra inputs are not permitted")
    claude.plan(refusal(400, said))
    async with native.client() as client:
        answer = await client.post("/v1/messages", json=ASK)
    assert (answer.status_code, answer.content) == (400, said)


async def test_native_server_that_only_pings_is_left_for_the_next(
    nursery: trio.Nursery, home: Path, claude: ModelServer
) -> None:
    other: ModelServer = await nursery.start(anthropic_server.serve)
    claude.plan(streamed(PING, error_event("overloaded_error", "Overloaded")))
    servers = [
        entry("claude", claude.url, dialect="anthropic", priority=0),
        entry("other", other.url, dialect="anthropic", priority=1),
    ]
    gateway = await gateways.start(nursery, home, servers=servers)
    async with client_of(gateway) as sdk, sdk.messages.stream(**ASK) as stream:
        assert await stream.get_final_text() == "Hello world"
    assert len(claude.asked) == len(other.asked) == 1


async def test_native_error_in_mid_stream_is_raised_by_the_sdk(
    sdk: AsyncAnthropic, native: Gateway, claude: ModelServer
) -> None:
    claude.plan(streamed(start(), *text_block(0, "Hello"), error_event("overloaded_error", "Overloaded")))
    with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
        async with sdk.messages.stream(**ASK) as stream:
            await stream.get_final_message()
    assert (await native.settled(1))[0]["outcome"] == "upstream_error"


# A server that has chat completions only


async def test_translated_answer_is_read_by_the_sdk(
    translated: AsyncAnthropic, gateway: Gateway, models: ModelServer
) -> None:
    answer = await translated.messages.create(**ASK, system="Be brief.", stop_sequences=["END"])
    assert answer.content[0].to_dict()["text"] == "Hello world"
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 11, 2)
    asked = models.asked[0]
    assert asked.received.line == b"POST /v1/chat/completions HTTP/1.1"
    assert asked.header(b"anthropic-version") is None
    assert asked.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Say hello."},
        ],
        "max_tokens": 64,
        "stop": ["END"],
    }
    row = gateway.rows()[0]
    assert (row["endpoint"], row["input_tokens"], row["usage_source"]) == ("messages", 11, "upstream")


async def test_translated_stream_is_read_by_the_sdk(
    translated: AsyncAnthropic, gateway: Gateway, models: ModelServer
) -> None:
    async with translated.messages.stream(**ASK) as stream:
        final = await stream.get_final_message()
    assert final.content[0].to_dict()["text"] == "Hello world"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (11, 2)
    assert models.asked[0].body["stream_options"] == {"include_usage": True}
    assert gateway.rows()[0]["usage_source"] == "upstream"


async def test_translated_parallel_tools_and_their_results(
    translated: AsyncAnthropic, models: ModelServer
) -> None:
    calls = [
        {"id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        for city, arguments in (("a", '{"city":"Oslo"}'), ("b", '{"city":"Rome"}'))
    ]
    turn = {"role": "assistant", "content": None, "tool_calls": calls}
    choice = {"index": 0, "message": turn, "finish_reason": "tool_calls"}
    models.plan(whole(completion(choices=[choice])))
    first = await translated.messages.create(**ASK, tools=[TOOL])
    assert first.stop_reason == "tool_use"
    uses = [block for block in first.content if block.type == "tool_use"]
    assert [(use.id, use.input) for use in uses] == [
        ("call_a", {"city": "Oslo"}),
        ("call_b", {"city": "Rome"}),
    ]
    results: Any = [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"} for use in uses]
    history: Any = [
        *ASK["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [*results, PICTURE]},
    ]
    await translated.messages.create(model="m", max_tokens=64, messages=history, tools=[TOOL])
    sent = models.asked[1].body["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert [one["tool_call_id"] for one in sent[2:4]] == ["call_a", "call_b"]
    assert sent[4]["content"][0]["image_url"]["url"] == "data:image/png;base64,iVBORw0KGgo="


async def test_translated_tool_call_as_stream(translated: AsyncAnthropic, models: ModelServer) -> None:
    def part(**call: Any) -> bytes:
        return chunk(
            choices=[{"index": 0, "delta": {"tool_calls": [{"index": 0} | call]}, "finish_reason": None}]
        )

    models.plan(
        streamed(
            part(id="call_1", type="function", function={"name": "weather", "arguments": ""}),
            part(function={"arguments": '{"city":'}),
            part(function={"arguments": '"Oslo"}'}),
            chunk(finish="tool_calls"),
            DONE,
        )
    )
    async with translated.messages.stream(**ASK, tools=[TOOL]) as stream:
        final = await stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert final.content[0].to_dict()["input"] == {"city": "Oslo"}


async def test_translation_names_the_fields_that_the_server_did_not_get(
    translated: AsyncAnthropic, models: ModelServer
) -> None:
    answer = await translated.messages.with_raw_response.create(
        **ASK, service_tier="auto", extra_body={"top_k": 3}
    )
    assert answer.headers["x-bluesminds-dropped"] == "service_tier,top_k"


async def test_translation_of_a_field_without_counterpart_is_refused(
    translated: AsyncAnthropic, models: ModelServer
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await translated.messages.create(**ASK, extra_body={"mcp_servers": [{"url": "https://x.test"}]})
    body: Any = caught.value.body
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["details"] == {"error_code": "unsupported_by_server"}
    assert "mcp_servers" in body["error"]["message"]
    assert models.asked == []


@pytest.mark.parametrize("streams", [False, True])
async def test_request_only_a_native_server_can_honour_is_not_translated(
    nursery: trio.Nursery, home: Path, claude: ModelServer, models: ModelServer, streams: bool
) -> None:
    servers = [
        entry("chat", models.url, priority=0),
        entry("claude", claude.url, dialect="anthropic", priority=1),
    ]
    gateway = await gateways.start(nursery, home, servers=servers)
    async with gateway.client() as client:
        body = ASK | {"mcp_servers": [{"url": "https://x.test"}], "stream": streams}
        answer = await client.post("/v1/messages", json=body)
        assert answer.status_code == 200 and answer.headers["x-bluesminds-server"] == "claude"
        assert claude.asked[0].body == body
        models.plan(refusal(500))
        answer = await client.post("/v1/messages", json=ASK | {"stream": streams, "top_k": 3})
        assert answer.headers["x-bluesminds-attempts"] == "2"
        assert "x-bluesminds-dropped" not in answer.headers
    assert claude.asked[1].body == ASK | {"stream": streams, "top_k": 3}


async def test_translated_stream_that_is_cut_ends_with_an_error(
    translated: AsyncAnthropic, gateway: Gateway, models: ModelServer
) -> None:
    models.plan(streamed(chunk("Hel"), Cut))
    with pytest.raises(anthropic.APIStatusError, match="ended the stream"):
        async with translated.messages.stream(**ASK) as stream:
            await stream.get_final_message()
    assert (await gateway.settled(1))[0]["outcome"] == "cut"


async def test_translated_error_event_ends_the_stream(
    translated: AsyncAnthropic, gateway: Gateway, models: ModelServer
) -> None:
    broken = b'data: {"error": {"message": "out of memory", "type": "server_error", "code": 500}}\n\n'
    models.plan(streamed(chunk("Hel"), broken))
    with pytest.raises(anthropic.APIStatusError, match="out of memory"):
        async with translated.messages.stream(**ASK) as stream:
            await stream.get_final_message()
    assert (await gateway.settled(1))[0]["outcome"] == "upstream_error"


@pytest.mark.parametrize(
    ("status", "raised", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (413, anthropic.RequestTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.InternalServerError, "overloaded_error"),
    ],
)
async def test_error_of_a_chat_server_has_anthropics_shape(
    translated: AsyncAnthropic,
    models: ModelServer,
    status: int,
    raised: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    models.plan(*[refusal(status, json.dumps({"error": {"message": "no"}}).encode())] * 3)
    with pytest.raises(raised, match="no") as caught:
        await translated.messages.create(**ASK)
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)
    assert body["request_id"] == caught.value.response.headers["request-id"]


async def test_error_of_the_gateway_has_anthropics_shape(
    gateway: Gateway, translated: AsyncAnthropic, models: ModelServer
) -> None:
    with pytest.raises(anthropic.AuthenticationError) as refused:
        await translated.with_options(api_key="bm_wrong").messages.create(**ASK)
    body: Any = refused.value.body
    assert body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await translated.messages.create(**ASK | {"model": "other"})
    body = unknown.value.body
    assert body["error"]["type"] == "not_found_error"
    assert body["error"]["details"] == {"error_code": "model_not_found"}
    with pytest.raises(anthropic.NotFoundError, match="Message Batches API"):
        await translated.messages.batches.list()
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        await translated.post("/v1/messages", body={"model": "m", "messages": []}, cast_to=object)


async def test_limit_of_a_key_is_a_rate_limit_error(gateway: Gateway, models: ModelServer) -> None:
    _, key = await gateway.new_key(rpm=1)
    async with client_of(gateway, key) as sdk:
        await sdk.messages.create(**ASK)
        with pytest.raises(anthropic.RateLimitError) as caught:
            await sdk.messages.create(**ASK)
    body: Any = caught.value.body
    assert body["error"]["type"] == "rate_limit_error"
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert len(models.asked) == 1


async def test_key_without_the_scope_is_refused(gateway: Gateway, models: ModelServer) -> None:
    _, key = await gateway.new_key(scopes=["chat.completions"])
    async with client_of(gateway, key) as sdk:
        with pytest.raises(anthropic.PermissionDeniedError):
            await sdk.messages.create(**ASK)


# Counting tokens, and models


async def test_native_count_of_tokens_costs_nothing(
    sdk: AsyncAnthropic, native: Gateway, claude: ModelServer
) -> None:
    counted = await sdk.messages.with_raw_response.count_tokens(model="m", messages=ASK["messages"])
    assert (await counted.parse()).input_tokens == COUNT
    assert "x-bluesminds-estimated" not in counted.headers
    row = native.rows()[0]
    assert (row["endpoint"], row["input_tokens"], row["output_tokens"]) == ("messages.count_tokens", 0, 0)
    assert row["cost_nano"] == 0


async def test_count_of_tokens_without_a_native_server_is_an_estimate(
    translated: AsyncAnthropic, gateway: Gateway, models: ModelServer
) -> None:
    messages: Any = [{"role": "user", "content": "x" * 400}]
    counted = await translated.messages.with_raw_response.count_tokens(model="m", messages=messages)
    assert 100 <= (await counted.parse()).input_tokens <= 120
    assert counted.headers["x-bluesminds-estimated"] == "true"
    assert models.asked == []
    row = gateway.rows()[0]
    assert (row["endpoint"], row["server"], row["status"]) == ("messages.count_tokens", "", 200)
    assert (row["input_tokens"], row["output_tokens"]) == (0, 0)


async def test_models_have_anthropics_shape_for_its_clients(
    translated: AsyncAnthropic, gateway: Gateway
) -> None:
    page = await translated.models.list(limit=1000)
    assert ([model.id for model in page.data], page.has_more) == (["m"], False)
    assert (page.first_id, page.last_id, page.data[0].display_name) == ("m", "m", "m")
    found = await translated.models.retrieve("m")
    assert (found.type, found.id, found.created_at.year) == ("model", "m", 1970)
    with pytest.raises(anthropic.NotFoundError) as caught:
        await translated.models.retrieve("other")
    body: Any = caught.value.body
    assert body["error"]["type"] == "not_found_error"
    assert (await gateway.get("/v1/models")).json()["object"] == "list"


async def test_demo_server_answers_clients_of_anthropic(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])
    ask = ASK | {"model": "demo/echo"}
    async with client_of(gateway) as sdk:
        assert (await sdk.messages.create(**ask)).content[0].to_dict()["text"] == "Say hello."
        async with sdk.messages.stream(**ask) as stream:
            assert await stream.get_final_text() == "Say hello."
        forced: Any = {"type": "tool", "name": "weather"}
        called = await sdk.messages.create(**ask, tools=[TOOL], tool_choice=forced)
        assert [block.type for block in called.content if block.type == "tool_use"] == ["tool_use"]


async def test_blocks_of_tools_pass_a_native_server(sdk: AsyncAnthropic, claude: ModelServer) -> None:
    claude.plan(
        streamed(start(), *tool_block(0, "toolu_1", "weather", '{"city":', '"Oslo"}'), *end("tool_use"))
    )
    async with sdk.messages.stream(**ASK, tools=[TOOL]) as stream:
        final = await stream.get_final_message()
    assert final.content[0].to_dict()["input"] == {"city": "Oslo"}
