"""Writes Gemini's streams from neutral events, and the parts of its replies.

Format: Gemini API reference, GenerateContentResponse. Each event of a stream is such a response with the next
parts; the last one has the finish reason and the usage. A function call is always complete.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.http.sse import write_event
from bluesminds.wire.conversation import (
    REDACTED,
    ConversationRequest,
    PartClosed,
    PartDelta,
    PartOpened,
    StopReason,
    StreamEvent,
    StreamFailed,
    StreamFinished,
    StreamStarted,
    StreamStopped,
    UsageReported,
)
from bluesminds.wire.gemini_errors import write_gemini_failure
from bluesminds.wire.gemini_signatures import seal
from bluesminds.wire.json_text import NOT_JSON

STOPS: Final[dict[StopReason, str]] = {
    "end": "STOP",
    "sequence": "STOP",
    "pause": "STOP",
    "tool": "STOP",
    "length": "MAX_TOKENS",
    "filter": "SAFETY",
}
MALFORMED: Final = "MALFORMED_FUNCTION_CALL"
_json_object = msgspec.json.Decoder(dict[str, Any])


def write_gemini_usage(usage: Usage) -> dict[str, Any]:
    """Usage in Gemini's format: the tokens of candidates exclude thoughts."""
    input_, output, thoughts = usage.input_tokens or 0, usage.output_tokens or 0, usage.reasoning_tokens or 0
    report = {
        "promptTokenCount": input_,
        "candidatesTokenCount": max(output - thoughts, 0),
        "totalTokenCount": input_ + output,
    }
    if usage.cache_read_tokens is not None:
        report["cachedContentTokenCount"] = usage.cache_read_tokens
    if usage.reasoning_tokens is not None:
        report["thoughtsTokenCount"] = thoughts
    return report


def read_arguments(arguments: str) -> Raw | None:
    """The arguments as they are; None when they are not a JSON object."""
    if not arguments.strip():
        return Raw(b"{}")
    try:
        _json_object.decode(arguments)
    except NOT_JSON:
        return None
    return Raw(arguments.encode())


def write_call(id_: str, name: str, arguments: Raw, signature: str) -> dict[str, Any]:
    """The part of a call."""
    call: dict[str, Any] = {"id": id_} if id_ else {}
    part: dict[str, Any] = {"functionCall": call | {"name": name, "args": arguments}}
    return part | {"thoughtSignature": signature} if signature else part


def write_thought(text: str, signature: str) -> dict[str, Any]:
    """The part of reasoning. A signature without a text belongs to the part before it."""
    part: dict[str, Any] = {"text": text, "thought": True} if text else {"text": ""}
    return part | {"thoughtSignature": signature} if signature else part


def write_redacted(data: str) -> dict[str, Any]:
    """The part of redacted reasoning, for a client."""
    return {"text": "", "thought": True, "thoughtSignature": seal(data, REDACTED)}


def write_response(parts: list[Any], finish: str, head: dict[str, Any]) -> dict[str, Any]:
    """A response with one candidate. SDKs only keep a candidate in their history if it has a part."""
    candidate: dict[str, Any] = {"content": {"parts": parts or [{"text": ""}], "role": "model"}}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate | {"index": 0}], **head}


class GeminiEncoder:
    """Writes the events of a Gemini stream."""

    next_number = 0  # the events are not numbered

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self._head: dict[str, Any] = {}
        self._around: dict[int, tuple[bytes, bytes]] = {}  # part -> what surrounds the text of its deltas
        self._calls: dict[int, tuple[PartOpened, list[str]]] = {}  # with the pieces of their arguments
        self._silent: set[int] = set()  # parts of reasoning without a text so far
        self._malformed = False
        self._stop: StopReason = "end"
        self._usage = NO_USAGE

    def feed(self, event: StreamEvent) -> bytes:
        if type(event) is PartDelta:
            return self._delta(event)
        match event:
            case PartOpened():
                return self._open(event)
            case PartClosed():
                return self._close(event.index, event.signature)
            case StreamStarted():
                self._head = {"modelVersion": event.model, "responseId": event.id}
            case StreamStopped():
                self._stop = event.stop
                return b"".join([self._close(part) for part in [*self._around, *self._calls]])
            case UsageReported():
                self._usage = event.usage or self._usage
            case StreamFailed():
                return write_gemini_failure(event.error)
            case StreamFinished():
                return self._finish()
        return b""

    def _delta(self, delta: PartDelta) -> bytes:
        if (call := self._calls.get(delta.index)) is not None:
            call[1].append(delta.text)
            return b""
        around = self._around.get(delta.index)
        if around is None or not delta.text:
            return b""
        if self._silent:
            self._silent.discard(delta.index)
        return b"".join((around[0], msgspec.json.encode(delta.text), around[1]))

    def _open(self, part: PartOpened) -> bytes:
        if part.kind == "tool":
            self._calls[part.index] = part, []
            return b""
        if part.kind in ("thinking", "redacted") and not self._request.shows_reasoning:
            return b""
        if part.kind == "redacted":
            return self._event([write_redacted(part.data)])
        rest = msgspec.json.encode(self._head)[1:]
        end = b'}],"role":"model"},"index":0}],' + rest + b"\n\n"
        if part.kind == "thinking":
            self._silent.add(part.index)
            end = b',"thought":true' + end
        self._around[part.index] = b'data: {"candidates":[{"content":{"parts":[{"text":', end
        return b""

    def _close(self, index: int, signature: str = "") -> bytes:
        if (call := self._calls.pop(index, None)) is not None:
            return self._write_call(*call)
        shown = self._around.pop(index, None) is not None
        silent = index in self._silent
        self._silent.discard(index)
        if not shown or not signature:
            return b""
        part = write_thought("", seal(signature))
        return self._event([part if silent else part | {"thought": True}])

    def _write_call(self, opened: PartOpened, pieces: list[str]) -> bytes:
        arguments = read_arguments("".join(pieces))
        if arguments is None:
            self._malformed = True
            return b""
        return self._event([write_call(opened.id, opened.name, arguments, seal(opened.data))])

    def _event(self, parts: list[Any], finish: str = "", **more: object) -> bytes:
        return write_event(msgspec.json.encode(write_response(parts, finish, more | self._head)))

    def _finish(self) -> bytes:
        malformed = self._malformed and self._stop != "length"
        finish = MALFORMED if malformed else STOPS[self._stop]
        return self._event([], finish, usageMetadata=write_gemini_usage(self._usage))
