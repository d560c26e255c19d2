"""Reads requests for chat completions into the neutral form of a conversation.

Format: OpenAI API reference, chat completions. DeepSeek and vLLM use `reasoning_content` in earlier answers.
"""

import binascii
from base64 import b64decode
from typing import Any, Final, Literal

import msgspec

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.conversation import (
    CacheLife,
    ConversationRequest,
    MediaPart,
    Part,
    Reasoning,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolDefinition,
    ToolResultPart,
    Turn,
    join_turns,
    unique,
    unsupported,
)
from bluesminds.wire.field_reading import FieldReader
from bluesminds.wire.json_text import Fields, is_set
from bluesminds.wire.requests import largest_bound

_MEANINGFUL: Final = {
    "logit_bias": "the server's format has no such field.",
    "logprobs": "the server does not report probabilities.",
    "top_logprobs": "the server does not report probabilities.",
    "audio": "the server does not generate audio.",
    "functions": "use `tools`.",
    "function_call": "use `tool_choice`.",
    "web_search_options": "the server's format has no such tool.",
    "moderation": "the server's format has no such field.",
}
CACHE_MARKS: Final = ("prompt_cache_breakpoint", "cache_control")
FILE_NAME: Final = "document.pdf"  # of documents that come without one
_MISNAMED: Final = {"image/jpg": "image/jpeg"}  # which servers refuse
_SYSTEM: Final = ("system", "developer")


def decode_request(fields: Fields, created: int = 0) -> ConversationRequest:
    dropped: list[str] = []
    reader = FieldReader(fields, "", dropped)
    _refuse(reader)
    system, system_cache, turns = _read_messages(reader)
    effort = reader.text("reasoning_effort")
    user = reader.text("user") or reader.text("safety_identifier")
    reader.ignore("usage")  # for the gateway
    options = reader.inner("stream_options")
    choice, tools = _read_choice(reader, tuple(_read_tool(tool) for tool in reader.items("tools")))
    request = ConversationRequest(
        model=reader.needed("model"),
        turns=turns,
        system=system,
        system_cache=system_cache,
        cache=read_cache(reader),
        tools=tools,
        tool_choice=choice,
        parallel=reader.flag("parallel_tool_calls"),
        **_read_response_format(reader),
        max_output=largest_bound(
            ("max_tokens", reader.whole("max_tokens")),
            ("max_completion_tokens", reader.whole("max_completion_tokens")),
        ),
        temperature=reader.number("temperature"),
        top_p=reader.number("top_p"),
        **read_penalties(reader),
        stop=reader.texts("stop"),
        reasoning=Reasoning(effort) if effort else None,
        user=user,
        stream=bool(reader.flag("stream")),
        wants_usage=options is not None and bool(options.flag("include_usage")),
        created=created,
    )
    reader.drop_rest()
    return msgspec.structs.replace(request, dropped=unique(dropped))


def _refuse(reader: FieldReader) -> None:
    if (reader.whole("n") or 1) > 1:
        raise unsupported("n", "the server generates one choice per request.")
    for field, reason in _MEANINGFUL.items():
        if is_set(raw := reader.raw(field)) and bytes(raw) not in (b"0", b'"auto"', b'"none"'):
            raise unsupported(field, reason)
    if any(modality != "text" for modality in reader.texts("modalities")):
        raise unsupported("modalities", "the server only generates text.")


def read_penalties(reader: FieldReader) -> dict[str, Any]:
    """With the seed. Penalties of 0 have no effect, so they need no translation."""
    penalties = ("presence_penalty", "frequency_penalty")
    return {"seed": reader.whole("seed")} | {field: reader.number(field) or None for field in penalties}


def read_cache(holder: FieldReader) -> CacheLife:
    """The mark up to which a server should cache, by the names of OpenAI, and of Anthropic. Only Anthropic's
    servers need marks, so that it is listed as dropped until it is written for one.
    """
    for name in CACHE_MARKS:
        if (mark := holder.inner(name)) is not None:
            holder.note(name)
            return "1h" if mark.text("ttl") in ("1h", "12h") else "5m"
    return ""


