"""The messages codec: writes requests, reads and writes JSON replies.

Format: Anthropic API reference, messages; the fields follow the types of the anthropic Python SDK. Versions
from 2026-10-21 accept no sampling parameters.
"""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.wire.base import Codec
from bluesminds.wire.chat_requests import CACHE_MARKS
from bluesminds.wire.conversation import (
    SAMPLING,
    CacheLife,
    ConversationReply,
    ConversationRequest,
    EncodedRequest,
    EncodingOptions,
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
    effort_of,
    join_texts,
    join_turns,
    unique,
    unsupported,
)
from bluesminds.wire.json_schema import close_objects
from bluesminds.wire.json_text import NOT_JSON, read_value
from bluesminds.wire.messages_encoder import STOPS, MessagesEncoder, write_message_usage
from bluesminds.wire.messages_requests import MODES, PDF, decode_request
from bluesminds.wire.messages_stream import MessagesDecoder, stop_of
from bluesminds.wire.usage import ImplausibleUsage, read_usage

DEFAULT_MAX_TOKENS: Final = 4096  # if neither the client nor the price sets a maximum
_SMALLEST_BUDGET: Final = 1024  # tokens of reasoning; it must be less than max_tokens
_EMPTY_SCHEMA: Final = b'{"type":"object","properties":{}}'
# Replaces a field of chat completions: messages only have JSON with a schema that names every property.
_JSON_ONLY: Final = "Respond with one JSON object only, without Markdown."
# Models that think with a budget of tokens. Later ones choose it themselves, guided by an effort.
_BUDGETED: Final = re.compile(r"claude-(?:3|[a-z]+-4(?:[-.][015])?(?:-\d{8})?(?![-.]?\d))")
_BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 8192}  # tokens of an effort; a higher one: 24,576
_LARGEST_BUDGET: Final = 24_576
_LEAST_TOP_P: Final = 0.95  # together with thinking
_ID: Final = re.compile("[^a-zA-Z0-9_-]")  # not allowed in the id of a call
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_THINKS: Final = ("enabled", "adaptive")
_CHOICES: Final = {mode: kind for kind, mode in MODES.items()}
_json_object = msgspec.json.Decoder(dict[str, Any])


def encode_request(request: ConversationRequest, options: EncodingOptions) -> EncodedRequest:
    dropped = [name for name in request.dropped if not name.endswith(CACHE_MARKS)]
    system, turns = _place_system(request, options, dropped)
    body: dict[str, Any] = {
        "model": options.model,
        "max_tokens": request.max_output or options.max_output or DEFAULT_MAX_TOKENS,
    }
    if system:
        body["system"] = _write_system("\n\n".join(system), *request.system_cache)
    if request.cache:
        body["cache_control"] = _write_cache(request.cache)
    body["messages"] = [
        {"role": turn.role, "content": _write_blocks(turn.parts)} for turn in join_turns(turns)
    ]
    _write_output(request, options, body, dropped)
    _write_sampling(request, options, body, dropped)
    if any(not sequence.strip() for sequence in request.stop):
        raise unsupported("stop", "a stop sequence must not be only white space.")
    if request.stop:
        body["stop_sequences"] = request.stop
    if request.user:
        body["metadata"] = {"user_id": request.user}
    _write_tools(request, body)
    if request.stream:
        body["stream"] = True
    return EncodedRequest(
        {name: Raw(msgspec.json.encode(value)) for name, value in body.items()}, unique(dropped)
    )


def _place_system(
    request: ConversationRequest, options: EncodingOptions, dropped: list[str]
) -> tuple[list[str], list[Turn]]:
    """The instructions, and the turns. Reasoning without a signature is left out: it is from another server,
    and Anthropic's servers refuse it.
    """
    system = [request.system] if request.system else []
    turns = []
    for turn in request.turns:
        if turn.role == "system" and not options.system_turns:
            system += [part.text for part in turn.parts if isinstance(part, TextPart)]
            dropped.append("messages.role")
            continue
        if any(isinstance(part, ToolCallPart) and part.signature for part in turn.parts):
            dropped.append("messages.content.signature")
        parts = tuple(
            part
            for part in turn.parts
            if not isinstance(part, ThinkingPart) or part.signature or part.redacted
        )
        if len(parts) < len(turn.parts):
            dropped.append("messages.reasoning_content")
        turns.append(Turn(turn.role, parts))
    if request.response_json:
        system.append(_JSON_ONLY)
        dropped.append("response_format")
    return system, turns


def _write_system(text: str, cached: int, cache: CacheLife) -> str | list[dict[str, Any]]:
    """The first characters of the text are `cached`."""
    if not cache:
        return text
    blocks = [{"type": "text", "text": text[:cached], "cache_control": _write_cache(cache)}]
    return [*blocks, {"type": "text", "text": rest}] if (rest := text[cached:].lstrip("\n")) else blocks


def _write_cache(cache: CacheLife) -> dict[str, str]:
    return {"type": "ephemeral"} if cache == "5m" else {"type": "ephemeral", "ttl": cache}


