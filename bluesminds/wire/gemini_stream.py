"""Converts Gemini's replies and streams to neutral events.

Format: Gemini API reference, GenerateContentResponse. The usage in an event is that of the answer so far. No
event ends a stream: the server closes it after the finish reason.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.values import Usage
from bluesminds.wire.chat_stream import call_id
from bluesminds.wire.conversation import (
    ConversationRequest,
    PartClosed,
    PartDelta,
    PartKind,
    PartOpened,
    StopReason,
    StreamEvent,
    StreamFailed,
    StreamStarted,
    StreamStopped,
    UsageReported,
)
from bluesminds.wire.errors import ErrorDetail, read_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, decode, is_set
from bluesminds.wire.usage import ImplausibleUsage, merge_reports, read_usage

_REASONS: Final[dict[str, StopReason]] = {
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            "SAFETY",
            "RECITATION",
            "LANGUAGE",
            "BLOCKLIST",
            "PROHIBITED_CONTENT",
            "SPII",
            "IMAGE_SAFETY",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "MODEL_ARMOR",
        ),
        "filter",
    ),
}
# The answer is broken, and must not look like a complete one.
_BROKEN: Final = frozenset(
    (
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
    )
)
_UNFINISHED: Final = (None, "", "FINISH_REASON_UNSPECIFIED")
_UNBLOCKED: Final = (None, "", "BLOCK_REASON_UNSPECIFIED", "BLOCKED_REASON_UNSPECIFIED")
_NOTHING: Final[tuple[StreamEvent, ...]] = ()
MEDIA_FIELDS: Final = ("inline_data", "file_data", "executable_code", "code_execution_result")


class GeminiCall(Struct, gc=False):
    name: str | None = None
    id: str | None = None
    args: Raw = ABSENT


class GeminiPart(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: GeminiCall | None = None
    inline_data: Raw = ABSENT
    file_data: Raw = ABSENT
    executable_code: Raw = ABSENT
    code_execution_result: Raw = ABSENT

    def generated(self) -> str:
        """The text in it."""
        call = self.function_call
        if call is None:
            return self.text or ""
        return (call.name or "") + bytes(call.args).decode(errors="replace")

    def is_media(self) -> bool:
        return any(getattr(self, field) for field in MEDIA_FIELDS)


class GeminiContent(Struct, gc=False):
    parts: list[GeminiPart] | None = None


class GeminiCandidate(Struct, gc=False, rename="camel"):
    content: GeminiContent | None = None
    finish_reason: str | None = None
    index: int | None = 0

    def is_finished(self) -> bool:
        return self.finish_reason not in _UNFINISHED

    def parts(self) -> list[GeminiPart]:
        return (self.content.parts or []) if self.content is not None else []


class PromptFeedback(Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class GeminiChunk(Struct, gc=False, rename="camel"):
    """A whole response, or one event of a stream."""

    candidates: list[GeminiCandidate] | None = None
    usage_metadata: Raw = ABSENT
    prompt_feedback: PromptFeedback | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Raw = ABSENT

    def is_blocked(self) -> bool:
        """Whether Gemini refused the request because of its content."""
        feedback = self.prompt_feedback
        return not self.candidates and feedback is not None and feedback.block_reason not in _UNBLOCKED


_chunk = msgspec.json.Decoder(GeminiChunk)
decode_gemini_chunk = _chunk.decode  # strict: for the ordinary event


def read_gemini_chunk(data: bytes) -> GeminiChunk | None:
    """None if the data is not a response."""
    try:
        return decode(_chunk, data)
    except NOT_JSON:
        return None


def gemini_usage(chunk: GeminiChunk) -> tuple[Usage | None, bool]:
    """The report, and whether it is impossible."""
    if not is_set(chunk.usage_metadata):
        return None, False
    try:
        return read_usage(chunk.usage_metadata), False
    except ImplausibleUsage:
        return None, True


def error_of(chunk: GeminiChunk, data: bytes) -> ErrorDetail | None:
    return read_error(200, data) if is_set(chunk.error) else None


class GeminiDecoder:
    """Converts the events of a Gemini stream. `answered`: there was an answer, or a reason for its absence.
    `skipped`: the types of parts without an equivalent.
    """

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self.skipped: list[str] = []
        self.answered = False
        self.stopped = False
        self._id = ""
        self._parts = 0
        self._kind: PartKind | None = None  # of the part that is open
        self._index = -1  # the part that is open
        self._calls = 0
        self._reported: Usage | None = None

    def feed(self, name: bytes, data: bytes) -> Sequence[StreamEvent]:
        try:
            chunk = decode_gemini_chunk(data)
        except NOT_JSON:
            if (found := read_gemini_chunk(data)) is None:
                return _NOTHING
            chunk = found
        if (error := error_of(chunk, data)) is not None:
            return (StreamFailed(error),)
        events: list[StreamEvent] = []
        blocked = chunk.is_blocked()
        if not self.answered and (chunk.candidates or blocked):
            self.answered = True
            self._id = chunk.response_id or ""
            events.append(StreamStarted(self._id, chunk.model_version or self._request.model))
        for candidate in chunk.candidates or ():
            if not candidate.index:  # one answer was asked for
                self._read_candidate(candidate, events)
        self._report(chunk, events)
        if blocked and not self.stopped:
            events += self.stop("filter")
        return events

    def stop(self, reason: StopReason) -> list[StreamEvent]:
        """The end of the answer."""
        self.stopped = True
        return [*self._close(), StreamStopped("tool" if reason == "end" and self._calls else reason)]

    def _read_candidate(self, candidate: GeminiCandidate, events: list[StreamEvent]) -> None:
        if self.stopped:
            return
        for part in candidate.parts():
            self._read_part(part, events)
        reason = candidate.finish_reason
        if reason in _BROKEN:
            message = f"The model ended its answer with {reason}."
            events.append(
                StreamFailed(ErrorDetail(message, "server_error", code="upstream_invalid", status=502))
            )
        elif reason is not None and candidate.is_finished():
            events += self.stop(_REASONS.get(reason, "end"))

    def _read_part(self, part: GeminiPart, events: list[StreamEvent]) -> None:
        signature = part.thought_signature or ""
        if (call := part.function_call) is not None:
            id_ = call.id or call_id(self._id, self._calls)
            self._calls += 1
            events += self._close()
            self._open("tool", events, id_, call.name or "", signature)
            arguments = bytes(call.args).decode(errors="replace")
            events.append(PartDelta(self._index, arguments if is_set(call.args) else "{}"))
            events += self._close()
        elif part.is_media():
            self.skipped += [field for field in MEDIA_FIELDS if getattr(part, field)]
        else:
            self._read_text("thinking" if part.thought else "text", part.text or "", signature, events)

    def _read_text(self, kind: PartKind, text: str, signature: str, events: list[StreamEvent]) -> None:
        if text:
            if self._kind != kind:
                events += self._close()
                self._open(kind, events)
            events.append(PartDelta(self._index, text))
        if signature:
            if self._kind != "thinking":
                events += self._close()
                self._open("thinking", events)
            events += self._close(signature)

    def _open(
        self, kind: PartKind, events: list[StreamEvent], id_: str = "", name: str = "", data: str = ""
    ) -> None:
        self._kind, self._index = kind, self._parts
        self._parts += 1
        events.append(PartOpened(self._index, kind, id_, name, data))

    def _close(self, signature: str = "") -> list[StreamEvent]:
        if self._kind is None:
            return []
        self._kind = None
        return [PartClosed(self._index, signature)]

    def _report(self, chunk: GeminiChunk, events: list[StreamEvent]) -> None:
        usage, absurd = gemini_usage(chunk)
        if usage is not None:
            self._reported = merge_reports(usage, self._reported)
            events.append(UsageReported(self._reported))
        elif absurd:
            events.append(UsageReported(None))
