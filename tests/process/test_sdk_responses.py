"""OpenAI's Python SDK and the Responses API: servers that have it, chat servers, Anthropic's servers."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
import trio
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from bluesminds.providers.demo import demo_app
from tests import gateways
from tests.fakes import anthropic_server, model_server
from tests.fakes.anthropic_server import (
    end,
    error_event,
    message,
    start,
    text_block,
    thinking_block,
    tool_block,
)
from tests.fakes.model_server import Cut, ModelServer, error, refusal, streamed, whole
from tests.gateways import Gateway, entry
from tests.http import serving
from tests.wire.conversations import named
from tests.wire.test_responses import BEGUN, RESPONSE, RESPONSES_STREAM

# The SDK leaves generators to the garbage collector, and Trio warns about them.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
ASK: dict[str, Any] = {"model": "m", "input": "Say hello."}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
PATCH: Any = {
    "type": "custom",
    "name": "patch",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}
PRICE = {"model": "m", "input_usd": 1, "output_usd": 10, "cached_input_usd": 0.1}
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def client_of(gateway: Gateway) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=60)


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    """A client of a gateway whose server has chat completions only."""
    async with client_of(gateway) as client:
        yield client


@pytest.fixture
async def vendor(nursery: trio.Nursery) -> ModelServer:
    """A server that has the Responses API."""
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def native(nursery: trio.Nursery, home: Path, vendor: ModelServer) -> Gateway:
    servers = [entry("vendor", vendor.url, dialect="litellm")]
    return await gateways.start(nursery, home, servers=servers, prices=[PRICE])


@pytest.fixture
async def claude(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(anthropic_server.serve)
    return server


@pytest.fixture
async def with_claude(nursery: trio.Nursery, home: Path, claude: ModelServer) -> Gateway:
    servers = [entry("claude", claude.url, dialect="anthropic", api_key="sk-ant-upstream")]
    return await gateways.start(nursery, home, servers=servers, prices=[PRICE])


async def no_delay(seconds: float) -> None:
    await trio.lowlevel.checkpoint()


@pytest.fixture(params=["native", "translated"])
async def demo(nursery: trio.Nursery, home: Path, request: pytest.FixtureRequest) -> Gateway:
    """A gateway before the demo server, with its Responses API or with its chat completions."""
    served = await serving.start(nursery, demo_app(no_delay))
    dialect = "litellm" if request.param == "native" else "openai"
    models = ["demo/text", "demo/echo", "demo/reasoning", "demo/refusal"]
    servers = [entry("demo", f"http://127.0.0.1:{served.port}/v1", dialect=dialect, models=models)]
    return await gateways.start(nursery, home, servers=servers)


@pytest.fixture
async def anyone(demo: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(demo) as client:
        yield client


def check(response: Response) -> None:
    """The SDK does not check what it reads; its types can."""
    Response.model_validate_json(response.model_dump_json(exclude_unset=True, by_alias=True), strict=True)


async def read(stream: Any) -> tuple[list[str], Response]:
    """The types of all events, and the last response."""
    kinds: list[str] = []
    response = None
    async for event in stream:
        EVENT.validate_json(event.model_dump_json(exclude_unset=True, by_alias=True), strict=True)
        assert event.sequence_number == len(kinds)
        kinds.append(event.type)
        response = getattr(event, "response", response)
    assert isinstance(response, Response)
    check(response)
    return kinds, response


# The demo server, natively and translated


async def test_sdk_response_has_the_text_and_the_usage(anyone: AsyncOpenAI, demo: Gateway) -> None:
    response = await anyone.responses.create(
        model="demo/echo", input="Say hello.", instructions="Be brief.", metadata={"a": "b"}, store=False
    )
    check(response)
    assert response.output_text == "Say hello." and response.status == "completed"
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert response.usage and response.usage.total_tokens > 0
    (row,) = demo.rows()
    assert (row["endpoint"], row["usage_source"]) == ("responses", "upstream")
    assert row["input_tokens"] == response.usage.input_tokens


async def test_sdk_response_stream_has_every_event(anyone: AsyncOpenAI, demo: Gateway) -> None:
    stream = await anyone.responses.create(model="demo/reasoning", input="Say hello.", stream=True)
    kinds, response = await read(stream)
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    assert "response.reasoning_summary_text.delta" in kinds and "response.output_text.delta" in kinds
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage and response.usage.output_tokens_details.reasoning_tokens > 0
    row = demo.rows()[0]
    assert (row["usage_source"], row["output_tokens"]) == ("upstream", response.usage.output_tokens)


async def test_sdk_stream_helper_gives_the_final_response(anyone: AsyncOpenAI) -> None:
    async with anyone.responses.stream(model="demo/echo", input="Say hello.") as stream:
        texts = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert "".join(texts) == final.output_text == "Say hello."


async def test_sdk_function_is_called_and_answered(anyone: AsyncOpenAI) -> None:
    ask: Any = [{"role": "user", "content": "The weather in Oslo?"}]
    response = await anyone.responses.create(model="demo/text", input=ask, tools=[WEATHER])
    check(response)
    (called,) = response.output
    assert called.type == "function_call" and called.name == "weather"
    assert "city" in json.loads(called.arguments)
    ask += [*response.output, {"type": "function_call_output", "call_id": called.call_id, "output": "rain"}]
    answer = await anyone.responses.create(model="demo/text", input=ask, tools=[WEATHER])
    assert "rain" in answer.output_text


async def test_sdk_streams_the_arguments_of_functions(anyone: AsyncOpenAI) -> None:
    stream = await anyone.responses.create(
        model="demo/text", input="weather and time", tools=[WEATHER, WEATHER | {"name": "time"}], stream=True
    )
    kinds, response = await read(stream)
    assert [item.type for item in response.output] == ["function_call"] * 2
    assert kinds.count("response.function_call_arguments.done") == 2


async def test_sdk_custom_tool_gets_a_text(anyone: AsyncOpenAI) -> None:
    stream = await anyone.responses.create(
        model="demo/text", input="patch it", tools=[PATCH], tool_choice="required", stream=True
    )
    kinds, response = await read(stream)
    (called,) = response.output
    assert called.type == "custom_tool_call" and called.name == "patch" and called.input
    assert "response.custom_tool_call_input.done" in kinds


async def test_sdk_parses_structured_output(anyone: AsyncOpenAI) -> None:
    class Forecast(BaseModel):
        city: str
        sky: Literal["clear", "grey"]

    response = await anyone.responses.parse(model="demo/text", input="The weather?", text_format=Forecast)
    assert isinstance(response.output_parsed, Forecast)
    check(response)


async def test_sdk_refusal_is_not_parsed_as_structured_output(anyone: AsyncOpenAI) -> None:
    class Forecast(BaseModel):
        city: str

    response = await anyone.responses.parse(model="demo/refusal", input="Hi", text_format=Forecast)
    assert response.output_parsed is None and response.status == "completed"
    (said,) = response.output
    assert said.type == "message" and said.content[0].type == "refusal"


async def test_sdk_bounded_response_is_incomplete(anyone: AsyncOpenAI) -> None:
    response = await anyone.responses.create(model="demo/text", input="Hi", max_output_tokens=16)
    assert response.status == "incomplete" and response.incomplete_details
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_sdk_counts_input_tokens(anyone: AsyncOpenAI, demo: Gateway) -> None:
    raw = await anyone.responses.input_tokens.with_raw_response.count(model="demo/text", input="x" * 400)
    counted = raw.parse()
    assert counted.object == "response.input_tokens" and counted.input_tokens > 0
    row = demo.rows()[0]
    assert (row["endpoint"], row["input_tokens"]) == ("responses.input_tokens", 0)
    assert (raw.headers.get("x-bluesminds-estimated") == "true") is (row["server"] == "")


async def test_synchronous_sdk_reads_responses(demo: Gateway) -> None:
    def talk() -> tuple[str, str]:
        with OpenAI(base_url=f"{demo.url}/v1", api_key=demo.key, max_retries=0, timeout=60) as client:
            whole_text = client.responses.create(model="demo/echo", input="Say hello.").output_text
            stream = client.responses.create(model="demo/echo", input="Say hello.", stream=True)
            deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
            return whole_text, "".join(deltas)

    assert await trio.to_thread.run_sync(talk) == ("Say hello.", "Say hello.")


# A server that has the Responses API


async def test_native_response_passes_byte_for_byte(native: Gateway, vendor: ModelServer) -> None:
    body = json.dumps(RESPONSE, indent=1).encode()
    vendor.plan(whole(body))
    ask = ASK | {"future_field": {"a": 1.50}, "tools": [{"type": "mcp"}]}
    async with native.client() as client:
        answer = await client.post("/v1/responses", json=ask)
    assert (answer.status_code, answer.content) == (200, body)
    assert vendor.asked[0].received.line == b"POST /v1/responses HTTP/1.1"
    assert vendor.asked[0].body == ask
    row = native.rows()[0]
    assert (row["input_tokens"], row["output_tokens"], row["cache_write_tokens"]) == (50, 9, 5)
    assert row["cost_nano"] == 20 * 1000 + 30 * 100 + 9 * 10_000


async def test_native_stream_passes_byte_for_byte(native: Gateway, vendor: ModelServer) -> None:
    vendor.plan(streamed(*RESPONSES_STREAM, b"data: [DONE]\n\n"))
    async with native.client() as client:
        answer = await client.post("/v1/responses", json=ASK | {"stream": True})
    assert answer.content == b"".join(RESPONSES_STREAM)
    assert answer.headers["content-type"] == "text/event-stream"
    row = native.rows()[0]
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (50, 9, "upstream")


async def test_native_server_that_answers_in_the_other_form(native: Gateway, vendor: ModelServer) -> None:
    body = json.dumps(RESPONSE).encode()
    vendor.plan(whole(body), streamed(*RESPONSES_STREAM))
    async with client_of(native) as sdk:
        stream = await sdk.responses.create(**ASK, stream=True)
        kinds = [event.type async for event in stream]
        assert kinds[-1] == "response.completed" and "response.output_text.delta" in kinds
        assert (await sdk.responses.create(**ASK)).output_text == "It is so."


async def test_native_count_of_tokens_is_the_servers(native: Gateway, vendor: ModelServer) -> None:
    vendor.plan(whole(b'{"object":"response.input_tokens","input_tokens":7}'))
    async with client_of(native) as sdk:
        assert (await sdk.responses.input_tokens.count(**ASK)).input_tokens == 7
    assert vendor.asked[0].received.line == b"POST /v1/responses/input_tokens HTTP/1.1"


async def test_native_error_passes_unchanged(native: Gateway, vendor: ModelServer) -> None:
    vendor.plan(refusal(400, error("Unknown tool.", type="invalid_request_error", param="tools")))
    async with client_of(native) as sdk:
        with pytest.raises(openai.BadRequestError, match=r"Unknown tool\.") as caught:
            await sdk.responses.create(**ASK)
    assert caught.value.param == "tools"


async def test_response_that_fails_at_once_is_tried_again(native: Gateway, vendor: ModelServer) -> None:
    failed = RESPONSE | {"status": "failed", "error": {"code": "server_error", "message": "Broken."}}
    created = named("response.created", sequence_number=0, response=BEGUN)
    vendor.plan(streamed(created, named("response.failed", sequence_number=1, response=failed)))
    vendor.plan(streamed(*RESPONSES_STREAM))
    async with client_of(native) as sdk:
        stream = await sdk.responses.create(**ASK, stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
    assert native.rows()[0]["attempts"] == 2


@pytest.mark.parametrize("last", ["cut", "error", "failed"])
async def test_native_stream_that_breaks_is_an_error_for_the_sdk(
    native: Gateway, vendor: ModelServer, last: str
) -> None:
    error_ = {"code": "server_error", "message": "Broken."}
    steps: dict[str, Any] = {
        "cut": Cut,
        "error": named("error", sequence_number=9, error=error_, **error_),
        "failed": named("response.failed", response=RESPONSE | {"status": "failed", "error": error_}),
    }
    vendor.plan(streamed(*RESPONSES_STREAM[:14], steps[last]))
    async with client_of(native) as sdk:
        stream = await sdk.responses.create(**ASK, stream=True)
        if last == "failed":
            assert [event.type async for event in stream][-1] == "response.failed"
        else:
            with pytest.raises(openai.APIError):
                async for _ in stream:
                    pass
    outcome = (await native.settled(1))[0]["outcome"]
    assert outcome == ("cut" if last == "cut" else "upstream_error")


@pytest.mark.parametrize("asks", ["chat.completions", "messages"])
async def test_client_of_another_format_uses_a_server_of_its_own(
    native: Gateway, vendor: ModelServer, asks: str
) -> None:
    """LiteLLM has every format: nothing is translated."""
    async with native.client() as client:
        path = "/v1/chat/completions" if asks == "chat.completions" else "/v1/messages"
        await client.post(path, json={"model": "m", "max_tokens": 9, "messages": []})
    assert vendor.asked[0].received.line == f"POST {path} HTTP/1.1".encode()


# A chat server


async def test_translated_request_names_what_the_server_does_not_get(
    sdk: AsyncOpenAI, models: ModelServer
) -> None:
    raw = await sdk.responses.with_raw_response.create(
        **ASK, store=True, metadata={"a": "b"}, text={"verbosity": "low"}
    )
    assert raw.parse().output_text == "Hello world"
    assert set(raw.headers["x-bluesminds-dropped"].split(",")) == {"store", "metadata", "text.verbosity"}
    assert models.asked[0].received.line == b"POST /v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools.type"),
        ({"background": True}, "background"),
        (
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_file", "file_url": "https://x.test/a.pdf"}]}
                ]
            },
            "input.content.file_url",
        ),
    ],
)
async def test_field_that_cannot_be_translated_is_refused(
    sdk: AsyncOpenAI, models: ModelServer, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.responses.create(**ASK | fields)
    assert caught.value.param == param and f"`{param}`" in caught.value.message
    assert models.asked == []


async def test_translated_stream_that_is_cut_is_raised_by_the_sdk(
    sdk: AsyncOpenAI, gateway: Gateway, models: ModelServer
) -> None:
    models.plan(streamed(model_server.chunk("Hel"), Cut))
    stream = await sdk.responses.create(**ASK, stream=True)
    with pytest.raises(openai.APIError, match="ended the stream"):
        async for _ in stream:
            pass
    assert (await gateway.settled(1))[0]["outcome"] == "cut"


async def test_translated_error_has_openais_shape(sdk: AsyncOpenAI, models: ModelServer) -> None:
    models.plan(refusal(400, error("Too long.", code="context_length_exceeded")))
    with pytest.raises(openai.BadRequestError, match=r"Too long\.") as caught:
        await sdk.responses.create(**ASK)
    assert caught.value.code == "context_length_exceeded"


# A server of Anthropic's


async def test_claude_answers_with_reasoning_and_calls(with_claude: Gateway, claude: ModelServer) -> None:
    events = [
        *thinking_block(0, "Hm.", "c2ln"),
        *text_block(1, "Let me ", "see."),
        *tool_block(2, "toolu_1", "weather", '{"city":', '"Oslo"}'),
        *tool_block(3, "toolu_2", "patch", '{"input":"*** x"}'),
    ]
    claude.plan(streamed(start(), *events, *end("tool_use")))
    async with client_of(with_claude) as sdk:
        stream = await sdk.responses.create(**ASK, tools=[WEATHER, PATCH], stream=True)
        kinds, response = await read(stream)
        thought, said, called, patched = response.output
        assert thought.type == "reasoning" and thought.summary[0].text == "Hm."
        assert said.type == "message" and response.output_text == "Let me see."
        assert called.type == "function_call" and json.loads(called.arguments) == {"city": "Oslo"}
        assert patched.type == "custom_tool_call" and patched.input == "*** x"
        assert response.usage and response.usage.input_tokens_details.cached_tokens == 100
        again: Any = [
            {"role": "user", "content": "Say hello."},
            *[item.model_dump(exclude_unset=True) for item in response.output],
            {"type": "function_call_output", "call_id": "toolu_1", "output": "rain"},
            {"type": "custom_tool_call_output", "call_id": "toolu_2", "output": "done"},
        ]
        assert (await sdk.responses.create(model="m", input=again, tools=[WEATHER, PATCH])).output_text
    asked = claude.asked[1].body["messages"]
    assert asked[1]["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    assert [block["type"] for block in asked[1]["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block["tool_use_id"] for block in asked[2]["content"]] == ["toolu_1", "toolu_2"]
    assert kinds[-1] == "response.completed"


async def test_claude_parses_structured_output(with_claude: Gateway, claude: ModelServer) -> None:
    class Forecast(BaseModel):
        city: str

    claude.plan(whole(message([{"type": "text", "text": '{"city":"Oslo"}'}])))
    async with client_of(with_claude) as sdk:
        parsed = await sdk.responses.parse(**ASK, text_format=Forecast)
    assert parsed.output_parsed == Forecast(city="Oslo")
    form = claude.asked[0].body["output_config"]["format"]
    assert form["schema"]["additionalProperties"] is False


async def test_claude_failure_during_a_stream_is_raised_by_the_sdk(
    with_claude: Gateway, claude: ModelServer
) -> None:
    claude.plan(streamed(start(), *text_block(0, "Hel"), error_event("overloaded_error", "Overloaded")))
    async with client_of(with_claude) as sdk:
        stream = await sdk.responses.create(**ASK, stream=True)
        with pytest.raises(openai.APIError, match="Overloaded"):
            async for _ in stream:
                pass


async def test_claude_gets_an_instruction_to_answer_with_json(
    with_claude: Gateway, claude: ModelServer
) -> None:
    async with client_of(with_claude) as sdk:
        form: Any = {"format": {"type": "json_object"}}
        raw = await sdk.responses.with_raw_response.create(**ASK, text=form)
    assert raw.headers["x-bluesminds-dropped"] == "text.format"
    assert "JSON" in claude.asked[0].body["system"]
