"""Converts Gemini's format to and from the neutral form: requests and replies.

Format: Gemini API reference, models.generateContent. Models since Gemini 3 support levels of thinking, and
images in the results of functions. They refuse earlier function calls without a signature
(https://ai.google.dev/gemini-api/docs/thought-signatures).
"""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.base import Codec
from bluesminds.wire.conversation import (
    SAMPLING,
    ConversationReply,
    ConversationRequest,
    EncodedRequest,
    EncodingOptions,
    MediaPart,
    Part,
    Reasoning,
    StreamFinished,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Turn,
    join_turns,
    reply_of_events,
    unique,
    write_sampling,
)
from bluesminds.wire.gemini_encoder import (
    MALFORMED,
    STOPS,
    GeminiEncoder,
    read_arguments,
    write_call,
    write_gemini_usage,
    write_redacted,
    write_response,
    write_thought,
)
from bluesminds.wire.gemini_fields import camel_case
from bluesminds.wire.gemini_requests import PDF, decode_request, guess_media_type
from bluesminds.wire.gemini_signatures import seal
from bluesminds.wire.gemini_stream import GeminiDecoder
from bluesminds.wire.json_text import NOT_JSON, read_fields

_OLDER: Final = re.compile(r"gemini-[12]\b")  # models before Gemini 3
_SAMPLING: Final = {name: camel_case(name) for name in SAMPLING}
_GEMINI: Final = "gemini"
_NO_SIGNATURE: Final = "skip_thought_signature_validator"  # Google's value for calls of other models
_MODES: Final = {"auto": "AUTO", "required": "ANY", "none": "NONE", "tool": "ANY"}
_LEVELS: Final = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM"}  # higher ones: HIGH
_BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 8192}  # tokens, as in Google's own translation
_LARGEST_BUDGET: Final = 24_576  # tokens; the maximum of Gemini 2.5 Flash
_SMALLEST_PRO_BUDGET: Final = 128  # tokens; Gemini 2.5 Pro always thinks


def encode_request(request: ConversationRequest, options: EncodingOptions) -> EncodedRequest:
    dropped = list(request.dropped)
    system, turns = _place_system(request, dropped)
    writer = _ContentWriter(options.model, dropped)
    body: dict[str, Any] = {"contents": [writer.write(turn) for turn in join_turns(turns)]}
    if system:
        body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
    _write_tools(request, body, dropped)
    if config := _write_config(request, options, dropped):
        body["generationConfig"] = config
    if request.user:
        dropped.append("user")
    return EncodedRequest(
        {name: Raw(msgspec.json.encode(value)) for name, value in body.items()}, unique(dropped)
    )


def _place_system(request: ConversationRequest, dropped: list[str]) -> tuple[list[str], list[Turn]]:
    """The instructions, and the other turns."""
    system = [request.system] if request.system else []
    turns = []
    for turn in request.turns:
        if turn.role == "system":
            system += [part.text for part in turn.parts if isinstance(part, TextPart)]
            dropped.append("messages.role")
        else:
            turns.append(turn)
    return system, turns


