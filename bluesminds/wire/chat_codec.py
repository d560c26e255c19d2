"""The chat completions codec: writes requests, reads and writes JSON replies.

Format: OpenAI API reference, chat completions. DeepSeek and vLLM use `reasoning_content`; OpenAI's own
servers neither send nor accept it.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.common.values import NO_USAGE
from bluesminds.wire.base import Codec
from bluesminds.wire.chat_encoder import STOPS, ChatEncoder, write_signature
from bluesminds.wire.chat_requests import FILE_NAME, decode_request
from bluesminds.wire.chat_stream import ChatDecoder, call_id, read_signature, read_text, stop_of
from bluesminds.wire.conversation import (
    SAMPLING,
    ConversationReply,
    ConversationRequest,
    EncodedRequest,
    EncodingOptions,
    MediaPart,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolDefinition,
    ToolResultPart,
    Turn,
    effort_of,
    text_of_parts,
    unique,
    unsupported,
    write_sampling,
)
from bluesminds.wire.json_text import NOT_JSON, read_value
from bluesminds.wire.stages import write_usage
from bluesminds.wire.usage import ImplausibleUsage, read_usage

_SAMPLING: Final = {name: name for name in SAMPLING if name != "top_k"}
LONGEST_USER: Final = 64  # characters; OpenAI refuses a longer one


def encode_request(request: ConversationRequest, options: EncodingOptions) -> EncodedRequest:
    dropped = list(request.dropped)
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for turn in request.turns:
        _WRITERS[turn.role](turn, messages, options, dropped)
    body: dict[str, Any] = {"model": options.model, "messages": messages}
    if request.max_output is not None:
        body[options.bound] = request.max_output
    write_sampling(request, options, _SAMPLING, body, dropped)
    if request.stop:
        body["stop"] = request.stop
    if len(request.user) > LONGEST_USER:
        dropped.append("user")
    elif request.user:
        body["user"] = request.user
    _write_tools(request, body)
    if request.response_schema:
        schema: dict[str, Any] = {"name": "response", "schema": Raw(request.response_schema)}
        if request.response_strict is not None:
            schema["strict"] = request.response_strict
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.response_json:
        body["response_format"] = {"type": "json_object"}
    if (reasoning := request.reasoning) is not None:
        if options.reasoning and (effort := effort_of(reasoning)):
            body["reasoning_effort"] = effort
        else:
            dropped.append("effort" if reasoning.effort else "thinking")
    if request.stream:
        body["stream"] = True
        if options.usage:
            body["stream_options"] = {"include_usage": True}
    return EncodedRequest(
        {name: Raw(msgspec.json.encode(value)) for name, value in body.items()}, unique(dropped)
    )


def _write_tools(request: ConversationRequest, body: dict[str, Any]) -> None:
    if not request.tools:
        return
    body["tools"] = [_write_tool(tool) for tool in request.tools]
    choice = request.tool_choice
    if choice is not None and choice.mode == "tool":
        body["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice is not None:
        body["tool_choice"] = choice.mode
    if request.parallel is not None:
        body["parallel_tool_calls"] = request.parallel


def _write_tool(tool: ToolDefinition) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.schema:
        function["parameters"] = Raw(tool.schema)
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _write_user(
    turn: Turn, messages: list[dict[str, Any]], options: EncodingOptions, dropped: list[str]
) -> None:
    """Tool messages can only contain text, so images of results follow in the user's message."""
    content: list[TextPart | MediaPart] = []
    for part in turn.parts:
        if isinstance(part, ToolResultPart):
            texts = [one for one in part.parts if isinstance(one, TextPart)]
            content += [one for one in part.parts if isinstance(one, MediaPart)]
            message = {"role": "tool", "tool_call_id": part.call_id, "content": _write_content(texts)}
            messages.append(message)
            if part.is_error:
                dropped.append("messages.content.is_error")
        elif isinstance(part, TextPart | MediaPart):
            content.append(part)
    if content:
        messages.append({"role": "user", "content": _write_content(content)})


def _write_content(parts: list[Any]) -> str | list[dict[str, Any]]:
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return [_write_part(part) for part in parts]


