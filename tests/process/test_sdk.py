"""The OpenAI Python SDK against the gateway."""

import base64
import json
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import trio
from openai import AsyncOpenAI, OpenAI

from tests.fakes.model_server import (
    DONE,
    USAGE,
    Cut,
    ModelServer,
    Pause,
    Stall,
    chunk,
    completion,
    error,
    refusal,
    streamed,
    whole,
)
from tests.gateways import Gateway, eventually

# The SDK leaves generators to the garbage collector, and Trio warns about them.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}]}


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(gateway) as client:
        yield client


def client_of(gateway: Gateway) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=60)


async def text_of(sdk: AsyncOpenAI, **more: Any) -> str:
    stream = await sdk.chat.completions.create(**ASK, stream=True, **more)
    return "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])


async def test_sdk_chat_returns_the_completion(sdk: AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hello world"
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 2)
    assert answer._request_id


async def test_sdk_stream_returns_the_text(sdk: AsyncOpenAI, gateway: Gateway) -> None:
    assert await text_of(sdk) == "Hello world"
    assert gateway.rows()[0]["usage_source"] == "upstream"


async def test_sdk_stream_with_usage_returns_usage_in_the_last_chunk(sdk: AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    parts = [part async for part in stream]
    assert [part.usage.total_tokens if part.usage else None for part in parts] == [None, None, None, 13]
    assert parts[-1].choices == []


async def test_sdk_raw_response_has_the_headers(sdk: AsyncOpenAI, gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits={"rpm": 5})
    raw = await sdk.with_options(api_key=key).chat.completions.with_raw_response.create(
        **ASK, extra_headers={"X-Request-Id": "mine.1"}
    )
    assert raw.headers["x-request-id"] == raw.request_id == "mine.1"
    assert raw.headers["x-ratelimit-remaining-requests"] == "4"
    assert raw.headers["x-bluesminds-server"] == "one"
    assert raw.parse().choices[0].finish_reason == "stop"


async def test_sdk_tools_are_passed_in_both_directions(sdk: AsyncOpenAI, models: ModelServer) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": '{"query":"x"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}]
    delta = [{"index": 0, "delta": {"tool_calls": [{"index": 0} | call]}, "finish_reason": None}]
    models.plan(
        whole(completion(choices=choices)), streamed(chunk(choices=delta), chunk(finish="tool_calls"), DONE)
    )
    tools: Any = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    answer = await sdk.chat.completions.create(**ASK, tools=tools, tool_choice="required")
    assert answer.choices[0].message.tool_calls
    (called,) = answer.choices[0].message.tool_calls
    assert called.type == "function"
    assert (called.function.name, called.function.arguments) == ("find", '{"query":"x"}')
    assert models.asked[0].body["tools"] == tools
    stream = await sdk.chat.completions.create(**ASK, tools=tools, stream=True)
    first, *_ = [part async for part in stream]
    assert first.choices[0].delta.tool_calls
    assert first.choices[0].delta.tool_calls[0].id == "call_1"


async def test_sdk_error_responses_raise_the_matching_class(
    sdk: AsyncOpenAI, gateway: Gateway, models: ModelServer
) -> None:
    _, key = await gateway.new_key(limits={"rpm": 1})
    limited = sdk.with_options(api_key=key)
    await limited.chat.completions.create(**ASK)
    with pytest.raises(openai.RateLimitError) as rate:
        await limited.chat.completions.create(**ASK)
    assert (rate.value.code, rate.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert rate.value.request_id
    with pytest.raises(openai.AuthenticationError) as unknown:
        await sdk.with_options(api_key="sk-unknown-key-1").chat.completions.create(**ASK)
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        await sdk.chat.completions.create(**ASK | {"model": "other"})
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    models.plan(refusal(400, error("too long", code="context_length_exceeded", param="messages")))
    with pytest.raises(openai.BadRequestError) as bad:
        await sdk.chat.completions.create(**ASK)
    assert (bad.value.code, bad.value.param) == ("context_length_exceeded", "messages")
    for status in (500, 503, 504):
        models.plan(*[refusal(status)] * 3)
        with pytest.raises(openai.InternalServerError) as failed:
            await sdk.chat.completions.create(**ASK, stream=True)
        assert failed.value.code == "upstream_error"


@pytest.mark.parametrize("steps", [[Pause(0.05), Cut], [b"data: " + error("overloaded") + b"\n\n"]])
async def test_sdk_stream_failure_raises(sdk: AsyncOpenAI, models: ModelServer, steps: list[Any]) -> None:
    models.plan(streamed(chunk("one"), *steps))
    stream = await sdk.chat.completions.create(**ASK, stream=True)
    assert (await anext(aiter(stream))).choices[0].delta.content == "one"
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass


async def test_sdk_retry_after_header_is_obeyed(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway
) -> None:
    # Longer than the SDK's own pause, which is half a second at most.
    models.plan(*[refusal(429, error("slow down"), b"Retry-After-Ms: 1000")] * 3)
    started = time.monotonic()
    answer = await sdk.with_options(max_retries=1).chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hello world"
    assert time.monotonic() - started >= 1.0
    assert [row["status"] for row in gateway.rows()] == [429, 200]


async def test_sdk_should_retry_false_sends_one_request(sdk: AsyncOpenAI, models: ModelServer) -> None:
    models.plan(refusal(429, error("no credit", code="insufficient_quota"), b"x-should-retry: false"))
    with pytest.raises(openai.RateLimitError):
        await sdk.with_options(max_retries=2).chat.completions.create(**ASK)
    assert len(models.asked) == 1


async def test_sdk_does_not_multiply_retries(sdk: AsyncOpenAI, models: ModelServer) -> None:
    models.plan(*[refusal(500)] * 9)
    with pytest.raises(openai.InternalServerError):
        await sdk.with_options(max_retries=2).chat.completions.create(**ASK)
    assert len(models.asked) == 3


async def test_sdk_model_name_with_slashes_is_found(
    sdk: AsyncOpenAI, gateway: Gateway, models: ModelServer
) -> None:
    models.models = ("org/family/model",)
    async with gateway.operator() as client:
        assert (
            await client.post("/api/admin/servers", json={"name": "two", "url": models.url})
        ).status_code == 201
    listed: list[str] = []

    async def both_are_listed() -> bool:
        listed[:] = [model.id async for model in sdk.models.list()]
        return len(listed) == 2

    await eventually(both_are_listed)
    assert listed == ["m", "org/family/model"]
    found = await sdk.models.retrieve("org/family/model")
    assert (found.id, found.owned_by, found.created) == ("org/family/model", "tests", 7)
    with pytest.raises(openai.NotFoundError):
        await sdk.models.retrieve("org/other")


async def test_sdk_stream_closed_early_cancels_the_upstream_request(
    patient: Gateway, models: ModelServer
) -> None:
    models.plan(streamed(chunk("one"), Stall))
    async with client_of(patient) as sdk, await sdk.chat.completions.create(**ASK, stream=True) as stream:
        await anext(aiter(stream))
    await eventually(lambda: models.left == 1)
    assert (await patient.settled(1))[0]["outcome"] == "client_gone"


async def test_sdk_synchronous_client_gets_responses(gateway: Gateway, models: ModelServer) -> None:
    def talk() -> tuple[str | None, str, int]:
        with OpenAI(base_url=f"{gateway.url}/api/v1", api_key=gateway.key, max_retries=0) as sdk:
            plain = sdk.chat.completions.create(**ASK).choices[0].message.content
            parts = list(
                sdk.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
            )
            text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
            usage = parts[-1].usage
            assert usage is not None
            return plain, text, usage.total_tokens

    assert await trio.to_thread.run_sync(talk) == ("Hello world", "Hello world", USAGE["total_tokens"])
    assert len(gateway.rows()) == 2


# The other endpoints


async def test_sdk_completion_returns_the_text(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway
) -> None:
    choice = {"index": 0, "text": "Hello world", "finish_reason": "stop", "logprobs": None}
    body = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    models.plan(whole(json.dumps(body | {"usage": USAGE}).encode()))
    answer = await sdk.completions.create(model="m", prompt="Say hello.")
    assert answer.choices[0].text == "Hello world"
    assert models.asked[0].received.line == b"POST /v1/completions HTTP/1.1"
    assert charged(gateway) == ("completions", 11, 2, "upstream")


async def test_sdk_completion_stream_returns_the_text(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway
) -> None:
    def text_chunk(text: str, finish: str | None = None) -> bytes:
        choice = {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}
        body = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    usage = b'data: {"id":"cmpl-1","object":"text_completion","choices":[],"usage":%b}\n\n'
    models.plan(
        streamed(text_chunk("Hello"), text_chunk("!", "stop"), usage % json.dumps(USAGE).encode(), DONE)
    )
    stream = await sdk.completions.create(model="m", prompt="Say hello.", stream=True)
    assert "".join([part.choices[0].text async for part in stream]) == "Hello!"
    assert models.asked[0].body["stream_options"] == {"include_usage": True}
    assert charged(gateway) == ("completions", 11, 2, "upstream")


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_sdk_embeddings_are_returned_and_counted(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway, encoding: Any
) -> None:
    vector = [0.5, -2.0]
    value: Any = vector if encoding == "float" else base64.b64encode(struct.pack("<2f", *vector)).decode()
    rows = [{"object": "embedding", "index": 0, "embedding": value}]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    models.plan(whole(json.dumps({"object": "list", "data": rows, "model": "m", "usage": usage}).encode()))
    answer = await sdk.embeddings.create(model="m", input="A text", encoding_format=encoding)
    assert answer.data[0].embedding == value
    assert models.asked[0].received.line == b"POST /v1/embeddings HTTP/1.1"
    assert charged(gateway) == ("embeddings", 3, 0, "upstream")


async def test_sdk_embeddings_default_encoding_is_decoded(sdk: AsyncOpenAI, models: ModelServer) -> None:
    value = base64.b64encode(struct.pack("<2f", 0.5, -2.0)).decode()
    rows = [{"object": "embedding", "index": 0, "embedding": value}]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    models.plan(whole(json.dumps({"object": "list", "data": rows, "model": "m", "usage": usage}).encode()))
    answer = await sdk.embeddings.create(model="m", input=["A text"])
    assert answer.data[0].embedding == [0.5, -2.0]


async def test_sdk_moderation_returns_results(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway
) -> None:
    result = {"flagged": True, "categories": {"violence": True}, "category_scores": {"violence": 0.9}}
    models.plan(whole(json.dumps({"id": "modr-1", "model": "m", "results": [result]}).encode()))
    answer = await sdk.moderations.create(model="m", input="A text")
    assert answer.results[0].flagged
    endpoint, input_, output, source = charged(gateway)
    assert (endpoint, output, source) == ("moderations", 0, "estimated") and input_ > 0


async def test_sdk_raw_rerank_request_returns_results(
    sdk: AsyncOpenAI, models: ModelServer, gateway: Gateway
) -> None:
    results = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
    models.plan(whole(json.dumps({"results": results, "usage": {"total_tokens": 9}}).encode()))
    body = {"model": "m", "query": "fruit", "documents": ["a car", "an apple"]}
    answer = await sdk.post("/rerank", body=body, cast_to=httpx.Response)
    assert answer.json()["results"][0]["index"] == 1
    assert charged(gateway) == ("rerank", 9, 0, "upstream")


async def test_sdk_missing_endpoint_error_names_the_alternative(sdk: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Assistants API") as caught:
        await sdk.post("/assistants", body={"model": "m"}, cast_to=httpx.Response)
    assert caught.value.code == "unsupported_endpoint"
    assert "/v1/responses" in str(caught.value)


def charged(gateway: Gateway) -> tuple[Any, ...]:
    row = gateway.rows()[-1]
    return row["endpoint"], row["input_tokens"], row["output_tokens"], row["usage_source"]
