"""Reads streams of chat completions into the neutral events of a stream.

Format: OpenAI API reference, chat completions streaming. Every chunk of a tool call has the call's `index`;
the first one also has its id and name.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.values import Usage
from bluesminds.wire import chunks
from bluesminds.wire.conversation import (
    ConversationRequest,
    PartClosed,
    PartDelta,
    PartKind,
    PartOpened,
    StopReason,
    StreamEvent,
    StreamFailed,
    StreamFinished,
    StreamStarted,
    StreamStopped,
    UsageReported,
)
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.json_text import ABSENT, NOT_JSON, read_value
from bluesminds.wire.usage import merge_reports

_REASONS: Final[dict[object, StopReason]] = {
    "length": "length",
    "tool_calls": "tool",
    "function_call": "tool",
    "content_filter": "filter",
}
_MIXED_CALLS: Final = ErrorDetail(
    message="The server sent arguments for a tool call that was complete.",
    type="server_error",
    code="upstream_invalid",
    status=502,
)


def stop_of(
    finish_reason: object, stop_reason: object, request: ConversationRequest, *, calls: bool
) -> tuple[StopReason, str]:
    """Some servers send "stop" after tool calls. `stop_reason` (vLLM) is the stop sequence that was found."""
    stop = _REASONS.get(finish_reason, "end") if isinstance(finish_reason, str) else "end"
    if stop == "end" and calls:
        return "tool", ""
    if stop == "end" and isinstance(stop_reason, str) and stop_reason in request.stop:
        return "sequence", stop_reason
    return stop, ""


def call_id(reply_id: str, number: int) -> str:
    """The id of a call for servers that send none."""
    return f"call_{reply_id}_{number}"


def read_text(content: object) -> str:
    """A text, or the texts in a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join([text for text in texts if isinstance(text, str)])
    return ""


def read_signature(extra: object) -> str:
    """Of a call, as Google's servers write it in its `extra_content`."""
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