def _write_sampling(
    request: ConversationRequest, options: EncodingOptions, body: dict[str, Any], dropped: list[str]
) -> None:
    """New models refuse temperature together with top_p. Many clients send a top_p of 1; it has no effect.
    Models that think only accept a high top_p.
    """
    thinks = "thinking" in body and body["thinking"]["type"] in _THINKS
    for field in SAMPLING:
        value = getattr(request, field)
        if value is None or (field == "top_p" and value == 1 and request.temperature is not None):
            continue
        if (
            field not in _SAMPLING
            or not options.sampling
            or (thinks and not (field == "top_p" and value >= _LEAST_TOP_P))
        ):
            dropped.append(field)
        elif field == "temperature" and value > 1:  # the highest effort
            dropped.append(field)
            body[field] = 1.0
        else:
            body[field] = value


def _write_tools(request: ConversationRequest, body: dict[str, Any]) -> None:
    if not request.tools:
        return
    body["tools"] = [_write_tool(tool) for tool in request.tools]
    choice = request.tool_choice
    if choice is None and request.parallel is False:
        choice = ToolChoice("auto")
    if choice is None:
        return
    written: dict[str, Any] = {"type": _CHOICES[choice.mode]}
    if choice.mode == "tool":
        written["name"] = choice.name
    if request.parallel is not None and choice.mode != "none":
        written["disable_parallel_tool_use"] = not request.parallel
    body["tool_choice"] = written


def _write_tool(tool: ToolDefinition) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "input_schema": Raw(tool.schema or _EMPTY_SCHEMA)}
    if tool.description:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    if tool.cache:
        written["cache_control"] = _write_cache(tool.cache)
    return written


def _write_output(
    request: ConversationRequest, options: EncodingOptions, body: dict[str, Any], dropped: list[str]
) -> None:
    config: dict[str, Any] = {}
    if request.response_schema:
        config["format"] = {"type": "json_schema", "schema": close_objects(request.response_schema)}
    if (reasoning := request.reasoning) is not None and not options.reasoning:
        dropped.append(_name(reasoning))
    elif reasoning is not None:
        thinking = _write_thinking(request, reasoning, options.model, body["max_tokens"])
        effort = effort_of(reasoning) if _is_adaptive(options.model) else reasoning.effort
        if effort not in ("", "none") and not _BUDGETED.search(options.model):
            config["effort"] = "low" if effort == "minimal" else effort
        if thinking:
            body["thinking"] = thinking
        elif thinking is None and "effort" not in config:
            dropped.append(_name(reasoning))
    if config:
        body["output_config"] = config


def _name(reasoning: Reasoning) -> str:
    return "effort" if reasoning.effort else "thinking"


def _is_adaptive(model: str) -> bool:
    """Whether the model only thinks if the request says so, and then chooses how much."""
    return "claude" in model and _BUDGETED.search(model) is None


def _write_thinking(
    request: ConversationRequest, reasoning: Reasoning, model: str, max_tokens: int
) -> dict[str, Any] | None:
    """The field `thinking`; empty if it is not needed, None if the server would refuse it."""
    mode = "disabled" if reasoning.effort == "none" else reasoning.mode
    if mode in ("disabled", "between_tools"):
        return {"type": mode}
    budgeted = _BUDGETED.search(model) is not None
    if (budgeted or mode or _is_adaptive(model)) and not _may_think(request, budgeted=budgeted):
        return None
    if _is_adaptive(model):
        return {"type": "adaptive"} | ({"display": "summarized"} if request.shows_reasoning else {})
    budget, most = reasoning.budget, max_tokens - 1
    if budgeted and budget is None:
        budget = _BUDGETS.get(reasoning.effort, _LARGEST_BUDGET)
        most = max_tokens // 2  # the rest is for the answer
    if budget is None:
        return {"type": mode} if mode else {}
    budget = min(max(budget, _SMALLEST_BUDGET), most)
    return None if budget < _SMALLEST_BUDGET else {"type": "enabled", "budget_tokens": budget}


def _may_think(request: ConversationRequest, *, budgeted: bool) -> bool:
    """A model that must call a tool does not think. Nor does one with a budget whose last answer called tools
    without thinking.
    """
    if request.tools and (choice := request.tool_choice) is not None and choice.mode in ("required", "tool"):
        return False
    last = next((turn for turn in reversed(request.turns) if turn.role == "assistant"), None)
    if not budgeted or last is None or not any(isinstance(part, ToolCallPart) for part in last.parts):
        return True
    first = last.parts[0]
    return isinstance(first, ThinkingPart) and bool(first.signature or first.redacted)