def _read_messages(reader: FieldReader) -> tuple[str, tuple[int, CacheLife], tuple[Turn, ...]]:
    """The leading instructions, what of them is to be cached, and the turns."""
    system = ""
    cached: tuple[int, CacheLife] = (0, "")
    turns: list[Turn] = []
    for message in reader.items("messages"):
        role = message.needed("role")
        if role in _SYSTEM:
            texts = [part for part in _read_content(message) if isinstance(part, TextPart)]
            if turns:
                turns.append(Turn("system", tuple(texts)))
                texts = []
            for part in texts:
                system += f"\n\n{part.text}" if system else part.text
                cached = (len(system), part.cache) if part.cache else cached
        elif role == "user":
            turns.append(Turn("user", _read_content(message)))
        elif role == "assistant":
            turns.append(Turn("assistant", _read_answer(message)))
        elif role == "tool":
            turns.append(Turn("user", (_read_result(message),)))
        else:
            raise unsupported("messages.role", f"the role `{role[:40]}` is unknown.")
        message.drop_rest()
    return system, cached, join_turns(turns)


def _read_result(message: FieldReader) -> ToolResultPart:
    """A mark within the result is that of the result."""
    parts = _read_content(message)
    cache: CacheLife = next((part.cache for part in reversed(parts) if part.cache), "")
    plain = tuple(msgspec.structs.replace(part, cache="") for part in parts) if cache else parts
    return ToolResultPart(message.needed("tool_call_id"), plain, cache=cache)


def _read_content(message: FieldReader) -> tuple[TextPart | MediaPart, ...]:
    """A mark of the message is that of its last part."""
    if message.is_text("content"):
        parts: list[TextPart | MediaPart] = [TextPart(message.text("content"))]
    else:
        parts = []
        for item in message.items("content"):
            part = _read_part(item)
            parts.append(msgspec.structs.replace(part, cache=cache) if (cache := read_cache(item)) else part)
            item.drop_rest()
    if parts and (cache := read_cache(message)):
        parts[-1] = msgspec.structs.replace(parts[-1], cache=cache)
    return tuple(part for part in parts if not isinstance(part, TextPart) or part.text)


def _read_part(item: FieldReader) -> TextPart | MediaPart:
    kind = item.needed("type")
    if kind == "text":
        return TextPart(item.text("text"))
    if kind == "refusal":
        return TextPart(item.text("refusal"))
    if kind == "image_url":
        return _read_image(item)
    if kind == "file" and (file := item.inner("file")) is not None:
        if file.text("file_id"):
            raise unsupported(file.name("file_id"), "send the file's content as `file_data`.")
        data = file.needed("file_data")
        if file.text("filename", FILE_NAME) != FILE_NAME:
            file.note("filename")
        file.drop_rest()
        return read_data_url("document", data, file.name("file_data"))
    if kind == "input_audio" and (audio := item.inner("input_audio")) is not None:
        return MediaPart("audio", data=audio.needed("data"), media_type=f"audio/{audio.needed('format')}")
    raise unsupported(item.name("type"), f"the server's format has no content of type `{kind[:40]}`.")


def _read_image(item: FieldReader) -> TextPart | MediaPart:
    if item.is_text("image_url"):
        return read_data_url("image", item.text("image_url"), item.name("image_url"))
    image = item.inner("image_url")
    if image is None:
        raise InvalidRequest("invalid_value", "`image_url` is missing.", param=item.name("image_url"))
    url = image.needed("url")
    if (detail := image.text("detail")) and detail != "auto":
        image.note("detail")
    image.drop_rest()
    return read_data_url("image", url, image.name("url"))


def read_data_url(kind: Literal["image", "document"], url: str, name: str) -> TextPart | MediaPart:
    """A picture at any address, or what is in a data URL; of a text file the text. `name`: of the field."""
    if not url.startswith("data:"):
        if kind == "image":
            return MediaPart(kind, url=url)
        raise InvalidRequest("invalid_value", f"`{name}` must be a data URL.", param=name)
    head, mark, data = url.partition(";base64,")
    if not mark:
        raise InvalidRequest("invalid_value", f"The data URL in `{name}` must be base64.", param=name)
    media_type = head[5:].partition(";")[0].lower()
    if kind == "document" and media_type.startswith("text/"):
        return TextPart(decode_text(data, name))
    return MediaPart(kind, data=data, media_type=_MISNAMED.get(media_type, media_type))


