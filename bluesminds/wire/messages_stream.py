"""Reads streams of Anthropic's Messages into the neutral events of a stream.

Format: Anthropic API reference, streaming messages. An event's name is the `type` in its data. Usage is in
message_start and, cumulative, in message_delta; a missing or null count is unchanged.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.values import Usage
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
from bluesminds.wire.errors import read_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, decode, read_value
from bluesminds.wire.messages_encoder import STOPS
from bluesminds.wire.usage import ImplausibleUsage, read_usage

_REASONS: Final[dict[object, StopReason]] = {
    **{reason: stop for stop, reason in STOPS.items()},
    "model_context_window_exceeded": "length",
}
_KINDS: Final[dict[str | None, PartKind]] = {
    "text": "text",
    "thinking": "thinking",
    "redacted_thinking": "redacted",
    "tool_use": "tool",
}
_NOTHING: Final[tuple[StreamEvent, ...]] = ()


def stop_of(reason: object, sequence: object) -> tuple[StopReason, str]:
    stop = _REASONS.get(reason, "end") if isinstance(reason, str) else "end"
    return stop, sequence if stop == "sequence" and isinstance(sequence, str) else ""


class MessageUsage:
    """Merges the reports of a stream, count by count, before they are read."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, Any] = {}

    def merge(self, report: Raw) -> Usage | None:
        """The merged report; None without counts. Raises ImplausibleUsage."""
        try:
            later = read_value(report)
        except NOT_JSON:
            raise ImplausibleUsage from None
        if not isinstance(later, dict):
            raise ImplausibleUsage
        self._counts |= {name: count for name, count in later.items() if count or name not in self._counts}
        return read_usage(msgspec.json.encode(self._counts), cache_beside=True)


class EventDelta(Struct, gc=False):
    """The `delta` of content_block_delta and message_delta."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class EventBlock(Struct, gc=False):
    """The `content_block` of content_block_start."""

    type: str | None = None
    id: str | None = None
    name: str | None = None
    text: str | None = None
    thinking: str | None = None
    data: str | None = None
    signature: str | None = None
    input: Raw = ABSENT


class EventMessage(Struct, gc=False):
    """The `message` of message_start."""

    id: str | None = None
    model: str | None = None
    usage: Raw = ABSENT


class MessageEvent(Struct, gc=False):
    """Any event of the stream."""

    type: str | None = None
    index: int = 0
    delta: EventDelta | None = None
    content_block: EventBlock | None = None
    message: EventMessage | None = None
    usage: Raw = ABSENT


_event = msgspec.json.Decoder(MessageEvent)
decode_event = _event.decode  # strict: for the ordinary event


def read_event_data(data: bytes) -> MessageEvent | None:
    """None if it is not an event."""
    try:
        return decode(_event, data)
    except NOT_JSON:
        return None


class MessagesDecoder:
    """Reads the events of a Messages stream. `skipped`: types of blocks without an equivalent."""

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self.skipped: list[str] = []
        self._parts: dict[int, int] = {}  # block -> part; blocks without an equivalent are left out
        self._kind: dict[int, PartKind] = {}
        self._whole: dict[int, str] = {}  # the input that is in the start of a call
        self._signatures: dict[int, str] = {}
        self._count = 0
        self._usage = MessageUsage()

    def feed(self, name: bytes, data: bytes) -> Sequence[StreamEvent]:
        try:
            event = decode_event(data)
        except NOT_JSON:
            if name == b"error":
                return (StreamFailed(read_error(200, data)),)
            if (found := read_event_data(data)) is None:
                return _NOTHING
            event = found
        if event.type == "content_block_delta":
            return self._delta(event)
        match event.type:
            case "content_block_start":
                return self._start_block(event)
            case "content_block_stop":
                return self._stop_block(event.index)
            case "message_start":
                message = event.message or EventMessage()
                started = StreamStarted(message.id or "", message.model or self._request.model)
                return (started, *self._report(message.usage))
            case "message_delta":
                return self._end(event)
            case "message_stop":
                return (StreamFinished(),)
            case "error":
                return (StreamFailed(read_error(200, data)),)
        return _NOTHING

    def _delta(self, event: MessageEvent) -> Sequence[StreamEvent]:
        part, delta = self._parts.get(event.index), event.delta
        if part is None or delta is None:
            return _NOTHING
        if text := delta.text or delta.partial_json or delta.thinking:
            self._whole.pop(event.index, None)
            return (PartDelta(part, text),)
        if delta.signature:
            self._signatures[event.index] = self._signatures.get(event.index, "") + delta.signature
        return _NOTHING

    def _start_block(self, event: MessageEvent) -> Sequence[StreamEvent]:
        block = event.content_block or EventBlock()
        kind = _KINDS.get(block.type)
        if kind is None:
            self.skipped.append(block.type or "")
            return _NOTHING
        part = self._parts[event.index] = self._count
        self._count += 1
        opened = PartOpened(part, kind, block.id or "", block.name or "", block.data or "")
        if kind == "tool" and bytes(block.input) not in (b"", b"{}", b"null"):
            self._whole[event.index] = bytes(block.input).decode(errors="replace")
        if block.signature:
            self._signatures[event.index] = block.signature
        if kind in ("text", "thinking") and (text := block.text or block.thinking):
            return (opened, PartDelta(part, text))
        return (opened,)

    def _stop_block(self, index: int) -> Sequence[StreamEvent]:
        if (part := self._parts.pop(index, None)) is None:
            return _NOTHING
        closed = PartClosed(part, self._signatures.pop(index, ""))
        if arguments := self._whole.pop(index, ""):
            return (PartDelta(part, arguments), closed)
        return (closed,)

    def _end(self, event: MessageEvent) -> Sequence[StreamEvent]:
        reported = self._report(event.usage)
        if event.delta is None or event.delta.stop_reason is None:
            return reported
        stop, sequence = stop_of(event.delta.stop_reason, event.delta.stop_sequence)
        return (StreamStopped(stop, sequence), *reported)

    def _report(self, report: Raw) -> Sequence[StreamEvent]:
        if bytes(report) in (b"", b"null"):
            return _NOTHING
        try:
            usage = self._usage.merge(report)
        except ImplausibleUsage:
            return (UsageReported(None),)
        return _NOTHING if usage is None else (UsageReported(usage),)
