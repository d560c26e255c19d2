"""POST /chat/completions: text, reasoning, refusals, tool calls and structured output."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from bluesminds.providers.demo.json_schema import instance
from bluesminds.providers.demo.pattern import UnsupportedSchema
from bluesminds.providers.demo.script import CREATED, DemoError, Script, identifier, read, response, stream
from bluesminds.providers.demo.text import alternatives, logprob, prose, tokens_of, truncate, usage_of
from bluesminds.providers.demo.tools import DemoTool, DemoToolChoice, chosen_tools

_MAX_TOKENS = 2048  # of a choice
_REFUSAL = "I cannot help with that, because demo/refusal refuses every request."
_EFFORT_TOKENS = {"none": 0, "minimal": 4, "low": 8, "medium": 16, "high": 32, "xhigh": 40, "max": 48}
_MEDIA = {"image_url": "image", "input_audio": "audio clip", "file": "file"}


class _Part(Struct):
    type: str
    text: str = ""


class _Message(Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[DemoTool] | None = None
    tool_call_id: str | None = None


class DemoStreamOptions(Struct):
    include_usage: bool | None = None


class _JSONSchema(Struct):
    schema: dict[str, Any]
    name: str = "response"


class _ResponseFormat(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JSONSchema | None = None


class _ChatRequest(Struct):
    model: str
    messages: Annotated[list[_Message], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: DemoStreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=8)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    response_format: _ResponseFormat | None = None
    tools: list[DemoTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | DemoToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @property
    def kind(self) -> str:
        return self.model.removeprefix("demo/")


class _Choice(Struct, frozen=True):
    """What is generated for one of the `n` choices."""

    reasoning: list[str]
    tokens: list[str]
    calls: list[dict[str, Any]]
    finish: str

    @property
    def count(self) -> int:
        called = (call[call["type"]] for call in self.calls)
        calls = sum(len(tokens_of(text)) for one in called for text in one.values())
        return len(self.reasoning) + len(self.tokens) + calls


def chat(body: bytes) -> Script:
    """Raises DemoError."""
    request = read(body, _ChatRequest)
    head = {"id": identifier("chatcmpl", body), "created": CREATED, "model": request.model}
    head |= {"system_fingerprint": "fp_demo", "service_tier": "default"}
    try:
        choices = [_choice(request, (request.seed or 0) + index) for index in range(request.n or 1)]
    except UnsupportedSchema as exc:
        raise DemoError(f"The demo server cannot generate an instance of the JSON Schema: {exc}.") from exc
    usage = _usage(request, choices)
    if request.stream:
        return stream(_chunks(request, head, choices, usage))
    rows = [_complete_choice(request, index, choice) for index, choice in enumerate(choices)]
    return response({**head, "object": "chat.completion", "choices": rows, "usage": usage})


def _usage(request: _ChatRequest, choices: list[_Choice]) -> dict[str, Any]:
    """What came before the last response of the assistant counts as cached: it was sent then."""
    counts = [len(tokens_of(_message_text(message))) + 3 for message in request.messages]
    turns = [n for n, message in enumerate(request.messages) if message.role == "assistant"]
    tools = len(tokens_of(msgspec.json.encode(request.tools).decode())) if request.tools else 0
    cached = sum(counts[: turns[-1]]) + tools if turns else 0
    completion = sum(choice.count for choice in choices)
    return usage_of(sum(counts) + tools, cached, completion, sum(len(choice.reasoning) for choice in choices))


def _choice(request: _ChatRequest, variation: int) -> _Choice:
    limit = min(request.max_completion_tokens or request.max_tokens or _MAX_TOKENS, _MAX_TOKENS)
    last = request.messages[-1]
    reasoning: list[str] = []
    if request.kind == "reasoning":
        effort = _EFFORT_TOKENS[request.reasoning_effort or "medium"]
        reasoning = tokens_of(prose("reasoning " + _message_text(last), variation))[:effort][:limit]
        limit -= len(reasoning)
    user_text = _message_text(last) if last.role == "user" else None
    tools = chosen_tools(request.tools or [], request.tool_choice, request.parallel_tool_calls, user_text)
    if tools and request.kind != "refusal":
        calls = [
            tool.call(f"call_demo_{len(request.messages)}_{n}", variation) for n, tool in enumerate(tools)
        ]
        return _Choice(reasoning, [], calls, "tool_calls")
    tokens, finish = truncate(_text(request, variation), request.stop, limit)
    return _Choice(reasoning, tokens, [], finish)


def _text(request: _ChatRequest, variation: int) -> str:
    if request.kind == "refusal":
        return _REFUSAL
    form = request.response_format
    if form is not None and form.type == "json_schema":
        if form.json_schema is None:
            raise DemoError("response_format.json_schema is missing.", "response_format")
        value = instance(form.json_schema.schema, form.json_schema.name, variation)
        return msgspec.json.encode(value).decode()
    text = _tool_results(request.messages) or _message_text(request.messages[-1])
    if request.messages[-1].role != "tool" and request.kind != "echo":
        media = _media(request.messages[-1])
        text = (f"I received {media}. " if media else "") + prose(text, variation)
    if form is not None and form.type == "json_object":
        return msgspec.json.encode({"answer": text}).decode()
    return text


def _tool_results(messages: list[_Message]) -> str:
    """A sentence for each tool result at the end of the conversation."""
    names = {call.id: call.name for message in messages for call in message.tool_calls or ()}
    results: list[str] = []
    for message in reversed(messages):
        if message.role != "tool":
            break
        results.append(
            f"{names.get(message.tool_call_id or '', 'The tool')} returned {_message_text(message)}"
        )
    return "\n".join(reversed(results))


def _message_text(message: _Message) -> str:
    """The text of a message; other parts are counted, for example "(1 image)"."""
    parts = message.content or []
    text = parts if isinstance(parts, str) else " ".join(part.text for part in parts if part.text)
    media = _media(message)
    return " ".join(filter(None, (text.strip(), media and f"({media})"))) or "(nothing)"


def _media(message: _Message) -> str:
    types = [part.type for part in message.content or () if isinstance(part, _Part)]
    counts = [(types.count(kind), name) for kind, name in _MEDIA.items()]
    return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in counts if count)


def _complete_choice(request: _ChatRequest, index: int, choice: _Choice) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None}
    if not choice.calls:
        message[_field(request)] = "".join(choice.tokens)
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    row = {"index": index, "message": message | ({"tool_calls": choice.calls} if choice.calls else {})}
    return row | {"finish_reason": choice.finish, "logprobs": _logprobs(request, choice.tokens)}


def _field(request: _ChatRequest) -> str:
    return "refusal" if request.kind == "refusal" else "content"


def _chunks(
    request: _ChatRequest, head: dict[str, Any], choices: list[_Choice], usage: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The choices take turns, as they do when a model generates them together."""
    head |= {"object": "chat.completion.chunk"}
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    extra = {"usage": None} if include_usage else {}
    rows = [_rows(request, index, choice) for index, choice in enumerate(choices)]
    for turn in zip_longest(*rows):
        yield from (head | {"choices": [row]} | extra for row in turn if row is not None)
    if include_usage:
        yield head | {"choices": [], "usage": usage}


