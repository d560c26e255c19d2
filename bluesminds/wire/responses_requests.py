"""Reads requests of the Responses API into the neutral form of a conversation.

Format: OpenAI API reference, responses; the items follow the types of the openai Python SDK, and those that
the Codex CLI sends.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.wire.chat_requests import FILE_NAME, read_cache, read_data_url
from bluesminds.wire.compaction_items import COMPACTION, read_compacted
from bluesminds.wire.conversation import (
    REDACTED,
    SIGNATURE,
    ConversationRequest,
    MediaPart,
    Part,
    Reasoning,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    join_turns,
    unique,
    unsupported,
)
from bluesminds.wire.field_reading import FieldReader
from bluesminds.wire.json_text import Fields, is_set
from bluesminds.wire.requests import largest_bound
from bluesminds.wire.responses_objects import write_echo
from bluesminds.wire.responses_tools import SEARCH, ToolReader, function_name, write_custom_arguments

# Before what another server's format calls a signature, or redacted reasoning. OpenAI's own encrypted
# reasoning has neither, and only OpenAI's servers can read it.
_MEANINGFUL: Final = {
    "previous_response_id": "send the whole conversation as `input`.",
    "conversation": "send the whole conversation as `input`.",
    "prompt": "send the text of the prompt as `instructions`.",
    "moderation": "the server's format has no such field.",
    "top_logprobs": "the server reports no probabilities.",
}
_LOGPROBS: Final = "message.output_text.logprobs"
_AGENT: Final = "client_metadata"  # a field of the Codex CLI
_REASONING: Final = "rs_"  # begins the ids of reasoning, which other servers can do without
_SYSTEM: Final = ("system", "developer")
# What a hosted tool has done is also in the answer that followed.
_FINISHED: Final = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "mcp_list_tools",
    "mcp_call",
)
_ENCRYPTED: Final = "gAAAA"  # how text begins that OpenAI's servers have encrypted (Fernet)
_UNSAID: Final = (  # fields of items that say nothing to a model
    "id",
    "status",
    "phase",
    "created_by",
    "annotations",
    "logprobs",
    "internal_chat_message_metadata_passthrough",
)


def decode_request(fields: Fields, created: int = 0) -> ConversationRequest:
    dropped: list[str] = []
    reader = FieldReader(fields, "", dropped)
    _refuse(reader)
    tools = ToolReader(dropped, lenient=is_set(fields.get(_AGENT)))
    tools.read(reader.items("tools"))
    system, turns = _InputReader(tools, dropped).read(reader)
    choice, allowed = tools.read_choice(reader)
    user = reader.text("safety_identifier") or reader.text("user")
    request = ConversationRequest(
        model=reader.needed("model"),
        turns=turns,
        system="\n\n".join(text for text in (reader.text("instructions"), system) if text),
        tools=allowed,
        client_tools=tools.client_tools,
        tool_choice=choice,
        parallel=reader.flag("parallel_tool_calls"),
        **_read_text_format(reader),
        max_output=largest_bound(("max_output_tokens", reader.whole("max_output_tokens"))),
        temperature=reader.number("temperature"),
        top_p=reader.number("top_p"),
        reasoning=_read_reasoning(reader),
        user=user,
        stream=bool(reader.flag("stream")),
        created=created,
        echo=write_echo(fields),
    )
    reader.drop_rest()
    return msgspec.structs.replace(request, dropped=unique(dropped))


def _refuse(reader: FieldReader) -> None:
    for field, reason in _MEANINGFUL.items():
        if is_set(raw := reader.raw(field)) and bytes(raw) != b"0":
            raise unsupported(field, reason)
    if reader.flag("background"):
        raise unsupported("background", "the server answers at once.")
    if _LOGPROBS in reader.texts("include"):
        raise unsupported("include", "the server reports no probabilities.")
    reader.ignore("stream_options")  # about padding
    if reader.text("truncation", "disabled") != "disabled":
        reader.note("truncation")


def _read_text_format(reader: FieldReader) -> dict[str, Any]:
    text = reader.inner("text")
    if text is None:
        return {}
    text.drop("verbosity")
    form = text.inner("format")
    if form is None or (kind := form.needed("type")) == "text":
        return {}
    if kind == "json_object":
        return {"response_json": True}
    if kind != "json_schema" or not (schema := form.raw("schema")):
        raise unsupported("text.format", "send a `json_schema` with a `schema`.")
    form.drop("description")
    return {"response_schema": bytes(schema), "response_strict": form.flag("strict")}


def _read_reasoning(reader: FieldReader) -> Reasoning | None:
    """A summary need not be asked for: the reasoning is shown as one."""
    reasoning = reader.inner("reasoning")
    if reasoning is None:
        return None
    effort = reasoning.text("effort")
    reasoning.ignore("summary", "generate_summary")
    reasoning.drop_rest()
    return Reasoning(effort) if effort else None


class _InputReader:
    """Reads the items of `input`. Tools in them are added to `tools`."""

    def __init__(self, tools: ToolReader, dropped: list[str]) -> None:
        self._tools = tools
        self._dropped = dropped
        self._system: list[str] = []
        self._turns: list[Turn] = []
        self._readers: dict[str, Callable[[FieldReader], None]] = {
            "message": self._read_message,
            "agent_message": self._read_agent_message,
            "reasoning": self._read_reasoning,
            "function_call": self._read_call,
            "custom_tool_call": self._read_call,
            "tool_search_call": self._read_call,
            "function_call_output": self._read_output,
            "custom_tool_call_output": self._read_output,
            "tool_search_output": self._read_found_tools,
            "additional_tools": self._read_tools,
            **dict.fromkeys(COMPACTION, self._read_compaction),
        }

    def read(self, reader: FieldReader) -> tuple[str, tuple[Turn, ...]]:
        """The instructions that come first, and the turns. Raises InvalidRequest."""
        if reader.is_text("input"):
            return "", join_turns([Turn("user", (TextPart(reader.text("input")),))])
        for item in reader.items("input"):
            self._read_item(item)
            item.ignore(*_UNSAID)
            item.drop_rest()
        return "\n\n".join(self._system), join_turns(self._turns)

    def _read_item(self, item: FieldReader) -> None:
        kind = item.text("type") or ("message" if item.has("role") else "item_reference")
        if kind in _FINISHED:
            self._dropped.append(f"input.{kind}")
            item.ignore()
        elif kind == "item_reference":
            if not item.needed("id").startswith(_REASONING):
                raise unsupported(
                    "input.type",
                    "send the item itself, not its id. Some clients send ids unless `store` is false.",
                )
            self._dropped.append("input.item_reference")
        elif (read := self._readers.get(kind)) is None:
            raise unsupported("input.type", f"`{kind[:40]}` has no equivalent.")
        else:
            read(item)

    def _read_message(self, item: FieldReader) -> None:
        role = item.needed("role")
        if role in _SYSTEM:
            parts = tuple(part for part in _read_content(item, "content") if isinstance(part, TextPart))
            if self._turns:
                self._turns.append(Turn("system", parts))
            else:
                self._system += [part.text for part in parts if part.text]
        elif role in ("user", "assistant"):
            self._turns.append(Turn(role, _read_content(item, "content")))  # type: ignore[arg-type]
        else:
            raise unsupported("input.role", f"there is no role `{role[:40]}`.")

    def _read_agent_message(self, item: FieldReader) -> None:
        """What one agent of the client writes to another. Only OpenAI's servers encrypt it."""
        head = f"Message from {item.text('author')} to {item.text('recipient')}:"
        texts = [head]
        for part in item.items("content"):
            text = part.text("text") or part.text("encrypted_content")
            if text.startswith(_ENCRYPTED):
                part.note("encrypted_content")
            else:
                texts.append(text)
        self._turns.append(Turn("user", (TextPart("\n".join(texts)),)))

    def _answer(self, part: Part) -> None:
        self._turns.append(Turn("assistant", (part,)))

    def _read_reasoning(self, item: FieldReader) -> None:
        """Only the server that encrypted it can read encrypted reasoning: another one's is left out."""
        texts = [part.text("text") for part in (*item.items("summary"), *item.items("content"))]
        text = "\n\n".join(one for one in texts if one)
        sealed = item.text("encrypted_content")
        if sealed.startswith(REDACTED):
            self._answer(ThinkingPart(redacted=sealed.removeprefix(REDACTED)))
        elif sealed.startswith(SIGNATURE):
            self._answer(ThinkingPart(text, sealed.removeprefix(SIGNATURE)))
        else:
            if sealed:
                item.note("encrypted_content")
            if text:
                self._answer(ThinkingPart(text))

    def _read_compaction(self, item: FieldReader) -> None:
        """The gateway's own item: only the server that encrypted another one can read it."""
        found = read_compacted(item.needed("encrypted_content"))
        if found is None:
            reason = "only the server that compacted the conversation can read it."
            raise unsupported("input.encrypted_content", reason)
        if found.system and self._turns:
            self._turns.append(Turn("system", (TextPart(found.system),)))
        elif found.system:
            self._system.append(found.system)
        self._turns.append(Turn("user", (TextPart(found.text),)))

    def _read_call(self, item: FieldReader) -> None:
        id_ = item.text("call_id") or item.needed("id")
        if item.has("input"):
            arguments = write_custom_arguments(item.text("input"))
        elif item.is_text("arguments"):
            arguments = item.text("arguments")
        else:
            arguments = bytes(item.raw("arguments") or Raw(b"{}")).decode()
        item.ignore("execution")
        name = function_name(item.text("name", SEARCH), item.text("namespace"))
        self._answer(ToolCallPart(id_, name, arguments))

    def _read_output(self, item: FieldReader) -> None:
        parts = _read_content(item, "output")
        item.ignore("name")
        self._add_result(item.needed("call_id"), parts)

    def _read_found_tools(self, item: FieldReader) -> None:
        """The model gets the tools that a search found, and as its result their names."""
        names = self._tools.read(item.items("tools"))
        item.ignore("execution")
        text = "Found tools: " + ", ".join(names) if names else "No other tools were found."
        self._add_result(item.text("call_id") or item.needed("id"), (TextPart(text),))

    def _add_result(self, call_id: str, parts: tuple[TextPart | MediaPart, ...]) -> None:
        self._turns.append(Turn("user", (ToolResultPart(call_id, parts),)))

    def _read_tools(self, item: FieldReader) -> None:
        item.ignore("role")
        self._tools.read(item.items("tools"))


