"""Reads streams of the Responses API into the neutral events of a stream.

Format: OpenAI API reference, responses streaming. Some servers send an item whole when it is done, without
the events before: what is missing is taken from there.
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
from bluesminds.wire.errors import ErrorDetail, find_error, read_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, decode
from bluesminds.wire.usage import ImplausibleUsage, read_usage, with_tier

_BETWEEN: Final = "\n\n"  # parts of a summary
_NOTHING: Final[tuple[StreamEvent, ...]] = ()
_DELTAS: Final[dict[str | None, PartKind]] = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "thinking",
    "response.reasoning_text.delta": "thinking",
    "response.reasoning.delta": "thinking",
    "response.function_call_arguments.delta": "tool",
}


class IncompleteDetails(Struct, gc=False):
    reason: str | None = None


class ResponseBody(Struct, gc=False):
    """A Response object, as far as it is read. `output`: items, each an object."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    output: list[dict[str, Any]] | None = None
    incomplete_details: IncompleteDetails | None = None
    usage: Raw = ABSENT
    error: Raw = ABSENT
    service_tier: Any = None


class ResponsesEvent(Struct, gc=False):
    """Any event of the stream."""

    type: str | None = None
    output_index: int = 0
    content_index: int = 0
    summary_index: int = 0
    sequence_number: int = -1
    delta: str | None = None
    item: Raw = ABSENT
    response: Raw = ABSENT


_event = msgspec.json.Decoder(ResponsesEvent)
_body = msgspec.json.Decoder(ResponseBody)
_item = msgspec.json.Decoder(dict[str, Any])
decode_responses_event = _event.decode  # strict: for the ordinary event


def read_responses_event(data: bytes) -> ResponsesEvent | None:
    """None for anything else than an event."""
    try:
        return decode(_event, data)
    except NOT_JSON:
        return None


def read_body(raw: bytes | Raw) -> ResponseBody | None:
    """None for anything else than a response."""
    try:
        return decode(_body, raw)
    except NOT_JSON:
        return None


def read_item(raw: bytes | Raw) -> dict[str, Any]:
    try:
        return decode(_item, raw)
    except NOT_JSON:
        return {}


def usage_in(body: ResponseBody) -> tuple[Usage | None, bool]:
    """What a response reports, and whether it is impossible."""
    if bytes(body.usage) in (b"", b"null"):
        return None, False
    try:
        return with_tier(read_usage(body.usage), body.service_tier), False
    except ImplausibleUsage:
        return None, True