def _rows(request: _ChatRequest, index: int, choice: _Choice) -> Iterator[dict[str, Any]]:
    """The entries in `choices` that make up one choice."""
    empty = {"index": index, "finish_reason": None, "logprobs": None}
    yield empty | {"delta": {"role": "assistant", "content": None if choice.calls else "", "refusal": None}}
    for token in choice.reasoning:
        yield empty | {"delta": {"reasoning_content": token}}
    for n, call in enumerate(choice.calls):
        kind = call["type"]
        (name, text) = call[kind].items()
        yield empty | {"delta": {"tool_calls": [{"index": n, **call, kind: {"name": name[1], text[0]: ""}}]}}
        for token in tokens_of(text[1]):
            yield empty | {"delta": {"tool_calls": [{"index": n, kind: {text[0]: token}}]}}
    for token in choice.tokens:
        yield empty | {"delta": {_field(request): token}, "logprobs": _logprobs(request, [token])}
    yield empty | {"delta": {}, "finish_reason": choice.finish}


def _logprobs(request: _ChatRequest, tokens: list[str]) -> dict[str, Any] | None:
    if not request.logprobs:
        return None
    rows = [
        _logprob(token)
        | {"top_logprobs": [_logprob(one) for one in alternatives(token, request.top_logprobs or 0)]}
        for token in tokens
    ]
    return (
        {"refusal": rows, "content": None}
        if request.kind == "refusal"
        else {"content": rows, "refusal": None}
    )


def _logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": logprob(token), "bytes": list(token.encode())}
