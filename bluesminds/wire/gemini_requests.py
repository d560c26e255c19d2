"""Converts Gemini's requests to the neutral form of a conversation.

Format: Gemini API reference, models.generateContent; the fields follow the types of the google-genai SDKs.
The model and whether to stream are in the path: they come as the fields `model` and `stream`.
"""

from typing import Any, Final, Literal

import msgspec

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.chat_requests import decode_text
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
from bluesminds.wire.gemini_fields import GeminiReader, standard_base64
from bluesminds.wire.gemini_schema import write_json_schema
from bluesminds.wire.gemini_signatures import unseal
from bluesminds.wire.json_text import NOT_JSON, Fields, is_set, read_fields
from bluesminds.wire.requests import largest_bound

_ROLES: Final[dict[str, Any]] = {"user": "user", "model": "assistant", "function": "user"}
_MODES: Final[dict[str, Any]] = {"AUTO": "auto", "ANY": "required", "NONE": "none", "VALIDATED": "auto"}
_LEVELS: Final = ("minimal", "low", "medium", "high", "xhigh")
_UNSPECIFIED: Final = ("", "mode_unspecified", "thinking_level_unspecified")
_JSON: Final = "application/json"
PDF: Final = "application/pdf"
_OWN_FILES: Final = (
    "https://generativelanguage.googleapis.com/",
    "https://www.youtube.com/",
    "https://youtu.be/",
)
_MEANINGFUL: Final = {
    "responseLogprobs": "the server does not report probabilities.",
    "logprobs": "the server does not report probabilities.",
    "speechConfig": "the server does not generate audio.",
    "imageConfig": "the server does not generate images.",
}


def decode_request(fields: Fields, created: int = 0) -> ConversationRequest:
    dropped: list[str] = []
    reader = GeminiReader(fields, "", dropped)
    if is_set(reader.raw("cachedContent")):
        raise unsupported("cachedContent", "send the content itself.")
    config = reader.inner("generationConfig") or GeminiReader({}, "generationConfig", dropped)
    _refuse(config)
    tools = _read_tools(reader)
    choice, tools = _read_choice(reader, tools)
    reasoning, shown = _read_thinking(config)
    schema, response_json = _read_response_format(config)
    request = ConversationRequest(
        model=reader.needed("model"),
        turns=_read_contents(reader),
        system=_read_system(reader),
        tools=tools,
        tool_choice=choice,
        response_schema=schema,
        response_json=response_json,
        max_output=largest_bound(("generationConfig.maxOutputTokens", config.whole("maxOutputTokens"))),
        temperature=config.number("temperature"),
        top_p=config.number("topP"),
        top_k=_whole(config, "topK"),
        seed=_whole(config, "seed"),
        presence_penalty=config.number("presencePenalty") or None,
        frequency_penalty=config.number("frequencyPenalty") or None,
        stop=config.texts("stopSequences"),
        reasoning=reasoning,
        stream=bool(reader.flag("stream")),
        shows_reasoning=shown,
        created=created,
    )
    config.drop_rest()
    reader.drop_rest()
    return msgspec.structs.replace(request, dropped=unique(dropped))


def _refuse(config: GeminiReader) -> None:
    if (config.whole("candidateCount") or 1) > 1:
        raise unsupported(config.name("candidateCount"), "the server generates one answer per request.")
    for field, reason in _MEANINGFUL.items():
        if is_set(raw := config.raw(field)) and bytes(raw) != b"0":
            raise unsupported(config.name(field), reason)
    if any(modality.upper() != "TEXT" for modality in config.texts("responseModalities")):
        raise unsupported(config.name("responseModalities"), "the server only generates text.")


def _whole(config: GeminiReader, field: str) -> int | None:
    """An integer; some clients write it as 5.0."""
    number = config.number(field)
    if number is None or number != int(number):
        return None
    return int(number)


def _read_system(reader: GeminiReader) -> str:
    if reader.is_text("systemInstruction"):
        return reader.text("systemInstruction")
    content = reader.inner("systemInstruction")
    if content is None:
        return ""
    texts = []
    for part in content.objects("parts"):
        if not part.is_text("text"):
            raise unsupported(part.name("text"), "instructions must be text.")
        texts.append(part.text("text"))
        part.drop_rest()
    return "\n\n".join([text for text in texts if text])