def text_in(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""


def parts_in(item: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The elements of a list, {} for one that is not an object; empty for a value that is not a list."""
    parts = item.get(name)
    if not isinstance(parts, list):
        return []
    return [part if isinstance(part, dict) else {} for part in parts]


def texts_in(item: dict[str, Any], *names: str) -> list[str]:
    """The texts and refusals in the parts of an item."""
    parts = [part for name in names for part in parts_in(item, name)]
    return [text for part in parts if (text := text_in(part, "text") or text_in(part, "refusal"))]


def arguments_of(item: dict[str, Any]) -> str:
    """JSON; some servers write an object."""
    arguments = item.get("arguments")
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def stop_in(body: ResponseBody, *, calls: bool, refused: bool) -> StopReason:
    if body.status == "incomplete":
        reason = body.incomplete_details and body.incomplete_details.reason
        return "filter" if reason == "content_filter" else "length"
    return "tool" if calls else "filter" if refused else "end"


def failure_in(body: ResponseBody) -> ErrorDetail | None:
    """Why a response failed; None for one that did not."""
    if body.status not in ("failed", "cancelled"):
        return None
    found = find_error(msgspec.json.encode({"error": body.error})) if len(body.error) else None
    return found or ErrorDetail(message=f"The response has the status {body.status}.", status=502)


class _OpenPart:
    __slots__ = ("has_text", "index", "kind", "section")

    def __init__(self, index: int, kind: PartKind) -> None:
        self.index = index
        self.kind = kind
        self.section = 0  # of a summary
        self.has_text = False


class ResponsesDecoder:
    """Reads the events of a Responses stream. `skipped`: kinds of items without an equivalent."""

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self.skipped: list[str] = []
        self._parts: dict[tuple[int, int], _OpenPart] = {}  # open, by item and part of its content
        self._seen: set[tuple[int, int]] = set()
        self._finished: set[int] = set()  # items
        self._count = 0
        self._started = False
        self._calls = False
        self._refused = False

    def feed(self, name: bytes, data: bytes) -> Sequence[StreamEvent]:
        try:
            event = decode_responses_event(data)
        except NOT_JSON:
            if name == b"error":
                return (StreamFailed(read_error(200, data)),)
            if (found := read_responses_event(data)) is None:
                return _NOTHING
            event = found
        if (kind := _DELTAS.get(event.type)) is not None:
            return self._delta(kind, event)
        match event.type:
            case "response.created":
                return self._start(read_body(event.response))
            case "response.output_item.added":
                return self._add(event)
            case "response.output_item.done":
                return self._finish(event)
            case "response.completed" | "response.incomplete" | "response.failed":
                return self._end(event)
            case "error":
                return (StreamFailed(read_error(200, data)),)
        return _NOTHING

    def _start(self, body: ResponseBody | None) -> list[StreamEvent]:
        if self._started:
            return []
        self._started = True
        body = body or ResponseBody()
        return [StreamStarted(body.id or "", body.model or self._request.model)]

    def _open(
        self, event: ResponsesEvent, part: PartOpened, events: list[StreamEvent], content: int = 0
    ) -> _OpenPart:
        """The parts of other formats follow one another: what was open has ended."""
        events += self._start(None)
        events += self._close()
        opened = self._parts[event.output_index, content] = _OpenPart(part.index, part.kind)
        self._seen.add((event.output_index, content))
        self._count += 1
        events.append(part)
        return opened

    def _close(self, signature: str = "") -> list[StreamEvent]:
        closed: list[StreamEvent] = [PartClosed(part.index, signature) for part in self._parts.values()]
        self._parts.clear()
        return closed

    def _delta(self, kind: PartKind, event: ResponsesEvent) -> Sequence[StreamEvent]:
        content = event.content_index if kind in ("text", "refusal") else 0
        part = self._parts.get((event.output_index, content))
        if part is not None and part.kind == kind and not event.summary_index and event.delta:
            part.has_text = True
            return (PartDelta(part.index, event.delta),)
        if not event.delta or (part is None and kind == "tool"):
            return _NOTHING
        events: list[StreamEvent] = []
        self._write(kind, event, event.delta, events, content)
        return events

    def _write(
        self, kind: PartKind, event: ResponsesEvent, text: str, events: list[StreamEvent], content: int = 0
    ) -> None:
        """A text that may begin a part, or another section of a summary."""
        part = self._parts.get((event.output_index, content))
        if part is None or part.kind != kind:
            self._refused = self._refused or kind == "refusal"
            part = self._open(event, PartOpened(self._count, kind), events, content)
        if part.has_text and part.section != event.summary_index:
            text = _BETWEEN + text
        part.section, part.has_text = event.summary_index, True
        events.append(PartDelta(part.index, text))

    def _add(self, event: ResponsesEvent) -> Sequence[StreamEvent]:
        """A call that begins before the one before it is whole waits until it is whole itself."""
        item = read_item(event.item)
        events: list[StreamEvent] = []
        if item.get("type") == "function_call" and not self._is_calling:
            self._open_call(event, item, events)
        return events

    @property
    def _is_calling(self) -> bool:
        return any(part.kind == "tool" for part in self._parts.values())

    def _open_call(self, event: ResponsesEvent, item: dict[str, Any], events: list[StreamEvent]) -> _OpenPart:
        self._calls = True
        id_ = text_in(item, "call_id") or text_in(item, "id")
        return self._open(event, PartOpened(self._count, "tool", id_, text_in(item, "name")), events)

    def _finish(self, event: ResponsesEvent) -> Sequence[StreamEvent]:
        """An item is whole."""
        item = read_item(event.item)
        events: list[StreamEvent] = []
        self._finished.add(event.output_index)
        match item.get("type"):
            case "function_call":
                self._finish_call(event, item, events)
            case "message":
                self._finish_message(event, item, events)
            case "reasoning":
                self._finish_reasoning(event, item, events)
            case other:
                self.skipped.append(str(other)[:40])
        if any(index == event.output_index for index, _ in self._parts):
            is_reasoning = item.get("type") == "reasoning"
            events += self._close(text_in(item, "encrypted_content") if is_reasoning else "")
        return events

    def _finish_call(self, event: ResponsesEvent, item: dict[str, Any], events: list[StreamEvent]) -> None:
        part = self._parts.get((event.output_index, 0))
        if part is None and (event.output_index, 0) in self._seen:
            return
        part = part or self._open_call(event, item, events)
        if not part.has_text and (arguments := arguments_of(item)):
            events.append(PartDelta(part.index, arguments))

    def _finish_message(self, event: ResponsesEvent, item: dict[str, Any], events: list[StreamEvent]) -> None:
        for content, part in enumerate(parts_in(item, "content")):
            if (event.output_index, content) not in self._seen:
                kind: PartKind = "refusal" if text_in(part, "refusal") else "text"
                if text := text_in(part, "text") or text_in(part, "refusal"):
                    self._write(kind, event, text, events, content)

    def _finish_reasoning(
        self, event: ResponsesEvent, item: dict[str, Any], events: list[StreamEvent]
    ) -> None:
        if (event.output_index, 0) in self._seen:
            return
        if text := _BETWEEN.join(texts_in(item, "summary") or texts_in(item, "content")):
            self._write("thinking", event, text, events)
        elif text_in(item, "encrypted_content"):
            self._open(event, PartOpened(self._count, "thinking"), events)

    def _end(self, event: ResponsesEvent) -> Sequence[StreamEvent]:
        body = read_body(event.response) or ResponseBody(status=(event.type or "").rpartition(".")[2])
        events: list[StreamEvent] = self._start(body)
        usage, absurd = usage_in(body)
        reported: list[StreamEvent] = [UsageReported(usage)] if usage is not None or absurd else []
        if event.type == "response.failed":
            body.status = "failed"
            return [*events, *reported, StreamFailed(failure_in(body) or ErrorDetail())]
        for number, item in enumerate(body.output or ()):
            if number not in self._finished:
                whole = ResponsesEvent(output_index=number, item=Raw(msgspec.json.encode(item)))
                events += self._finish(whole)
        events += self._close()
        stop = stop_in(body, calls=self._calls, refused=self._refused)
        return [*events, StreamStopped(stop), *reported, StreamFinished()]