class _StreamFunction(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _StreamCall(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _StreamFunction | None = None
    extra_content: Any = None


class _StreamDelta(Struct, gc=False):
    content: str | None = None
    tool_calls: list[_StreamCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _StreamChoice(Struct, gc=False):
    delta: _StreamDelta | None = None
    finish_reason: str | None = None
    stop_reason: Any = None
    index: int | None = 0


class _StreamChunk(Struct, gc=False):
    choices: list[_StreamChoice] | None = None
    id: str | None = None
    model: str | None = None
    usage: Raw = ABSENT
    error: Raw = ABSENT


_chunk = msgspec.json.Decoder(_StreamChunk)
_NOTHING: Final[tuple[StreamEvent, ...]] = ()


def _read_chunk(data: bytes) -> _StreamChunk | None:
    """Read a chunk whose fields have other types than OpenAI's; None if the data is not a JSON object."""
    try:
        value = read_value(data)
    except NOT_JSON:
        return None
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    return _StreamChunk(
        choices=[_read_choice(one) for one in choices if isinstance(one, dict)]
        if isinstance(choices, list)
        else None,
        id=_text_or_none(value.get("id")),
        model=_text_or_none(value.get("model")),
        usage=_raw(value.get("usage")),
        error=_raw(value.get("error")),
    )


def _read_choice(choice: dict[str, Any]) -> _StreamChoice:
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        delta = {}
    content, calls = delta.get("content"), delta.get("tool_calls")
    index = choice.get("index")
    thought = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return _StreamChoice(
        delta=_StreamDelta(
            content=read_text(content) or None,
            tool_calls=[_read_call(call) for call in calls if isinstance(call, dict)]
            if isinstance(calls, list)
            else None,
            reasoning_content=read_text(delta.get("reasoning_content"))
            or "".join([read_text(part.get("thinking")) for part in thought])
            or None,
            reasoning=_text_or_none(delta.get("reasoning")),
            refusal=_text_or_none(delta.get("refusal")),
        ),
        finish_reason=_text_or_none(choice.get("finish_reason")),
        stop_reason=choice.get("stop_reason"),
        index=index if isinstance(index, int) else 0,
    )


def _read_call(call: dict[str, Any]) -> _StreamCall:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments, index = function.get("arguments"), call.get("index")
    if arguments is not None and not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()  # some servers write an object
    return _StreamCall(
        index=index if isinstance(index, int) else None,
        id=_text_or_none(call.get("id")),
        function=_StreamFunction(_text_or_none(function.get("name")), arguments),
        extra_content=call.get("extra_content"),
    )


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _raw(value: object) -> Raw:
    return ABSENT if value is None else Raw(msgspec.json.encode(value))


class _Call:
    """A tool call of a running stream. `pieces`: its arguments so far, of which the first `sent` are sent."""

    __slots__ = ("id", "name", "part", "pieces", "sent", "signature")

    def __init__(self, id_: str, name: str, signature: str) -> None:
        self.id = id_
        self.name = name
        self.signature = signature
        self.part = -1  # its index among the parts, once it is opened
        self.pieces: list[str] = []
        self.sent = 0

    def is_complete(self) -> bool:
        try:
            return isinstance(msgspec.json.decode("".join(self.pieces)), dict)
        except NOT_JSON:
            return False


class ChatDecoder:
    """Reads the events of a chat stream. Parts follow one another: a call whose chunks come between those of
    an earlier one waits until that one is complete.
    """

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self._id = ""
        self._started = False
        self._parts = 0
        self._kind: PartKind | None = None  # of the part that is open
        self._index = -1  # the part that is open
        self._calls: dict[int, _Call] = {}
        self._waiting: list[_Call] = []  # the open one first
        self._refused = False
        self._stopped = False
        self._reported: Usage | None = None

    def feed(self, name: bytes, data: bytes) -> Sequence[StreamEvent]:
        try:
            chunk = _chunk.decode(data)
        except NOT_JSON:
            if data.lstrip().startswith(b"[DONE]"):
                return [*self._closed(), StreamFinished()]
            if (loose := _read_chunk(data)) is None:
                return _NOTHING
            chunk = loose
        choices = chunk.choices
        if choices and self._kind == "text" and not chunk.usage:
            choice = choices[0]
            delta = choice.delta
            if (
                delta is not None
                and delta.content
                and choice.finish_reason is None
                and delta.tool_calls is None
                and delta.reasoning_content is None
                and delta.reasoning is None
                and not chunk.error
            ):
                return (PartDelta(self._index, delta.content),)
        return self._read(name, data, chunk)

    def _read(self, name: bytes, data: bytes, chunk: _StreamChunk) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        plain = chunks.read_chunk(data)
        if plain is not None and (error := chunks.error_in(plain, name, data)) is not None:
            return [StreamFailed(error)]
        for choice in chunk.choices or ():
            if choice.index:
                continue  # one answer was requested
            if not self._started:
                self._started = True
                self._id = chunk.id or ""
                events.append(StreamStarted(self._id, chunk.model or self._request.model))
            if choice.delta is not None and not self._stopped:
                self._read_delta(choice.delta, events)
            if choice.finish_reason not in (None, "", "null") and not self._stopped:
                self._stop(choice, events)
        if plain is not None:
            usage, absurd = chunks.usage_of(plain, data)
            if usage is not None:
                self._reported = merge_reports(usage, self._reported)
                events.append(UsageReported(self._reported))
            elif absurd:
                events.append(UsageReported(None))
        return events

    def _read_delta(self, delta: _StreamDelta, events: list[StreamEvent]) -> None:
        if thought := delta.reasoning_content or delta.reasoning:
            self._write("thinking", thought, events)
        if delta.content:
            self._write("text", delta.content, events)
        if delta.refusal:
            self._refused = True
            self._write("refusal", delta.refusal, events)
        for number, call in enumerate(delta.tool_calls or ()):
            self._read_call(call, number, events)

    def _write(self, kind: PartKind, text: str, events: list[StreamEvent]) -> None:
        if self._kind != kind:
            events += self._closed()
            self._open(PartOpened(self._parts, kind), events)
        events.append(PartDelta(self._index, text))

    def _open(self, part: PartOpened, events: list[StreamEvent]) -> None:
        self._kind, self._index = part.kind, part.index
        self._parts += 1
        events.append(part)

    def _read_call(self, piece: _StreamCall, number: int, events: list[StreamEvent]) -> None:
        index = self._index_of(piece, number)
        call = self._calls.get(index)
        function = piece.function or _StreamFunction()
        arguments = function.arguments or ""
        is_new = call is None
        if call is None:
            id_ = piece.id or call_id(self._id, len(self._calls))
            signature = read_signature(piece.extra_content)
            call = self._calls[index] = _Call(id_, function.name or "", signature)
            self._waiting.append(call)
        elif call not in self._waiting:
            if arguments.strip():
                events.append(StreamFailed(_MIXED_CALLS))
            return
        if arguments:
            call.pieces.append(arguments)
        if call is self._waiting[0]:
            self._send_call(call, events)
        if is_new or (call is self._waiting[0] and arguments.rstrip().endswith("}")):
            while len(self._waiting) > 1 and self._waiting[0].is_complete():
                self._close_call(events)

    def _index_of(self, piece: _StreamCall, number: int) -> int:
        """Some servers write no index: a call with an id is a new one."""
        if piece.index is not None:
            return piece.index
        for index, call in self._calls.items():
            if piece.id and call.id == piece.id:
                return index
        known = len(self._calls)
        return known if piece.id or not known else max(known - 1, number)

    def _send_call(self, call: _Call, events: list[StreamEvent]) -> None:
        """Send everything that is not sent yet."""
        if call.part < 0:
            if self._kind != "tool":
                events += self._close_open()
            call.part = self._parts
            self._open(PartOpened(call.part, "tool", call.id, call.name, call.signature), events)
        events += [PartDelta(call.part, piece) for piece in call.pieces[call.sent :]]
        call.sent = len(call.pieces)

    def _close_call(self, events: list[StreamEvent]) -> None:
        """End the open call; the next one begins."""
        events += self._close_open()
        self._waiting.pop(0)
        if self._waiting:
            self._send_call(self._waiting[0], events)

    def _close_open(self) -> list[StreamEvent]:
        if self._kind is None:
            return []
        self._kind = None
        return [PartClosed(self._index)]

    def _closed(self) -> list[StreamEvent]:
        """Close the open part, and send and close all waiting calls."""
        events: list[StreamEvent] = []
        while self._waiting:
            self._close_call(events)
        return events + self._close_open()

    def _stop(self, choice: _StreamChoice, events: list[StreamEvent]) -> None:
        events += self._closed()
        stop, sequence = stop_of(
            choice.finish_reason, choice.stop_reason, self._request, calls=bool(self._calls)
        )
        self._stopped = True
        events.append(StreamStopped("filter" if self._refused and stop == "end" else stop, sequence))
