"""Code shared by chat completions and legacy completions: JSON answers and stream chunks with choices.

Format: OpenAI API reference, chat completions, completions and their streaming. Text is everything that was
generated: content, reasoning, refusals, names and arguments of calls, transcripts.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.values import Usage
from bluesminds.wire.base import ReplyFacts
from bluesminds.wire.errors import ErrorDetail, find_error
from bluesminds.wire.json_text import (
    ABSENT,
    NOT_JSON,
    Fields,
    decode,
    is_set,
    read_fields,
    read_value,
    write_fields,
)
from bluesminds.wire.usage import ImplausibleUsage, read_usage, with_tier

_NOT_FINISHED = (None, "", "null")  # some servers write a finish_reason of "" in every chunk
CHUNK_OBJECTS = ("chat.completion.chunk", "text_completion")
_GENERATED_PART = ("text", "thinking", "content", "refusal", "reasoning", "summary")

_DEEPEST_PART = 8  # a part within a part


class CalledFunction(Struct, gc=False):
    """`input`: of a custom tool."""

    name: str | None = None
    arguments: str | None = None
    input: str | None = None


class ToolCall(Struct, gc=False):
    function: CalledFunction | None = None
    custom: CalledFunction | None = None


class Delta(Struct, gc=False):
    """A chunk's `delta` or an answer's `message`: the fields that can contain generated text or media."""

    content: Any = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    refusal: Any = None
    function_call: CalledFunction | None = None
    audio: Any = None
    images: Any = None


class Choice(Struct, gc=False):
    index: int | None = 0
    delta: Delta | None = None
    finish_reason: Any = None
    text: Any = None
    message: Delta | None = None


class Chunk(Struct, gc=False):
    """A whole answer or one chunk of a stream."""

    choices: list[Choice] | None = None
    usage: Raw = ABSENT
    error: Raw = ABSENT
    object: Any = None
    service_tier: Any = None


_chunk = msgspec.json.Decoder(Chunk)
decode_chunk = _chunk.decode  # strict: for the ordinary event


def read_chunk(data: bytes) -> Chunk | None:
    """None if the data is not a JSON object. Fields with other types than OpenAI's are read as missing."""
    try:
        return decode(_chunk, data)
    except msgspec.ValidationError:
        pass
    except NOT_JSON:
        return None
    try:
        return _read_loosely(read_value(data), read_fields(data))
    except NOT_JSON:
        return None


def _read_loosely(value: object, fields: Fields) -> Chunk | None:
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    return Chunk(
        choices=[_loose_choice(one) for one in choices if isinstance(one, dict)]
        if isinstance(choices, list)
        else None,
        usage=fields.get("usage", ABSENT),
        error=fields.get("error", ABSENT),
        object=value.get("object"),
        service_tier=value.get("service_tier"),
    )


def _loose_choice(choice: dict[str, Any]) -> Choice:
    return Choice(
        index=index if type(index := choice.get("index")) is int else 0,
        delta=_loose_delta(choice.get("delta")),
        finish_reason=choice.get("finish_reason"),
        text=choice.get("text"),
        message=_loose_delta(choice.get("message")),
    )


def _loose_delta(delta: object) -> Delta | None:
    if not isinstance(delta, dict):
        return None
    parts = {name: delta[name] for name in Delta.__struct_fields__ if name in delta}
    calls = parts.get("tool_calls")
    parts["tool_calls"] = [_loose_call(one) for one in calls] if isinstance(calls, list) else None
    parts["function_call"] = _loose_function(parts.get("function_call"))
    return Delta(**parts)


def _loose_call(call: object) -> ToolCall:
    if not isinstance(call, dict):
        return ToolCall()
    return ToolCall(_loose_function(call.get("function")), _loose_function(call.get("custom")))


def _loose_function(function: object) -> CalledFunction | None:
    if not isinstance(function, dict):
        return None
    return CalledFunction(*[_as_text(function.get(name)) for name in ("name", "arguments", "input")])


