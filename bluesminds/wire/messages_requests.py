"""Reads requests for Anthropic's Messages into the neutral form of a conversation.

Format: Anthropic API reference, messages; the fields follow the types of the anthropic Python SDK.
"""

from typing import Any, Final

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

PDF: Final = "application/pdf"
_ATTRIBUTION: Final = "x-anthropic-billing-header:"  # the first system text of Claude Code; no instruction
_MEANINGFUL: Final = {
    "mcp_servers": "the server cannot call MCP servers.",
    "container": "the server does not support containers.",
}
MODES: Final = {"auto": "auto", "any": "required", "none": "none", "tool": "tool"}
_THINKING: Final = ("enabled", "adaptive", "between_tools", "disabled")


def decode_request(fields: Fields, created: int = 0) -> ConversationRequest:
    dropped: list[str] = []
    reader = FieldReader(fields, "", dropped)
    for field, reason in _MEANINGFUL.items():
        if is_set(reader.raw(field)):
            raise unsupported(field, reason)
    choice, parallel = _read_choice(reader)
    reasoning, shown, schema = _read_thinking(reader)
    metadata = reader.inner("metadata")
    user = metadata.text("user_id") if metadata is not None else ""
    request = ConversationRequest(
        model=reader.needed("model"),
        system=_read_system(reader, dropped),
        turns=_read_messages(reader),
        tools=tuple(_read_tool(tool) for tool in reader.items("tools")),
        tool_choice=choice,
        parallel=parallel,
        response_schema=schema,
        max_output=largest_bound(("max_tokens", reader.whole("max_tokens"))),
        temperature=reader.number("temperature"),
        top_p=reader.number("top_p"),
        top_k=reader.whole("top_k"),
        stop=reader.texts("stop_sequences"),
        reasoning=reasoning,
        user=user,
        stream=bool(reader.flag("stream")),
        shows_reasoning=shown,
        created=created,
    )
    if metadata is not None:
        metadata.drop_rest()
    reader.drop_rest()
    return msgspec.structs.replace(request, dropped=unique(dropped))


def _read_system(reader: FieldReader, dropped: list[str]) -> str:
    if reader.is_text("system"):
        return reader.text("system")
    texts = []
    for block in reader.items("system"):
        kind, text = block.text("type", "text"), block.text("text")
        if kind != "text":
            raise unsupported(block.name("type"), "system instructions must be text.")
        if text.startswith(_ATTRIBUTION):
            dropped.append(f"system.{_ATTRIBUTION[:-1]}")
        elif text:
            texts.append(text)
        block.drop_rest()
    return "\n\n".join(texts)


def _read_messages(reader: FieldReader) -> tuple[Turn, ...]:
    turns = []
    for message in reader.items("messages"):
        role = message.needed("role")
        if role not in ("user", "assistant", "system"):
            raise InvalidRequest(
                "invalid_value", "Use the roles user, assistant and system.", param="messages.role"
            )
        turns.append(Turn(role, _read_blocks(message)))  # type: ignore[arg-type]
        message.drop_rest()
    return join_turns(turns)


def _read_blocks(holder: FieldReader) -> tuple[Part, ...]:
    if holder.is_text("content"):
        text = holder.text("content")
        return (TextPart(text),) if text else ()
    parts: list[Part] = []
    for block in holder.items("content"):
        parts += _read_block(block)
        block.drop_rest()
    return tuple(part for part in parts if not isinstance(part, TextPart) or part.text)


def _read_block(block: FieldReader) -> tuple[Part, ...]:
    match kind := block.needed("type"):
        case "text":
            return (TextPart(block.text("text")),)
        case "image" | "document":
            return _read_source(kind, block)
        case "tool_use":
            arguments = bytes(block.raw("input")).decode() or "{}"
            return (ToolCallPart(block.needed("id"), block.needed("name"), arguments),)
        case "tool_result":
            return (_read_result(block),)
        case "thinking":
            return (ThinkingPart(block.text("thinking"), block.text("signature")),)
        case "redacted_thinking":
            return (ThinkingPart(redacted=block.needed("data")),)
    raise unsupported(block.name("type"), f"the server's format has no content of type `{kind[:40]}`.")


def _read_result(block: FieldReader) -> ToolResultPart:
    parts = []
    for part in _read_blocks(block):
        if not isinstance(part, TextPart | MediaPart):
            raise unsupported(block.name("content"), "a tool result can contain text, images and documents.")
        parts.append(part)
    return ToolResultPart(block.needed("tool_use_id"), tuple(parts), bool(block.flag("is_error")))


def _read_source(kind: str, block: FieldReader) -> tuple[TextPart | MediaPart, ...]:
    """An image or a document. A document with text becomes a text."""
    if (citations := block.inner("citations")) is not None and citations.flag("enabled"):
        raise unsupported(block.name("citations"), "the server does not support citations.")
    source = block.inner("source")
    media: Any = kind
    match source.needed("type") if source is not None else "":
        case "base64" if source is not None:
            media_type = source.text("media_type", PDF if kind == "document" else "")
            return (MediaPart(media, data=source.needed("data"), media_type=media_type),)
        case "url" if source is not None:
            return (MediaPart(media, url=source.needed("url")),)
        case "text" if source is not None:
            return (TextPart(source.needed("data")),)
        case "content" if source is not None:
            inner = _read_blocks(source)
            return tuple(part for part in inner if isinstance(part, TextPart | MediaPart))
        case other:
            raise unsupported(
                block.name("source.type"), f"send the content instead of the source type `{other[:40]}`."
            )


def _read_tool(tool: FieldReader) -> ToolDefinition:
    kind = tool.text("type", "custom")
    if kind != "custom":
        raise unsupported("tools.type", f"the server has no built-in tool `{kind[:40]}`.")
    read = ToolDefinition(
        name=tool.needed("name"),
        description=tool.text("description"),
        schema=bytes(tool.raw("input_schema")),
        strict=tool.flag("strict"),
    )
    tool.drop_rest()
    return read


def _read_choice(reader: FieldReader) -> tuple[ToolChoice | None, bool | None]:
    """The tool choice, and whether parallel calls are allowed."""
    choice = reader.inner("tool_choice")
    if choice is None:
        return None, None
    mode: Any = MODES.get(kind := choice.needed("type"))
    if mode is None:
        raise unsupported("tool_choice.type", f"the type `{kind[:40]}` is unknown.")
    name = choice.needed("name") if mode == "tool" else ""
    alone = choice.flag("disable_parallel_tool_use")
    return ToolChoice(mode, name), None if alone is None else not alone


def _read_thinking(reader: FieldReader) -> tuple[Reasoning | None, bool, bytes]:
    """The reasoning settings, whether the client gets the reasoning, and the schema of the answer."""
    mode: Any = ""
    budget, shown = None, False
    if (thinking := reader.inner("thinking")) is not None:
        if (mode := thinking.needed("type")) not in _THINKING:
            raise unsupported("thinking.type", f"the type `{mode[:40]}` is unknown.")
        budget = thinking.whole("budget_tokens")
        shown = mode != "disabled" and thinking.text("display") != "omitted"
    effort, schema = "", b""
    if (config := reader.inner("output_config")) is not None:
        effort = config.text("effort")
        if (form := config.inner("format")) is not None:
            if form.needed("type") != "json_schema" or not (raw := form.raw("schema")):
                raise unsupported("output_config.format", "send a `json_schema` with a `schema`.")
            schema = bytes(raw)
        config.drop_rest()
    return (Reasoning(effort, mode, budget) if mode or effort else None), shown, schema