class _ContentWriter:
    """Writes the turns of a conversation for a model. Results contain the name of the function, which is read
    from its call.
    """

    def __init__(self, model: str, dropped: list[str]) -> None:
        self._dropped = dropped
        self._older = _OLDER.search(model) is not None
        self._signs = _GEMINI in model and not self._older
        self._names: dict[str, str] = {}  # of functions, by the id of the call

    def write(self, turn: Turn) -> dict[str, Any]:
        if turn.role == "assistant":
            return {"role": "model", "parts": self._write_answer(turn.parts) or [{"text": ""}]}
        parts: list[dict[str, Any]] = []
        beside: list[dict[str, Any]] = []  # the media of results, for models that take none in them
        for part in turn.parts:
            if isinstance(part, ToolResultPart):
                parts.append(self._write_result(part, beside))
            elif isinstance(part, TextPart):
                parts.append({"text": part.text})
            elif isinstance(part, MediaPart):
                parts.append(_write_media(part))
        results = sum("functionResponse" in part for part in parts)
        return {"role": "user", "parts": [*parts[:results], *beside, *parts[results:]]}

    def _write_answer(self, parts: tuple[Part, ...]) -> list[dict[str, Any]]:
        written: list[dict[str, Any]] = []
        carried = ""  # a signature that belongs to the next call
        for at, part in enumerate(parts):
            follows = parts[at + 1] if at + 1 < len(parts) else None
            if isinstance(part, TextPart):
                written.append({"text": part.text})
            elif isinstance(part, ToolCallPart):
                self._names[part.id] = part.name
                arguments = _arguments(part)
                written.append(write_call(part.id, part.name, arguments, part.signature or carried))
                carried = ""
            elif isinstance(part, ThinkingPart):
                if part.redacted or not part.signature:
                    self._dropped.append("messages.reasoning_content")
                elif part.text:
                    written.append(write_thought(part.text, part.signature))
                elif isinstance(follows, ToolCallPart) and not follows.signature:
                    carried = part.signature
                elif written and "thoughtSignature" not in written[-1]:
                    written[-1]["thoughtSignature"] = part.signature
                else:
                    written.append(write_thought("", part.signature))
        self._sign(written)
        return written

    def _sign(self, written: list[dict[str, Any]]) -> None:
        """The first of several calls has the signature for all of them."""
        calls = [part for part in written if "functionCall" in part]
        if self._signs and calls and not any("thoughtSignature" in call for call in calls):
            calls[0]["thoughtSignature"] = _NO_SIGNATURE

    def _write_result(self, result: ToolResultPart, beside: list[dict[str, Any]]) -> dict[str, Any]:
        text = "\n\n".join([part.text for part in result.parts if isinstance(part, TextPart)])
        media = [_write_media(part) for part in result.parts if isinstance(part, MediaPart)]
        written: dict[str, Any] = {
            "id": result.call_id,
            "name": self._names.get(result.call_id, result.call_id),
            "response": _write_response(text, result.is_error),
        }
        if self._older:
            beside += media
        elif media:
            written["parts"] = media
        return {"functionResponse": written}


def _arguments(call: ToolCallPart) -> Raw:
    arguments = read_arguments(call.arguments)
    if arguments is None:
        name = "messages.tool_calls.function.arguments"
        raise InvalidRequest("invalid_value", f"`{name}` must be a JSON object.", param=name)
    return arguments


def _write_response(text: str, is_error: bool) -> Raw | dict[str, str]:
    """A JSON object is sent as it is, unless it would be read as a text."""
    if not is_error and text.lstrip().startswith("{"):
        try:
            if read_fields(text.encode()).keys().isdisjoint(("output", "result", "error")):
                return Raw(text.encode())
        except NOT_JSON:
            pass
    return {"error" if is_error else "output": text}


def _write_media(part: MediaPart) -> dict[str, Any]:
    if part.data:
        media_type = part.media_type or (PDF if part.kind == "document" else "")
        return {"inlineData": {"mimeType": media_type, "data": part.data}}
    media_type = guess_media_type(part.url) or (PDF if part.kind == "document" else "")
    return {"fileData": {"fileUri": part.url} | ({"mimeType": media_type} if media_type else {})}


def _write_tools(request: ConversationRequest, body: dict[str, Any], dropped: list[str]) -> None:
    if not request.tools:
        return
    declarations = []
    for tool in request.tools:
        declaration: dict[str, Any] = {"name": tool.name}
        if tool.description:
            declaration["description"] = tool.description
        if tool.schema:
            declaration["parametersJsonSchema"] = Raw(tool.schema)
        if tool.strict:
            dropped.append("tools.strict")
        declarations.append(declaration)
    body["tools"] = [{"functionDeclarations": declarations}]
    if (choice := request.tool_choice) is not None:
        body["toolConfig"] = {"functionCallingConfig": _write_choice(choice)}
    if request.parallel is False:
        dropped.append("parallel_tool_calls")


def _write_choice(choice: ToolChoice) -> dict[str, Any]:
    written: dict[str, Any] = {"mode": _MODES[choice.mode]}
    if choice.mode == "tool":
        written["allowedFunctionNames"] = [choice.name]
    return written


def _write_config(
    request: ConversationRequest, options: EncodingOptions, dropped: list[str]
) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if request.max_output is not None:
        config["maxOutputTokens"] = request.max_output
    write_sampling(request, options, _SAMPLING, config, dropped)
    if request.stop:
        config["stopSequences"] = request.stop
    if request.response_schema or request.response_json:
        config["responseMimeType"] = "application/json"
    if request.response_schema:
        config["responseJsonSchema"] = Raw(request.response_schema)
    reasoning = request.reasoning
    if reasoning is not None and not options.reasoning:
        dropped.append("effort" if reasoning.effort else "thinking")
    elif reasoning is not None and (thinking := _write_thinking(reasoning, options.model)):
        if request.shows_reasoning and not _is_off(reasoning):
            thinking["includeThoughts"] = True
        config["thinkingConfig"] = thinking
    return config


