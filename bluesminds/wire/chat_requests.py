"""Reads requests for chat completions into the neutral form of a conversation.

Format: OpenAI API reference, chat completions. DeepSeek and vLLM use `reasoning_content` in earlier answers.
"""

from typing import Any, Final, Literal

import msgspec

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.conversation import (
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
FILE_NAME: Final = "document.pdf"  # of documents that come without one
_SYSTEM: Final = ("system", "developer")


def decode_request(fields: Fields, created: int = 0) -> ConversationRequest:
    dropped: list[str] = []
    reader = FieldReader(fields, "", dropped)
    _refuse(reader)
    system, turns = _read_messages(reader)
    effort = reader.text("reasoning_effort")
    user = reader.text("user") or reader.text("safety_identifier")
    reader.ignore("usage")  # for the gateway
    options = reader.inner("stream_options")
    request = ConversationRequest(
        model=reader.needed("model"),
        turns=turns,
        system=system,
        tools=tuple(_read_tool(tool) for tool in reader.items("tools")),
        tool_choice=_read_choice(reader),
        parallel=reader.flag("parallel_tool_calls"),
        **_read_response_format(reader),
        max_output=largest_bound(
            ("max_tokens", reader.whole("max_tokens")),
            ("max_completion_tokens", reader.whole("max_completion_tokens")),
        ),
        temperature=reader.number("temperature"),
        top_p=reader.number("top_p"),
        stop=reader.texts("stop"),
        reasoning=Reasoning(effort) if effort else None,
        user=user,
        stream=bool(reader.flag("stream")),
        wants_usage=options is not None and bool(options.flag("include_usage")),
        created=created,
    )
    drop_zeros(reader)
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


def drop_zeros(reader: FieldReader) -> None:
    """Penalties of 0 have no effect, so they need no translation."""
    for field in ("presence_penalty", "frequency_penalty"):
        if reader.number(field):
            reader.note(field)


def _read_messages(reader: FieldReader) -> tuple[str, tuple[Turn, ...]]:
    """The leading instructions, and the turns."""
    system: list[str] = []
    turns: list[Turn] = []
    for message in reader.items("messages"):
        role = message.needed("role")
        if role in _SYSTEM:
            texts = [part.text for part in _read_content(message) if isinstance(part, TextPart)]
            if turns:
                turns.append(Turn("system", tuple(TextPart(text) for text in texts)))
            else:
                system += [text for text in texts if text]
        elif role == "user":
            turns.append(Turn("user", _read_content(message)))
        elif role == "assistant":
            turns.append(Turn("assistant", _read_answer(message)))
        elif role == "tool":
            result = tuple(part for part in _read_content(message) if isinstance(part, TextPart | MediaPart))
            turns.append(Turn("user", (ToolResultPart(message.needed("tool_call_id"), result),)))
        else:
            raise unsupported("messages.role", f"the role `{role[:40]}` is unknown.")
        message.drop_rest()
    return "\n\n".join(system), join_turns(turns)


def _read_content(message: FieldReader, field: str = "content") -> tuple[Part, ...]:
    if message.is_text(field):
        text = message.text(field)
        return (TextPart(text),) if text else ()
    parts = []
    for item in message.items(field):
        parts.append(_read_part(item))
        item.drop_rest()
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


def _read_image(item: FieldReader) -> MediaPart:
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


def read_data_url(kind: Literal["image", "document"], url: str, name: str) -> MediaPart:
    """A picture at any address, or what is in a data URL. `name`: of the field."""
    if not url.startswith("data:"):
        if kind == "image":
            return MediaPart(kind, url=url)
        raise InvalidRequest("invalid_value", f"`{name}` must be a data URL.", param=name)
    head, mark, data = url.partition(";base64,")
    if not mark:
        raise InvalidRequest("invalid_value", f"The data URL in `{name}` must be base64.", param=name)
    return MediaPart(kind, data=data, media_type=head[5:].partition(";")[0])


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
    )
    function.drop_rest()
    tool.drop_rest()
    return read


def _read_choice(reader: FieldReader) -> ToolChoice | None:
    if reader.is_text("tool_choice"):
        said = reader.text("tool_choice")
        for mode in ("auto", "required", "none"):
            if said == mode:
                return ToolChoice(mode)
        raise InvalidRequest("invalid_value", "Use auto, required, none or a function.", param="tool_choice")
    choice = reader.inner("tool_choice")
    if choice is None:
        return None
    function = choice.inner("function")
    if choice.text("type", "function") != "function" or function is None:
        raise unsupported("tool_choice", "only a function can be chosen.")
    return ToolChoice("tool", function.needed("name"))


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