def _write_blocks(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and isinstance(only := parts[0], TextPart) and not only.cache:
        return only.text
    blocks = []
    for part in parts:
        blocks.append(_write_block(part))
        if isinstance(part, TextPart | MediaPart | ToolResultPart) and part.cache:
            blocks[-1]["cache_control"] = _write_cache(part.cache)
    return blocks


def _write_block(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case MediaPart():
            return _write_media(part)
        case ThinkingPart():
            if part.redacted:
                return {"type": "redacted_thinking", "data": part.redacted}
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case ToolCallPart():
            name = "messages.tool_calls.function.arguments"
            if (arguments := _read_arguments(part.arguments)) is None:
                raise InvalidRequest("invalid_value", f"`{name}` must be a JSON object.", param=name)
            return {"type": "tool_use", "id": _id(part.id), "name": part.name, "input": arguments}
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(part.call_id)}
    if part.parts:
        result["content"] = _write_blocks(part.parts)
    if part.is_error:
        result["is_error"] = True
    return result


def _id(call_id: str) -> str:
    return _ID.sub("_", call_id)


def _read_arguments(arguments: str) -> Raw | None:
    """The arguments unchanged; None if they are not a JSON object."""
    if not arguments.strip():
        return Raw(b"{}")
    try:
        _json_object.decode(arguments)
    except NOT_JSON:
        return None
    return Raw(arguments.encode())


def _write_media(part: MediaPart) -> dict[str, Any]:
    if part.kind == "audio":
        raise unsupported("messages.content.input_audio", "the server does not accept audio.")
    if part.kind == "document" and part.data and part.media_type != PDF:
        raise unsupported(
            "messages.content.file.file_data", f"the server accepts {PDF}, not `{part.media_type[:80]}`."
        )
    source = (
        {"type": "url", "url": part.url}
        if part.url
        else {"type": "base64", "media_type": part.media_type, "data": part.data}
    )
    return {"type": part.kind, "source": source}


def decode_reply(body: bytes, request: ConversationRequest) -> ConversationReply:
    try:
        value = read_value(body)
    except NOT_JSON as exc:
        raise ValueError("an answer that is not JSON") from exc
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(content, list):
        raise ValueError("an answer without content")
    parts: list[Part] = []
    skipped: list[str] = []
    for block in content:
        if isinstance(block, dict):
            if (part := _read_reply_block(block)) is None:
                skipped.append(str(block.get("type"))[:40])
            else:
                parts.append(part)
    stop, sequence = stop_of(value.get("stop_reason"), value.get("stop_sequence"))
    return ConversationReply(
        id=_text_or(value.get("id")),
        model=_text_or(value.get("model")) or request.model,
        parts=join_texts(parts),
        stop=stop,
        stop_sequence=sequence,
        usage=_read_usage(value.get("usage")),
        dropped=unique(skipped),
    )


def _text_or(value: object) -> str:
    return value if isinstance(value, str) else ""


def _read_usage(report: object) -> Usage:
    if not report:
        return NO_USAGE
    try:
        return read_usage(msgspec.json.encode(report), cache_beside=True) or NO_USAGE
    except ImplausibleUsage:
        return NO_USAGE


def _read_reply_block(block: dict[str, Any]) -> Part | None:
    text = _text_or
    match block.get("type"):
        case "text":
            return TextPart(text(block.get("text")))
        case "thinking":
            return ThinkingPart(text(block.get("thinking")), text(block.get("signature")))
        case "redacted_thinking":
            return ThinkingPart(redacted=text(block.get("data")))
        case "tool_use":
            arguments = msgspec.json.encode(block.get("input") or {}).decode()
            return ToolCallPart(text(block.get("id")), text(block.get("name")), arguments)
    return None


def encode_reply(reply: ConversationReply, request: ConversationRequest) -> bytes:
    """A call whose arguments were cut by the maximum length is left out, because its input would be wrong."""
    content = [block for part in reply.parts for block in _write_reply_blocks(part, reply, request)]
    return msgspec.json.encode(
        {
            "id": reply.id,
            "type": "message",
            "role": "assistant",
            "model": reply.model or request.model,
            "content": content,
            "stop_reason": STOPS[reply.stop],
            "stop_sequence": reply.stop_sequence or None,
            "usage": write_message_usage(reply.usage),
        }
    )


def _write_reply_blocks(
    part: Part, reply: ConversationReply, request: ConversationRequest
) -> list[dict[str, Any]]:
    """The signature of a call is in a thinking block before it, as in streams."""
    if isinstance(part, ThinkingPart) and not request.shows_reasoning:
        return []
    if not isinstance(part, ToolCallPart):
        return [_write_block(part)]
    arguments = _read_arguments(part.arguments)
    if arguments is None and reply.stop != "length":
        raise ValueError("a tool call whose arguments are not a JSON object")
    if arguments is None:
        return []
    blocks = []
    if part.signature and request.shows_reasoning:
        blocks.append(_write_block(ThinkingPart(signature=part.signature)))
    return [*blocks, {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}]


_NAMES: Final = {"effort": "output_config.effort"}

MESSAGES_CODEC = Codec(
    decode_request=decode_request,
    encode_request=encode_request,
    decode_reply=decode_reply,
    encode_reply=encode_reply,
    decoder=MessagesDecoder,
    encoder=MessagesEncoder,
    names=_NAMES,
    keep_alive=b'event: ping\ndata: {"type": "ping"}\n\n',
)
