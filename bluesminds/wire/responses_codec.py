"""The Responses API and the neutral form: writes requests, reads and writes whole responses.

Format: OpenAI API reference, responses. Translated requests are not stored by the server.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.common.values import NO_USAGE
from bluesminds.wire.base import Codec
from bluesminds.wire.chat_codec import LONGEST_USER
from bluesminds.wire.chat_requests import FILE_NAME
from bluesminds.wire.conversation import (
    ConversationReply,
    ConversationRequest,
    EncodedRequest,
    EncodingOptions,
    MediaPart,
    Part,
    PartOpened,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolDefinition,
    ToolResultPart,
    Turn,
    effort_of,
    join_texts,
    text_of_parts,
    unique,
    unsupported,
    write_sampling,
)
from bluesminds.wire.responses_encoder import OutputWriter, ResponsesEncoder, close_item
from bluesminds.wire.responses_objects import ResponseHead, status_of
from bluesminds.wire.responses_requests import decode_request
from bluesminds.wire.responses_stream import (
    ResponsesDecoder,
    arguments_of,
    failure_in,
    parts_in,
    read_body,
    stop_in,
    text_in,
    texts_in,
    usage_in,
)

_SAMPLING: Final = {"temperature": "temperature", "top_p": "top_p"}
_ENCRYPTED: Final = ["reasoning.encrypted_content"]


def encode_request(request: ConversationRequest, options: EncodingOptions) -> EncodedRequest:
    dropped = list(request.dropped)
    items: list[dict[str, Any]] = []
    for turn in request.turns:
        _WRITERS[turn.role](turn, items, options, dropped)
    body: dict[str, Any] = {"model": options.model, "input": items, "store": False}
    if request.system:
        body["instructions"] = request.system
    if request.max_output is not None:
        body["max_output_tokens"] = request.max_output
    if request.stop:
        raise unsupported("stop", "the server's format has no stop sequences.")
    write_sampling(request, options, _SAMPLING, body, dropped)
    if len(request.user) > LONGEST_USER:
        dropped.append("user")
    elif request.user:
        body["safety_identifier"] = request.user
    _write_tools(request, body)
    _write_text(request, body)
    _write_reasoning(request, options, body, dropped)
    if request.stream:
        body["stream"] = True
    return EncodedRequest(
        {name: Raw(msgspec.json.encode(value)) for name, value in body.items()}, unique(dropped)
    )


def _write_tools(request: ConversationRequest, body: dict[str, Any]) -> None:
    if not request.tools:
        return
    body["tools"] = [_write_tool(tool) for tool in request.tools]
    choice = request.tool_choice
    if choice is not None and choice.mode == "tool":
        body["tool_choice"] = {"type": "function", "name": choice.name}
    elif choice is not None:
        body["tool_choice"] = choice.mode
    if request.parallel is not None:
        body["parallel_tool_calls"] = request.parallel


def _write_tool(tool: ToolDefinition) -> dict[str, Any]:
    """Not strict unless the client says so: here strict is the default."""
    written: dict[str, Any] = {"type": "function", "name": tool.name, "strict": bool(tool.strict)}
    if tool.description:
        written["description"] = tool.description
    written["parameters"] = Raw(tool.schema) if tool.schema else None
    return written


def _write_text(request: ConversationRequest, body: dict[str, Any]) -> None:
    if request.response_schema:
        form: dict[str, Any] = {
            "type": "json_schema",
            "name": "response",
            "schema": Raw(request.response_schema),
        }
        if request.response_strict is not None:
            form["strict"] = request.response_strict
        body["text"] = {"format": form}
    elif request.response_json:
        body["text"] = {"format": {"type": "json_object"}}


def _write_reasoning(
    request: ConversationRequest, options: EncodingOptions, body: dict[str, Any], dropped: list[str]
) -> None:
    """Encrypted reasoning comes back with the client's next request. Models that do not reason refuse to
    include it.
    """
    reasoning = request.reasoning
    if reasoning is None:
        return
    if not options.reasoning:
        dropped.append("effort" if reasoning.effort else "thinking")
        return
    said: dict[str, Any] = {}
    if effort := "none" if reasoning.mode == "disabled" else effort_of(reasoning):
        said["effort"] = effort
    if request.shows_reasoning and reasoning.mode not in ("", "disabled"):
        said["summary"] = "auto"
    if said:
        body["reasoning"] = said
        body["include"] = _ENCRYPTED


def _write_user(
    turn: Turn, items: list[dict[str, Any]], options: EncodingOptions, dropped: list[str]
) -> None:
    content: list[TextPart | MediaPart] = []
    for part in turn.parts:
        if isinstance(part, ToolResultPart):
            output = _write_content(part.parts)
            items.append({"type": "function_call_output", "call_id": part.call_id, "output": output})
            if part.is_error:
                dropped.append("messages.content.is_error")
        elif isinstance(part, TextPart | MediaPart):
            content.append(part)
    if content:
        items.append({"type": "message", "role": "user", "content": _write_content(content)})


def _write_content(parts: Sequence[TextPart | MediaPart]) -> str | list[dict[str, Any]]:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(only := parts[0], TextPart):
        return only.text
    return [_write_part(part) for part in parts]


def _write_part(part: TextPart | MediaPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "input_text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    if part.kind == "image":
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    if part.kind == "audio" and part.data:
        format_ = part.media_type.removeprefix("audio/")
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": format_}}
    if part.url:
        return {"type": "input_file", "file_url": url}
    return {"type": "input_file", "filename": FILE_NAME, "file_data": url}


def _write_assistant(
    turn: Turn, items: list[dict[str, Any]], options: EncodingOptions, dropped: list[str]
) -> None:
    for part in turn.parts:
        match part:
            case TextPart():
                content = [{"type": "output_text", "text": part.text}]
                items.append({"type": "message", "role": "assistant", "content": content})
            case ToolCallPart():
                if part.signature:
                    dropped.append("messages.content.signature")
                items.append(
                    {
                        "type": "function_call",
                        "call_id": part.id,
                        "name": part.name,
                        "arguments": part.arguments,
                    }
                )
            case ThinkingPart():
                _write_thinking(part, items, options, dropped)


def _write_thinking(
    part: ThinkingPart, items: list[dict[str, Any]], options: EncodingOptions, dropped: list[str]
) -> None:
    """Reasoning without a signature is another server's, which OpenAI's cannot read."""
    item: dict[str, Any] = {"type": "reasoning", "summary": []}
    if part.text:
        item["summary"] = [{"type": "summary_text", "text": part.text}]
    if sealed := part.signature or part.redacted:
        item["encrypted_content"] = sealed
    elif not options.reasoning_content:
        dropped.append("messages.reasoning_content")
        return
    items.append(item)


def _write_system(
    turn: Turn, items: list[dict[str, Any]], options: EncodingOptions, dropped: list[str]
) -> None:
    text = text_of_parts(turn.parts, "\n\n")
    items.append({"type": "message", "role": "system", "content": text})


_WRITERS = {"user": _write_user, "assistant": _write_assistant, "system": _write_system}


def decode_reply(body: bytes, request: ConversationRequest) -> ConversationReply:
    found = read_body(body)
    if found is None or found.output is None:
        raise ValueError("an answer without output")
    if failure_in(found) is not None:
        raise ValueError("an answer that failed")
    parts: list[Part] = []
    skipped: list[str] = []
    for item in found.output:
        read = _read_item(item)
        if read is None:
            skipped.append(str(item.get("type"))[:40])
        else:
            parts += read
    calls = any(isinstance(part, ToolCallPart) for part in parts)
    refused = any(isinstance(part, TextPart) and part.refusal for part in parts)
    usage, _ = usage_in(found)
    return ConversationReply(
        id=found.id or "",
        model=found.model or request.model,
        parts=join_texts(parts),
        stop=stop_in(found, calls=calls, refused=refused),
        usage=usage or NO_USAGE,
        dropped=unique(skipped),
    )


def _read_item(item: dict[str, Any]) -> list[Part] | None:
    """None for an item without an equivalent."""
    match item.get("type"):
        case "message":
            content = parts_in(item, "content")
            texts = [(text_in(part, "text"), text_in(part, "refusal")) for part in content if part]
            return [TextPart(text or refusal, bool(refusal and not text)) for text, refusal in texts]
        case "function_call":
            id_ = text_in(item, "call_id") or text_in(item, "id")
            return [ToolCallPart(id_, text_in(item, "name"), arguments_of(item) or "{}")]
        case "reasoning":
            text = "\n\n".join(texts_in(item, "summary") or texts_in(item, "content"))
            signature = text_in(item, "encrypted_content")
            return [ThinkingPart(text, signature)] if text or signature else []
    return None


def encode_reply(reply: ConversationReply, request: ConversationRequest) -> bytes:
    """The last item of an answer that was cut is incomplete."""
    head = ResponseHead.of(reply.id, reply.model, request)
    writer = OutputWriter(head.id, request)
    refused = False
    for part in reply.parts:
        match part:
            case TextPart():
                refused = refused or part.refusal
                item = writer.open(PartOpened(0, "refusal" if part.refusal else "text"))
                item.texts.append(part.text)
            case ThinkingPart() if part.redacted:
                writer.open(PartOpened(0, "redacted", data=part.redacted))
            case ThinkingPart():
                item = writer.open(PartOpened(0, "thinking"))
                item.texts.append(part.text)
                close_item(item, part.signature)
            case ToolCallPart():
                opened = PartOpened(0, "tool", part.id, part.name, part.signature)
                writer.sign(opened)
                item = writer.open(opened)
                item.texts.append(part.arguments)
    status = status_of(reply.stop, refused=refused)
    output = [item.write("completed") for item in writer.items]
    if output and status == "incomplete":
        output[-1] = writer.items[-1].write("incomplete")
    return bytes(head.write(status, output, usage=reply.usage, stop=reply.stop))


_NAMES: Final = {
    "messages": "input",
    "effort": "reasoning.effort",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "messages.role": "input.role",
    "messages.reasoning_content": "input.summary",
    "messages.content.thinking": "input.summary",
    "messages.content.signature": "input.encrypted_content",
    "messages.content.input_audio": "input.content.input_audio",
    "messages.content.file.file_data": "input.content.file_data",
    "messages.content.source.url": "input.content.file_url",
    "messages.tool_calls.function.arguments": "input.arguments",
}

RESPONSES_CODEC = Codec(
    decode_request=decode_request,
    encode_request=encode_request,
    decode_reply=decode_reply,
    encode_reply=encode_reply,
    decoder=ResponsesDecoder,
    encoder=ResponsesEncoder,
    names=_NAMES,
)