def _is_off(reasoning: Reasoning) -> bool:
    return reasoning.effort == "none" or reasoning.mode == "disabled"


def _write_thinking(reasoning: Reasoning, model: str) -> dict[str, Any]:
    """Gemini 3 also supports budgets, but not together with a level."""
    older, pro = _OLDER.search(model) is not None, "-pro" in model
    if _is_off(reasoning):
        if older:
            return {"thinkingBudget": _SMALLEST_PRO_BUDGET if pro else 0}
        return {"thinkingLevel": "LOW" if pro else "MINIMAL"}
    if effort := reasoning.effort:
        if older:
            return {"thinkingBudget": _BUDGETS.get(effort, _LARGEST_BUDGET)}
        return {"thinkingLevel": "LOW" if pro and effort == "minimal" else _LEVELS.get(effort, "HIGH")}
    if reasoning.budget is not None:
        return {"thinkingBudget": min(reasoning.budget, _LARGEST_BUDGET)}
    return {"thinkingBudget": -1}  # the model decides


def decode_reply(body: bytes, request: ConversationRequest) -> ConversationReply:
    decoder = GeminiDecoder(request)
    events = list(decoder.feed(b"", body))
    if not decoder.answered:
        raise ValueError("an answer without candidates")
    if not decoder.stopped:
        events += decoder.stop("end")
    reply = reply_of_events([*events, StreamFinished()])
    return msgspec.structs.replace(reply, dropped=unique(decoder.skipped))


def encode_reply(reply: ConversationReply, request: ConversationRequest) -> bytes:
    """For a client of a translated server."""
    return write_reply(reply, request, seal)


def write_reply(reply: ConversationReply, request: ConversationRequest, sign: Callable[[str], str]) -> bytes:
    """`sign` gives the client's form of a signature. A call whose arguments were cut by the maximum length is
    left out, because they would be wrong.
    """
    parts = []
    finish = STOPS[reply.stop]
    for part in reply.parts:
        if isinstance(part, TextPart):
            parts.append({"text": part.text})
        elif isinstance(part, ThinkingPart) and part.redacted and request.shows_reasoning:
            parts.append(write_redacted(part.redacted))
        elif isinstance(part, ThinkingPart) and request.shows_reasoning:
            parts.append(write_thought(part.text, sign(part.signature)))
        elif isinstance(part, ToolCallPart):
            arguments = read_arguments(part.arguments)
            if arguments is not None:
                parts.append(write_call(part.id, part.name, arguments, sign(part.signature)))
            elif reply.stop != "length":
                finish = MALFORMED
    head = {
        "usageMetadata": write_gemini_usage(reply.usage),
        "modelVersion": reply.model or request.model,
        "responseId": reply.id,
    }
    return msgspec.json.encode(write_response(parts, finish, head))


_NAMES: Final = {
    "messages": "contents",
    "effort": "generationConfig.thinkingConfig.thinkingLevel",
    "thinking": "generationConfig.thinkingConfig",
    **{name: f"generationConfig.{camel_case(name)}" for name in SAMPLING},
    "stop": "generationConfig.stopSequences",
    "max_tokens": "generationConfig.maxOutputTokens",
    "response_format": "generationConfig.responseMimeType",
    "messages.reasoning_content": "contents.parts.thought",
    "messages.content.thinking": "contents.parts.thought",
    "messages.content.signature": "contents.parts.thoughtSignature",
    "messages.content.is_error": "contents.parts.functionResponse.response.error",
    "messages.content.input_audio": "contents.parts.inlineData",
    "messages.content.file.file_data": "contents.parts.inlineData",
    "messages.content.source.url": "contents.parts.fileData",
    "messages.tool_calls.function.arguments": "contents.parts.functionCall.args",
}

GEMINI_CODEC = Codec(
    decode_request=decode_request,
    encode_request=encode_request,
    decode_reply=decode_reply,
    encode_reply=encode_reply,
    decoder=GeminiDecoder,
    encoder=GeminiEncoder,
    keep_alive=b"",
    names=_NAMES,
)
