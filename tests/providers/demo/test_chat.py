"""OpenAI's SDK with the demo server's chat completions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pydantic import BaseModel, Field

from tests.providers.demo.conftest import Demo

if TYPE_CHECKING:  # importing the SDK takes as long as many tests
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

# The SDK leaves its own generators to the garbage collector, which Trio reports.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
USER: Any = [{"role": "user", "content": "one two three"}]
USAGE: Any = {"include_usage": True}


def function(name: str, **properties: object) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = function("get_weather", city={"type": "string"}, unit={"enum": ["C", "F"]})
TIME = function("get_time", zone={"type": "string"})
TOOLS: Any = [WEATHER, TIME]


async def complete(sdk: AsyncOpenAI, model: str = "demo/echo", **more: Any) -> ChatCompletion:
    from openai.types import chat

    made = await sdk.chat.completions.create(**{"model": model, "messages": USER} | more)
    assert isinstance(made, chat.ChatCompletion)
    return made


async def chunks_of(sdk: AsyncOpenAI, model: str = "demo/echo", **more: Any) -> list[ChatCompletionChunk]:
    stream = await sdk.chat.completions.create(**{"model": model, "messages": USER, "stream": True} | more)
    return [chunk async for chunk in stream]


def calls_of(made: ChatCompletion) -> list[tuple[str, Any]]:
    calls = made.choices[0].message.tool_calls or []
    return [
        (call.function.name, json.loads(call.function.arguments)) for call in calls if call.type == "function"
    ]


async def test_echo_returns_the_last_message(sdk: AsyncOpenAI) -> None:
    made = await complete(sdk)
    assert made.choices[0].message.content == "one two three"
    assert made.choices[0].finish_reason == "stop"
    assert made.usage and (made.usage.prompt_tokens, made.usage.completion_tokens) == (6, 3)


async def test_stream_has_role_tokens_finish_reason_and_usage(sdk: AsyncOpenAI) -> None:
    first, *tokens, last, usage = await chunks_of(sdk, stream_options=USAGE)
    assert first.choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in tokens] == ["one", " two", " three"]
    assert (last.choices[0].finish_reason, last.choices[0].delta.content) == ("stop", None)
    assert usage.choices == [] and usage.usage == (await complete(sdk)).usage
    assert all(chunk.usage is None for chunk in (first, *tokens, last))
    assert all("usage" not in chunk.model_fields_set for chunk in await chunks_of(sdk))


async def test_text_is_48_words_and_depends_on_message_and_seed(sdk: AsyncOpenAI) -> None:
    texts = [
        (await complete(sdk, "demo/text", **more)).choices[0].message.content or ""
        for more in ({}, {"seed": 1}, {"seed": -1}, {"messages": [{"role": "user", "content": "four"}]})
    ]
    assert [len(text.split()) for text in texts] == [48] * 4
    assert len(set(texts)) == 4


async def test_choices_are_as_many_as_asked_for(sdk: AsyncOpenAI) -> None:
    made = await complete(sdk, "demo/text", n=3)
    texts = [choice.message.content for choice in made.choices]
    assert len(set(texts)) == 3
    assert made.usage and made.usage.completion_tokens == 3 * 48
    streamed = ["", "", ""]
    for chunk in await chunks_of(sdk, "demo/text", n=3):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_token_limit_ends_text(sdk: AsyncOpenAI, field: str) -> None:
    made = await complete(sdk, "demo/text", **{field: 5})
    assert made.choices[0].finish_reason == "length"
    assert len((made.choices[0].message.content or "").split()) == 5
    assert made.usage and made.usage.completion_tokens == 5
    assert (await complete(sdk, **{field: 3})).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("stop", "text"), [("two", "one "), (["x", " three", "two t"], "one "), ([], "one two three")]
)
async def test_stop_sequence_ends_text(sdk: AsyncOpenAI, stop: Any, text: str) -> None:
    made = await complete(sdk, stop=stop)
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == (text, "stop")


async def test_logprobs_cover_every_token(sdk: AsyncOpenAI) -> None:
    made = await complete(sdk, logprobs=True, top_logprobs=2)
    logprobs = made.choices[0].logprobs
    assert logprobs and logprobs.content
    assert [token.token for token in logprobs.content] == ["one", " two", " three"]
    for token in logprobs.content:
        assert token.logprob <= 0 and bytes(token.bytes or ()).decode() == token.token
        assert len(token.top_logprobs) == 2 and token.top_logprobs[0].token == token.token
    chunks = await chunks_of(sdk, logprobs=True)
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].delta.content]
    assert [one.content[0].token for one in streamed if one and one.content] == ["one", " two", " three"]


async def test_parts_that_are_not_text_are_counted(sdk: AsyncOpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    file = {"type": "file", "file": {"file_id": "f"}}
    content = [{"type": "text", "text": "look"}, image, audio, image, file]
    messages = [{"role": "user", "content": content}]
    made = await complete(sdk, messages=messages)
    assert made.choices[0].message.content == "look (2 images, 1 audio clip, 1 file)"
    text = (await complete(sdk, "demo/text", messages=messages)).choices[0].message.content or ""
    assert text.startswith("I received 2 images, 1 audio clip, 1 file. ")


async def test_reasoning_comes_before_the_text_and_is_counted(sdk: AsyncOpenAI) -> None:
    counts = []
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        made = await complete(sdk, "demo/reasoning", reasoning_effort=effort)
        assert made.usage and made.usage.completion_tokens_details
        counts.append(made.usage.completion_tokens_details.reasoning_tokens or 0)
        assert made.usage.completion_tokens == counts[-1] + 48
        reasoning = (made.choices[0].message.model_extra or {}).get("reasoning_content", "")
        assert len(reasoning.split()) == counts[-1]
    assert counts == sorted(set(counts)) and counts[0] == 0
    chunks = await chunks_of(sdk, "demo/reasoning", reasoning_effort="minimal")
    deltas = [chunk.choices[0].delta for chunk in chunks[1:-1]]
    assert ["reasoning_content" in (delta.model_extra or {}) for delta in deltas] == [True] * 4 + [False] * 48
    short = await complete(sdk, "demo/reasoning", max_completion_tokens=10)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("", "length")


async def test_refusal_is_in_own_field(sdk: AsyncOpenAI) -> None:
    message = (await complete(sdk, "demo/refusal", tools=TOOLS)).choices[0].message
    assert message.content is None and message.refusal
    chunks = await chunks_of(sdk, "demo/refusal")
    assert "".join(chunk.choices[0].delta.refusal or "" for chunk in chunks) == message.refusal


async def test_earlier_turns_count_as_cached(sdk: AsyncOpenAI) -> None:
    answer = {"role": "assistant", "content": "one two three"}
    usage = (await complete(sdk, messages=[*USER, answer, *USER])).usage
    assert usage and usage.prompt_tokens_details
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (18, 6)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


# Tools


@pytest.mark.parametrize(
    ("choice", "parallel", "names"),
    [
        (None, None, ["get_weather"]),
        ("auto", True, ["get_weather", "get_time"]),
        ("required", False, ["get_weather"]),
        ({"type": "function", "function": {"name": "get_time"}}, None, ["get_time"]),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [TIME]}},
            None,
            ["get_time"],
        ),
        ("none", True, []),
    ],
)
async def test_tools_are_called_as_tool_choice_says(
    sdk: AsyncOpenAI, choice: Any, parallel: bool | None, names: list[str]
) -> None:
    made = await complete(sdk, tools=TOOLS, tool_choice=choice, parallel_tool_calls=parallel)
    assert [name for name, _ in calls_of(made)] == names
    assert made.choices[0].finish_reason == ("tool_calls" if names else "stop")
    assert (made.choices[0].message.content is None) == bool(names)


@pytest.mark.parametrize(
    ("text", "parallel", "names"),
    [
        ("What time is it?", None, ["get_time"]),
        ("Weather and time, please", None, ["get_weather", "get_time"]),
        ("Weather and time, please", False, ["get_weather"]),
    ],
)
async def test_tools_that_the_message_names_are_called(
    sdk: AsyncOpenAI, text: str, parallel: bool | None, names: list[str]
) -> None:
    messages = [{"role": "user", "content": text}]
    made = await complete(sdk, messages=messages, tools=TOOLS, parallel_tool_calls=parallel)
    assert [name for name, _ in calls_of(made)] == names


async def test_undefined_tool_choice_is_refused(sdk: AsyncOpenAI) -> None:
    import openai

    choice: Any = {"type": "function", "function": {"name": "other"}}
    with pytest.raises(openai.BadRequestError, match="tool_choice requires a tool that is not in `tools`"):
        await complete(sdk, tools=TOOLS, tool_choice=choice)


async def test_streamed_tool_calls_are_the_same(sdk: AsyncOpenAI) -> None:
    text = {"messages": [{"role": "user", "content": "Weather and time, please"}]}
    whole = await complete(sdk, tools=TOOLS, **text)
    assert calls_of(whole) == [
        ("get_weather", {"city": "demo city", "unit": "C"}),
        ("get_time", {"zone": "demo zone"}),
    ]
    async with sdk.chat.completions.stream(model="demo/echo", tools=TOOLS, **text) as stream:  # type: ignore[arg-type]
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    assert sum(event.type == "tool_calls.function.arguments.delta" for event in events) > 2
    assert [call.function.arguments for call in final.choices[0].message.tool_calls or ()] == [
        call.function.arguments
        for call in whole.choices[0].message.tool_calls or ()
        if call.type == "function"
    ]
    assert whole.usage and whole.usage.completion_tokens > 0


async def test_custom_tool_receives_text(sdk: AsyncOpenAI) -> None:
    tools: Any = [{"type": "custom", "custom": {"name": "run", "description": "Runs a program."}}]
    (call,) = (await complete(sdk, tools=tools)).choices[0].message.tool_calls or ()
    assert call.type == "custom" and (call.custom.name, call.custom.input) == ("run", "demo run")
    chunks = await chunks_of(sdk, tools=tools)
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_response_to_tool_results_contains_them(sdk: AsyncOpenAI) -> None:
    asked = [{"role": "user", "content": "Weather and time, please"}]
    message = (await complete(sdk, messages=asked, tools=TOOLS)).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": content}
        for call, content in zip(message.tool_calls or (), ("21 C", "noon"), strict=True)
    ]
    messages = [*asked, message.model_dump(exclude_none=True), *results]
    made = await complete(sdk, "demo/text", messages=messages, tools=TOOLS)
    assert made.choices[0].message.content == "get_weather returned 21 C\nget_time returned noon"
    again = await complete(sdk, messages=messages, tools=TOOLS, tool_choice="required")
    assert calls_of(again)


# Structured output


class Place(BaseModel):
    name: str
    kind: Literal["city", "village"]
    inhabitants: int = Field(ge=10)


class Trip(BaseModel):
    title: str
    places: list[Place] = Field(min_length=2)
    guide: Place | None
    price: float | None = None
    back: Trip | None = None


async def test_parse_returns_the_model(sdk: AsyncOpenAI) -> None:
    import openai

    made = await sdk.chat.completions.parse(model="demo/echo", messages=USER, response_format=Trip)
    trip = made.choices[0].message.parsed
    assert trip and len(trip.places) == 2 and trip.guide and trip.guide.inhabitants >= 10
    async with sdk.chat.completions.stream(model="demo/text", messages=USER, response_format=Trip) as stream:
        assert (await stream.get_final_completion()).choices[0].message.parsed == trip
    with pytest.raises(openai.LengthFinishReasonError):
        await sdk.chat.completions.parse(
            model="demo/echo", messages=USER, response_format=Trip, max_completion_tokens=2
        )
    refused = await sdk.chat.completions.parse(model="demo/refusal", messages=USER, response_format=Trip)
    assert refused.choices[0].message.refusal and refused.choices[0].message.parsed is None


async def test_parse_returns_the_arguments_of_a_tool(sdk: AsyncOpenAI) -> None:
    import openai

    tools = [openai.pydantic_function_tool(Trip, name="book")]
    made = await sdk.chat.completions.parse(model="demo/text", messages=USER, tools=tools)
    (call,) = made.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Trip)


async def test_json_object_is_an_object(sdk: AsyncOpenAI) -> None:
    made = await complete(sdk, response_format={"type": "json_object"})
    assert json.loads(made.choices[0].message.content or "") == {"answer": "one two three"}


async def test_unsatisfiable_schema_is_refused(demo: Demo) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}
    response = await demo.post("/chat/completions", model="demo/echo", messages=USER, response_format=form)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "The demo server cannot generate an instance of the JSON Schema: the keyword `not` is not supported."
    )