class _Calls:
    """Creates missing ids of calls, and finds the call of a result."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []  # id and name of calls without a result

    def called(self, id_: str, name: str) -> str:
        id_ = id_ or f"call_{self._count}"
        self._count += 1
        self._open.append((id_, name))
        return id_

    def answered(self, id_: str, name: str) -> str:
        """The id of the call; "" when there is none of this name."""
        for call in self._open:
            if call[0] == id_ or (not id_ and call[1] == name):
                self._open.remove(call)
                return call[0]
        return id_


def _read_contents(reader: GeminiReader) -> tuple[Turn, ...]:
    turns = []
    calls = _Calls()
    for content in reader.objects("contents"):
        said = content.text("role", "user")
        role = _ROLES.get(said)
        if role is None:
            raise InvalidRequest("invalid_value", "Use the roles user and model.", param=content.name("role"))
        parts: list[Part] = []
        for part in content.objects("parts"):
            _read_part(part, parts, calls)
            part.drop_rest()
        turns.append(Turn(role, tuple(parts)))
        content.drop_rest()
    return join_turns(turns)


def _read_part(part: GeminiReader, parts: list[Part], calls: _Calls) -> None:
    """Append the content of a part."""
    sealed = part.text("thoughtSignature")
    signature, redacted = unseal(sealed)
    if sealed and not (signature or redacted):
        part.note("thoughtSignature")
    if (call := part.inner("functionCall")) is not None:
        name = call.needed("name")
        arguments = bytes(call.raw("args")).decode() or "{}"
        parts.append(ToolCallPart(calls.called(call.text("id"), name), name, arguments, signature))
        call.drop_rest()
    elif (result := part.inner("functionResponse")) is not None:
        parts.append(_read_result(result, calls))
        result.drop_rest()
    elif (blob := part.inner("inlineData")) is not None:
        parts.append(_read_blob(blob))
        blob.drop("displayName")
    elif (file := part.inner("fileData")) is not None:
        parts.append(_read_file(file))
        file.drop("displayName")
    elif bool(part.flag("thought")):
        _read_thought(ThinkingPart(part.text("text"), signature, redacted), parts)
    else:
        for kind in ("executableCode", "codeExecutionResult", "toolCall", "toolResponse"):
            if part.raw(kind):
                raise unsupported(part.name(kind), "the server's format has no such part.")
        if text := part.text("text"):
            parts.append(TextPart(text))
        if signature:
            parts.append(ThinkingPart(signature=signature))


def _read_thought(thought: ThinkingPart, parts: list[Part]) -> None:
    """A signature without a text belongs to the thought before it, as streams send it."""
    last = parts[-1] if parts else None
    if thought.text or thought.redacted:
        parts.append(thought)
    elif thought.signature and isinstance(last, ThinkingPart) and last.text and not last.signature:
        parts[-1] = ThinkingPart(last.text, thought.signature)
    elif thought.signature:
        parts.append(thought)


def _read_blob(blob: GeminiReader) -> TextPart | MediaPart:
    media_type, data = blob.needed("mimeType"), standard_base64(blob.needed("data"))
    if media_type.startswith("text/"):
        return TextPart(decode_text(data, blob.name("data")))
    return MediaPart(_kind(media_type, blob), data=data, media_type=media_type)


def _read_file(file: GeminiReader) -> MediaPart:
    url, media_type = file.needed("fileUri"), file.text("mimeType")
    if not url.startswith(("https://", "http://")) or url.startswith(_OWN_FILES):
        raise unsupported(file.name("fileUri"), "the server cannot read this file. Send its content instead.")
    return MediaPart(_kind(media_type or guess_media_type(url) or "image/", file), url=url)


def _kind(media_type: str, holder: GeminiReader) -> Literal["image", "document", "audio"]:
    if media_type.startswith("image/"):
        return "image"
    if media_type.startswith("audio/"):
        return "audio"
    if media_type != PDF:
        raise unsupported(holder.name("mimeType"), f"the server does not support `{media_type[:40]}`.")
    return "document"


def guess_media_type(url: str) -> str:
    """By the ending of the path; "" when it says nothing."""
    ending = url.partition("?")[0].rpartition(".")[2].lower()
    if ending == "pdf":
        return PDF
    ending = "jpeg" if ending == "jpg" else ending
    return f"image/{ending}" if ending in ("png", "jpeg", "webp", "gif", "heic", "heif") else ""


def _read_result(result: GeminiReader, calls: _Calls) -> ToolResultPart:
    name = result.text("name")
    call_id = calls.answered(result.text("id"), name)
    if not call_id:
        raise InvalidRequest(
            "invalid_value",
            f"No functionCall comes before the response of `{name[:60]}`.",
            param=result.name("name"),
        )
    parts: list[TextPart | MediaPart] = []
    text, is_error = _read_response(bytes(result.raw("response")))
    if text:
        parts.append(TextPart(text))
    for inner in result.items("parts"):
        if (blob := inner.inner("inlineData")) is None:
            raise unsupported(inner.name("fileData"), "send the content itself.")
        parts.append(_read_blob(blob))
        inner.drop_rest()
    return ToolResultPart(call_id, tuple(parts), is_error)


def _read_response(response: bytes) -> tuple[str, bool]:
    """The text of a result, and whether it is an error. If the object only has `output`, `result` or `error`,
    the text is in there, otherwise it is the JSON.
    """
    try:
        (key, value), *more = read_fields(response).items()
        text = msgspec.json.decode(value, type=str)
    except NOT_JSON:
        return response.decode(errors="replace"), False
    if more or key not in ("output", "result", "error"):
        return response.decode(errors="replace"), False
    return text, key == "error"


def _read_tools(reader: GeminiReader) -> tuple[ToolDefinition, ...]:
    tools = []
    for tool in reader.objects("tools"):
        for declaration in tool.objects("functionDeclarations"):
            tools.append(_read_declaration(declaration))
            declaration.drop_rest()
        if (other := tool.first_unread()) is not None:
            raise unsupported(tool.name(other), f"the server has no built-in tool `{other[:40]}`.")
    return tuple(tools)


def _read_declaration(declaration: GeminiReader) -> ToolDefinition:
    schema = bytes(declaration.raw("parametersJsonSchema"))
    if not schema and (parameters := declaration.raw("parameters")):
        schema = write_json_schema(parameters, declaration.name("parameters"))
    return ToolDefinition(declaration.needed("name"), declaration.text("description"), schema)


def _read_choice(
    reader: GeminiReader, tools: tuple[ToolDefinition, ...]
) -> tuple[ToolChoice | None, tuple[ToolDefinition, ...]]:
    """The choice, and the tools that may be called."""
    outer = reader.inner("toolConfig")
    config = None if outer is None else outer.inner("functionCallingConfig")
    if outer is None or config is None:
        return None, tools
    said = config.text("mode").upper()
    allowed = config.texts("allowedFunctionNames")
    config.drop_rest()
    outer.drop_rest()
    if said.lower() in _UNSPECIFIED:
        return None, tools
    mode = _MODES.get(said)
    if mode is None:
        raise InvalidRequest("invalid_value", "Use AUTO, ANY, NONE or VALIDATED.", param=config.name("mode"))
    if mode == "required" and len(allowed) == 1:
        return ToolChoice("tool", allowed[0]), tools
    if allowed and mode != "none":
        tools = tuple(tool for tool in tools if tool.name in allowed)
    return ToolChoice(mode), tools


def _read_thinking(config: GeminiReader) -> tuple[Reasoning | None, bool]:
    """The settings of reasoning, and whether the client gets it."""
    thinking = config.inner("thinkingConfig")
    if thinking is None:
        return None, False
    shown = bool(thinking.flag("includeThoughts"))
    budget, level = thinking.whole("thinkingBudget"), thinking.text("thinkingLevel").lower()
    thinking.drop_rest()
    if level not in _UNSPECIFIED:
        if level not in _LEVELS:
            raise InvalidRequest(
                "invalid_value",
                f"`{level[:40]}` is not a level.",
                param=thinking.name("thinkingLevel"),
            )
        return Reasoning(level), shown
    if budget is None:
        return None, shown
    if budget <= 0:
        return Reasoning(mode="adaptive" if budget else "disabled"), shown
    return Reasoning(mode="enabled", budget=budget), shown


def _read_response_format(config: GeminiReader) -> tuple[bytes, bool]:
    """The schema, or that the answer is any JSON object; neither for plain text."""
    media_type = config.text("responseMimeType", "text/plain")
    schema = bytes(config.raw("responseJsonSchema"))
    if raw := config.raw("responseSchema"):
        schema = schema or write_json_schema(raw, config.name("responseSchema"))
    if media_type not in ("text/plain", _JSON):
        raise unsupported(
            config.name("responseMimeType"), f"the server does not generate `{media_type[:40]}`."
        )
    return schema, media_type == _JSON and not schema