def _as_text(value: object) -> str | None:
    """Some servers write arguments as an object."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


def is_finished(choice: Choice) -> bool:
    return choice.finish_reason not in _NOT_FINISHED


def text_of(choice: Choice) -> int:
    """Bytes of generated text in a choice; 0 if it only has media, -1 if it has nothing."""
    delta = choice.delta or choice.message
    if delta is None:
        return _bytes(choice.text) or -1
    content = delta.content
    size = (len(content) if type(content) is str and content.isascii() else _bytes(content)) if content else 0
    if calls := delta.tool_calls:
        for call in calls:
            size += _call(call.function) + _call(call.custom)
    # Servers repeat the same reasoning under several names.
    if delta.reasoning_content or delta.reasoning:
        size += max(_bytes(delta.reasoning_content), _bytes(delta.reasoning))
    elif delta.reasoning_details:
        size += _bytes(delta.reasoning_details)
    if delta.refusal:
        size += _bytes(delta.refusal)
    if delta.function_call:
        size += _call(delta.function_call)
    if delta.audio or delta.images:
        return size + _transcript(delta.audio)
    return size or -1


def _bytes(value: object, depth: int = _DEEPEST_PART) -> int:
    """Bytes of a text, or of the texts in a list of parts."""
    if type(value) is str:
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, list) and depth:
        return sum([_bytes(part, depth - 1) for part in value])
    if isinstance(value, dict) and depth:
        return sum([_bytes(value.get(name), depth - 1) for name in _GENERATED_PART])
    return 0


def _transcript(audio: object) -> int:
    return _bytes(audio.get("transcript")) if isinstance(audio, dict) else 0


def _call(function: CalledFunction | None) -> int:
    """Bytes of a call's name and arguments."""
    if function is None:
        return 0
    return _bytes(function.name) + _bytes(function.arguments) + _bytes(function.input)


def measure(choices: list[Choice]) -> tuple[int, int]:
    """Bytes of generated text, and the number of choices with generated content."""
    size = pieces = 0
    for choice in choices:
        found = text_of(choice)
        if found >= 0:
            size += found
            pieces += 1
    return size, pieces


def usage_of(chunk: Chunk, data: bytes) -> tuple[Usage | None, bool]:
    """The usage of the chunk, and whether it is impossible. Some servers send it in another place: Moonshot
    in a choice, Groq in `x_groq`, Cohere in `meta`, Gemini in `usageMetadata`.
    """
    raw: bytes | Raw = chunk.usage
    if not is_set(chunk.usage):
        if b'"usage' not in data and b'"meta"' not in data:
            return None, False
        try:
            raw = _usage_elsewhere(data)
        except NOT_JSON:
            return None, False
        if not raw:
            return None, False
    try:
        usage = read_usage(raw)
    except ImplausibleUsage:
        return None, True
    return (usage if chunk.service_tier is None else with_tier(usage, chunk.service_tier)), False


def _usage_elsewhere(data: bytes) -> bytes:
    value = read_value(data)
    if not isinstance(value, dict):
        return b""
    choices = value.get("choices")
    places = [value.get("usageMetadata"), value.get("meta")]
    holders = (value.get("x_groq"), *(choices if isinstance(choices, list) else ()))
    places += [holder.get("usage") for holder in holders if isinstance(holder, dict)]
    return next((msgspec.json.encode(place) for place in places if place and isinstance(place, dict)), b"")


def read_reply(body: bytes) -> ReplyFacts:
    """A whole answer of either format."""
    chunk = read_chunk(body)
    if chunk is None:
        return ReplyFacts(readable=False)
    choices = chunk.choices or []
    usage, implausible = usage_of(chunk, body)
    size, pieces = measure(choices)
    return ReplyFacts(
        choices=len(choices),
        usage=usage,
        implausible=implausible,
        delivered=size,
        pieces=pieces,
        error=None if choices else find_error(body),
    )


def read_event(name: bytes, data: bytes) -> ReplyFacts:
    """One event of a stream of either format. If it has an error and choices, it counts as an error: the
    answer ends there.
    """
    chunk = read_chunk(data)
    if chunk is None:
        return ReplyFacts(readable=False)
    usage, implausible = usage_of(chunk, data)
    size, pieces = measure(chunk.choices or [])
    return ReplyFacts(
        choices=len(chunk.choices or ()),
        usage=usage,
        implausible=implausible,
        delivered=size,
        pieces=pieces,
        error=error_in(chunk, name, data),
    )


def error_in(chunk: Chunk, name: bytes, data: bytes) -> ErrorDetail | None:
    """The error of an event: it has an `error`, or no choices and signs of an error."""
    if is_set(chunk.error):
        return find_error(data)
    if chunk.choices is not None or len(chunk.usage) or chunk.object in CHUNK_OBJECTS:
        return None
    found = find_error(data)
    named = name in (b"error", b"response.failed")
    if found is None or named or chunk.object == "error" or found.status is not None:
        return found
    return None


def without_usage(data: bytes) -> bytes:
    """The chunk's JSON without its top-level `usage`; the other values keep their bytes."""
    fields = read_fields(data)
    fields.pop("usage", None)
    return write_fields(fields)