def _read_content(holder: FieldReader, field: str) -> tuple[TextPart | MediaPart, ...]:
    if holder.is_text(field):
        text = holder.text(field)
        return (TextPart(text),) if text else ()
    parts = []
    for item in holder.items(field):
        part = _read_part(item)
        parts.append(msgspec.structs.replace(part, cache=cache) if (cache := read_cache(item)) else part)
        item.ignore(*_UNSAID)
        item.drop_rest()
    return tuple(part for part in parts if not isinstance(part, TextPart) or part.text)


def _read_part(item: FieldReader) -> TextPart | MediaPart:
    match kind := item.needed("type"):
        case "input_text" | "output_text" | "text":
            return TextPart(item.text("text"))
        case "refusal":
            return TextPart(item.text("refusal"))
        case "input_image":
            return _read_image(item)
        case "input_file":
            return _read_file(item)
        case "input_audio" if (audio := item.inner("input_audio")) is not None:
            return MediaPart("audio", data=audio.needed("data"), media_type=f"audio/{audio.needed('format')}")
    raise unsupported(item.name("type"), f"`{kind[:40]}` has no equivalent.")


def _read_image(item: FieldReader) -> TextPart | MediaPart:
    if item.text("file_id"):
        raise unsupported(item.name("file_id"), "send the image itself as `image_url`.")
    if (detail := item.text("detail")) and detail != "auto":
        item.note("detail")
    return read_data_url("image", item.needed("image_url"), item.name("image_url"))


def _read_file(item: FieldReader) -> TextPart | MediaPart:
    if item.text("file_id"):
        raise unsupported(item.name("file_id"), "send the file's content as `file_data`.")
    if item.text("filename", FILE_NAME) != FILE_NAME:
        item.note("filename")
    if url := item.text("file_url"):
        return MediaPart("document", url=url)
    return read_data_url("document", item.needed("file_data"), item.name("file_data"))