def _write_part(part: TextPart | MediaPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if part.kind == "image":
        url = part.url or f"data:{part.media_type};base64,{part.data}"
        return {"type": "image_url", "image_url": {"url": url}}
    if part.kind == "audio" and part.data:
        format_ = part.media_type.removeprefix("audio/")
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": format_}}
    if not part.data:
        raise unsupported("messages.content.source.url", "send the content of the document in base64.")
    data = f"data:{part.media_type};base64,{part.data}"
    return {"type": "file", "file": {"filename": FILE_NAME, "file_data": data}}


def _write_assistant(
    turn: Turn, messages: list[dict[str, Any]], options: EncodingOptions, dropped: list[str]
) -> None:
    calls = [part for part in turn.parts if isinstance(part, ToolCallPart)]
    thoughts = [part for part in turn.parts if isinstance(part, ThinkingPart)]
    text = text_of_parts(turn.parts, "\n\n")
    if any(part.signature or part.redacted for part in thoughts):
        dropped.append("messages.content.signature")
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if thought := "".join([part.text for part in thoughts]):
        if options.reasoning_content:
            message["reasoning_content"] = thought
        else:
            dropped.append("messages.content.thinking")
    if calls:
        message["tool_calls"] = [_write_call(call) for call in calls]
    if len(message) > 2 or text:
        messages.append(message)


def _write_call(call: ToolCallPart) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function, **write_signature(call.signature)}


def _write_system(
    turn: Turn, messages: list[dict[str, Any]], options: EncodingOptions, dropped: list[str]
) -> None:
    messages.append({"role": "system", "content": text_of_parts(turn.parts, "\n\n")})


_WRITERS = {"user": _write_user, "assistant": _write_assistant, "system": _write_system}


def decode_reply(body: bytes, request: ConversationRequest) -> ConversationReply:
    try:
        value = read_value(body)
    except NOT_JSON as exc:
        raise ValueError("an answer that is not JSON") from exc
    choices = value.get("choices") if isinstance(value, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(value, dict) or not isinstance(choice, dict) or not isinstance(message, dict):
        raise ValueError("an answer without choices")
    parts: list[Part] = []
    if thought := read_text(message.get("reasoning_content") or message.get("reasoning")):
        parts.append(ThinkingPart(thought))
    refusal = read_text(message.get("refusal"))
    if text := read_text(message.get("content")):
        parts.append(TextPart(text))
    elif refusal:
        parts.append(TextPart(refusal, refusal=True))
    id_ = _text_or(value.get("id"))
    calls = [call for call in message.get("tool_calls") or () if isinstance(call, dict)]
    parts += [_read_reply_call(call, id_, number) for number, call in enumerate(calls)]
    stop, sequence = stop_of(
        choice.get("finish_reason"), choice.get("stop_reason"), request, calls=bool(calls)
    )
    try:
        usage = read_usage(msgspec.json.encode(value["usage"])) if value.get("usage") else None
    except ImplausibleUsage:
        usage = None
    return ConversationReply(
        id=id_,
        model=_text_or(value.get("model")) or request.model,
        parts=tuple(parts),
        stop="filter" if refusal and stop == "end" else stop,
        stop_sequence=sequence,
        usage=usage or NO_USAGE,
    )


def _text_or(value: object) -> str:
    return value if isinstance(value, str) else ""


def _read_reply_call(call: dict[str, Any], reply_id: str, number: int) -> ToolCallPart:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = "{}" if arguments is None else msgspec.json.encode(arguments).decode()
    id_ = _text_or(call.get("id")) or call_id(reply_id, number)
    signature = read_signature(call.get("extra_content"))
    return ToolCallPart(id_, _text_or(function.get("name")), arguments or "{}", signature)


def encode_reply(reply: ConversationReply, request: ConversationRequest) -> bytes:
    calls = [part for part in reply.parts if isinstance(part, ToolCallPart)]
    texts = [part for part in reply.parts if isinstance(part, TextPart)]
    text = "".join([part.text for part in texts if not part.refusal])
    refusal = "".join([part.text for part in texts if part.refusal])
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text or (None if calls or refusal else ""),
        "refusal": refusal or None,
    }
    if request.shows_reasoning and (
        thought := "".join([part.text for part in reply.parts if isinstance(part, ThinkingPart)])
    ):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [_write_call(call) for call in calls]
    finish = "stop" if refusal and reply.stop == "filter" else STOPS[reply.stop]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return msgspec.json.encode(
        {
            "id": reply.id,
            "object": "chat.completion",
            "created": request.created,
            "model": reply.model or request.model,
            "choices": [choice],
            "usage": write_usage(reply.usage),
        }
    )


_NAMES: Final = {"effort": "reasoning_effort"}

CHAT_CODEC = Codec(
    decode_request=decode_request,
    encode_request=encode_request,
    decode_reply=decode_reply,
    encode_reply=encode_reply,
    decoder=ChatDecoder,
    encoder=ChatEncoder,
    names=_NAMES,
)