def decode_text(data: str, name: str) -> str:
    """The text in base64. Raises InvalidRequest with the `name` of the field."""
    try:
        return b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeError) as exc:
        raise InvalidRequest("invalid_value", f"`{name}` must be text in base64.", param=name) from exc


def _read_answer(message: FieldReader) -> tuple[Part, ...]:
    """An earlier answer of the model."""
    parts: list[Part] = []
    if thought := message.text("reasoning_content"):
        parts.append(ThinkingPart(thought))
    parts += _read_content(message)
    if refusal := message.text("refusal"):
        parts.append(TextPart(refusal))
    for field in ("function_call", "audio"):
        if is_set(message.raw(field)):
            raise unsupported(message.name(field), "the server's format has no such field.")
    for call in message.items("tool_calls"):
        function = call.inner("function")
        if function is None:
            raise unsupported(call.name("type"), "the server only supports functions.")
        parts.append(
            ToolCallPart(
                call.needed("id"),
                function.needed("name"),
                function.text("arguments"),
                _read_signature(call),
            )
        )
    return tuple(parts)


def _read_signature(call: FieldReader) -> str:
    """Google's extension of chat completions."""
    extra = call.inner("extra_content")
    google = None if extra is None else extra.inner("google")
    return "" if google is None else google.text("thought_signature")


def _read_tool(tool: FieldReader) -> ToolDefinition:
    kind = tool.text("type", "function")
    function = tool.inner("function")
    if kind != "function" or function is None:
        raise unsupported(tool.name("type"), "the server only supports functions.")
    read = ToolDefinition(
        name=function.needed("name"),
        description=function.text("description"),
        schema=bytes(function.raw("parameters")),
        strict=function.flag("strict"),
        cache=read_cache(tool) or read_cache(function),
    )
    function.drop_rest()
    tool.drop_rest()
    return read


_Tools = tuple[ToolDefinition, ...]


def _read_choice(reader: FieldReader, tools: _Tools) -> tuple[ToolChoice | None, _Tools]:
    """The choice, and the tools that it allows."""
    if reader.is_text("tool_choice"):
        return _read_mode(reader.text("tool_choice")), tools
    choice = reader.inner("tool_choice")
    if choice is None:
        return None, tools
    if (allowed := choice.inner("allowed_tools")) is not None:
        names = {_read_chosen(tool) for tool in allowed.items("tools")}
        if left := tuple(tool for tool in tools if tool.name in names):
            return _read_mode(allowed.text("mode", "auto")), left
        raise InvalidRequest("invalid_value", "It allows no tool of the request.", param="tool_choice")
    return ToolChoice("tool", _read_chosen(choice)), tools


def _read_mode(said: str) -> ToolChoice:
    for mode in ("auto", "required", "none"):
        if said == mode:
            return ToolChoice(mode)
    raise InvalidRequest("invalid_value", "Use auto, required, none or a function.", param="tool_choice")


def _read_chosen(tool: FieldReader) -> str:
    function = tool.inner("function")
    if tool.text("type", "function") != "function" or function is None:
        raise unsupported("tool_choice", "only a function can be chosen.")
    return function.needed("name")


def _read_response_format(reader: FieldReader) -> dict[str, Any]:
    form = reader.inner("response_format")
    if form is None or (kind := form.needed("type")) == "text":
        return {}
    if kind == "json_object":
        return {"response_json": True}
    inner = form.inner("json_schema")
    if kind != "json_schema" or inner is None or not (schema := inner.raw("schema")):
        raise unsupported("response_format", "send a `json_schema` with a `schema`.")
    inner.drop("description")
    return {"response_schema": bytes(schema), "response_strict": inner.flag("strict")}
