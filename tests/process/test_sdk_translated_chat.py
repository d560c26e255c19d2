"""OpenAI's own Python SDK against a server that speaks Anthropic's Messages only."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from openai import AsyncOpenAI

from tests import gateways
from tests.fakes import anthropic_server
from tests.fakes.anthropic_server import error, error_event, message, start, text_block, tool_block
from tests.fakes.model_server import Cut, ModelServer, refusal, streamed, whole
from tests.gateways import Gateway, entry

# The SDK leaves its own generators to the garbage collector, which Trio remarks on.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture
async def claude(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(anthropic_server.serve)
    return server


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, claude: ModelServer) -> Gateway:
    servers = [entry("claude", claude.url, dialect="anthropic", api_key="sk-ant-upstream")]
    return await gateways.start(
        nursery,
        home,
        servers=servers,
        prices=[{"model": "m", "input_usd": 1, "output_usd": 10, "max_output_tokens": 1234}],
    )


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=60
    ) as client:
        yield client


async def test_chat_answer_is_read_by_the_sdk(
    sdk: AsyncOpenAI, gateway: Gateway, claude: ModelServer
) -> None:
    answer = await sdk.chat.completions.create(**ASK, temperature=0.5)
    assert answer.choices[0].message.content == "Hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.prompt_tokens == 127
    assert answer.usage.prompt_tokens_details and answer.usage.prompt_tokens_details.cached_tokens == 100
    asked = claude.asked[0]
    assert asked.received.line == b"POST /v1/messages HTTP/1.1"
    assert asked.header(b"anthropic-version") == b"2023-06-01"
    assert (asked.body["temperature"], asked.body["max_tokens"]) == (0.5, 1234)
    row = gateway.rows()[0]
    assert (row["endpoint"], row["input_tokens"], row["cache_write_tokens"]) == ("chat.completions", 127, 20)
    assert row["cost_nano"] == 127 * 1000 + 5 * 10_000


async def test_chat_stream_is_read_by_the_sdk(sdk: AsyncOpenAI, gateway: Gateway) -> None:
    stream = await sdk.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    parts = [part async for part in stream]
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == "Hello world"
    assert parts[-1].usage and parts[-1].usage.completion_tokens == 5
    assert gateway.rows()[0]["usage_source"] == "upstream"


async def test_completion_is_read_by_the_sdk(sdk: AsyncOpenAI, gateway: Gateway, claude: ModelServer) -> None:
    answer = await sdk.completions.create(model="m", prompt="Say hello.", max_tokens=7)
    assert (answer.object, answer.choices[0].text) == ("text_completion", "Hello world")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.total_tokens == 132
    asked = claude.asked[0]
    assert asked.received.line == b"POST /v1/messages HTTP/1.1"
    assert asked.body["messages"] == [{"role": "user", "content": "Say hello."}]
    stream = await sdk.completions.create(
        model="m", prompt="Say hello.", stream=True, stream_options={"include_usage": True}
    )
    parts = [part async for part in stream]
    assert "".join(part.choices[0].text for part in parts if part.choices) == "Hello world"
    assert parts[-1].usage and parts[-1].usage.completion_tokens == 5
    rows = await gateway.settled(2)
    assert [(row["endpoint"], row["input_tokens"]) for row in rows] == [("completions", 127)] * 2


async def test_completion_of_token_numbers_is_refused(sdk: AsyncOpenAI, claude: ModelServer) -> None:
    with pytest.raises(openai.BadRequestError, match="`prompt` cannot be translated") as caught:
        await sdk.completions.create(model="m", prompt=[1, 2, 3])
    assert caught.value.code == "unsupported_by_server" and not claude.asked


async def test_chat_stream_without_usage_has_none(sdk: AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(**ASK, stream=True)
    assert [part.usage async for part in stream if part.usage] == []


async def test_chat_tool_calls_as_stream(sdk: AsyncOpenAI, claude: ModelServer) -> None:
    claude.plan(
        streamed(
            start(),
            *text_block(0, "Let me see."),
            *tool_block(1, "toolu_1", "weather", '{"city":', '"Oslo"}'),
            *tool_block(2, "toolu_2", "weather", "{}"),
            *anthropic_server.end("tool_use"),
        )
    )
    arguments: dict[int, str] = {}
    stream = await sdk.chat.completions.create(**ASK, tools=[TOOL], stream=True)
    async for part in stream:
        for call in part.choices[0].delta.tool_calls or []:
            assert call.function
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    assert arguments == {0: '{"city":"Oslo"}', 1: "{}"}


async def test_chat_server_that_answers_in_the_other_form(sdk: AsyncOpenAI, claude: ModelServer) -> None:
    claude.plan(whole(message()), streamed(start(), *text_block(0, "Hello"), *anthropic_server.end()))
    stream = await sdk.chat.completions.create(**ASK, stream=True)
    said = [part.choices[0].delta.content or "" async for part in stream if part.choices]
    assert "".join(said) == "Hello world"
    assert (await sdk.chat.completions.create(**ASK)).choices[0].message.content == "Hello"


async def test_chat_error_has_openais_shape(sdk: AsyncOpenAI, claude: ModelServer) -> None:
    claude.plan(refusal(400, error("invalid_request_error", "max_tokens: too large")))
    with pytest.raises(openai.BadRequestError, match="max_tokens: too large") as caught:
        await sdk.chat.completions.create(**ASK)
    assert caught.value.code == "invalid_request"


async def test_chat_overloaded_server_is_unavailable(sdk: AsyncOpenAI, claude: ModelServer) -> None:
    claude.plan(*[refusal(529, error("overloaded_error", "Overloaded"))] * 3)
    with pytest.raises(openai.InternalServerError) as caught:
        await sdk.chat.completions.create(**ASK)
    assert caught.value.status_code == 503


@pytest.mark.parametrize("last", [Cut, error_event("overloaded_error", "Overloaded")])
async def test_chat_stream_that_breaks_is_raised_by_the_sdk(
    sdk: AsyncOpenAI, gateway: Gateway, claude: ModelServer, last: Any
) -> None:
    claude.plan(streamed(start(), *text_block(0, "Hel"), last))
    stream = await sdk.chat.completions.create(**ASK, stream=True)
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass
    outcome = (await gateway.settled(1))[0]["outcome"]
    assert outcome == ("cut" if last is Cut else "upstream_error")


async def test_chat_request_for_several_answers_is_refused(sdk: AsyncOpenAI, claude: ModelServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(**ASK, n=2)
    assert (caught.value.code, caught.value.param) == ("unsupported_by_server", "n")
    assert claude.asked == []
