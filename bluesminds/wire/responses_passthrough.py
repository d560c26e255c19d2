"""A running Responses stream of a server that has the format: passed on byte for byte, and measured.

The last event, which has the whole answer and its usage, is held back: the client must not see the end of an
answer before its usage is recorded; nothing after it counts or passes. Comments and events that are not known
pass as they come. An event of the format that is not JSON, or that has no end, does not pass.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.common.values import Usage
from bluesminds.http.sse import event_data, write_event
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.conversation import ConversationRequest
from bluesminds.wire.errors import read_error
from bluesminds.wire.json_text import NOT_JSON, Fields, is_json, read_fields, write_fields
from bluesminds.wire.responses_items import TERMINAL
from bluesminds.wire.responses_objects import ResponseHead, write_responses_usage
from bluesminds.wire.responses_output import (
    CustomCallOutput,
    FunctionCallOutput,
    MessageOutput,
    OutputItem,
    ReasoningOutput,
)
from bluesminds.wire.responses_stream import (
    ResponseBody,
    ResponsesEvent,
    arguments_of,
    decode_responses_event,
    failure_in,
    read_body,
    read_item,
    read_responses_event,
    text_in,
    texts_in,
    usage_in,
)
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.stream_meter import MeteredStage

_MINE: Final = b"response."
_AUDIO: Final = "response.audio.delta"  # sound, in base64


def text_of_item(item: dict[str, Any]) -> str:
    """What was generated of an item."""
    texts = [text_in(item, name) for name in ("name", "input", "code")]
    return "".join([*texts, arguments_of(item), *texts_in(item, "content", "summary")])


class _Progress:
    """An item that is not whole. `raw`: as it was added."""

    __slots__ = ("raw", "texts")

    def __init__(self, raw: Raw) -> None:
        self.raw = raw.copy()
        self.texts: list[str] = []


class ResponsesPassthrough(MeteredStage):
    """The Stage of a Responses stream that needs no translation."""

    def __init__(self, request: RequestFacts) -> None:
        super().__init__(request)
        self._request = request
        self._response = b""  # the object, as the first event has it
        self._open: dict[int, _Progress] = {}
        self._items: dict[int, bytes] = {}  # that are whole
        self._number = -1  # of the latest event

    @property
    def next_number(self) -> int:
        return self._number + 1

    def finish(self) -> bytes:
        """A last event that lacks only its blank line is completed; any other rest is dropped."""
        rest = self._splitter.finish()
        passed = b""
        if rest.strip() and read_responses_event(event_data(rest)) is not None:
            line_end = b"\r\n" if b"\r\n" in rest else b"\r" if rest.endswith(b"\r") else b"\n"
            passed = self._pass(rest.rstrip(b"\r\n") + 2 * line_end)
        tail, self._tail = self._tail, b""
        return passed + tail

    def stop(self) -> bytes:
        """The ends of what is open, and response.incomplete."""
        usage = self.usage
        self._splitter.finish()
        if self._final:
            tail, self._tail = self._tail, b""
            return tail
        self._final = True
        started = b""
        if not self._started:
            head = ResponseHead.of("", self._request.model, ConversationRequest("", ()))
            self._response = bytes(head.write("in_progress"))
            started = self._write("response.created", response=Raw(self._response))
        closed = [self._stop_item(index, item) for index, item in sorted(self._open.items())]
        output = [self._items[index] for index in sorted(self._items)]
        response = _cut_response(self._response, output, usage)
        return b"".join([started, *closed, self._write("response.incomplete", response=response)])

    def _stop_item(self, index: int, progress: _Progress) -> bytes:
        raw = read_item(progress.raw)
        item = _output_item(raw, index)
        if item is None:
            whole = raw | {"status": "incomplete"}
            self._items[index] = msgspec.json.encode(whole)
            return self._write("response.output_item.done", output_index=index, item=whole)
        item.texts = progress.texts
        self._items[index] = msgspec.json.encode(item.write("incomplete"))
        return b"".join([self._write(kind, **fields) for kind, fields in item.closed("incomplete")])

    def _write(self, kind: str, **fields: object) -> bytes:
        self._number += 1
        event = {"type": kind, "sequence_number": self._number, **fields}
        return write_event(msgspec.json.encode(event), kind.encode())

    def _pass(self, event: bytes) -> bytes:
        if self._final:
            return b""
        name, data = name_and_data(event)
        try:
            found = decode_responses_event(data)
        except NOT_JSON:
            return self._pass_odd(event, name, data)
        return self._read(event, name, data, found)

    def _pass_odd(self, event: bytes, name: bytes, data: bytes) -> bytes:
        """An event with an unexpected form."""
        found = read_responses_event(data)
        if found is not None or name == b"error":
            return self._read(event, name, data, found or ResponsesEvent())
        if data.lstrip().startswith(b"[DONE]") or (name.startswith(_MINE) and not is_json(data)):
            return b""
        return event

    def _read(self, event: bytes, name: bytes, data: bytes, found: ResponsesEvent) -> bytes:
        if found.sequence_number >= 0:
            self._number = found.sequence_number
        kind = found.type or name.decode(errors="replace")
        if found.delta is not None and kind.endswith(".delta"):
            if kind != _AUDIO and found.delta:
                self._meter.count(found.delta)
                if (progress := self._open.get(found.output_index)) is not None:
                    progress.texts.append(found.delta)
            return event
        match kind:
            case "response.created":
                self._started = True
                self._response = bytes(found.response)
            case "response.output_item.added":
                self._started = True
                self._open[found.output_index] = _Progress(found.item)
            case "response.output_item.done":
                self._close(found)
            case "error":
                self._error = read_error(200, data)
            case _ if kind.encode() in TERMINAL:
                return self._end(event, kind, found)
        return event

    def _close(self, found: ResponsesEvent) -> None:
        """An item is whole. What came without deltas is counted now."""
        self._started = True
        progress = self._open.pop(found.output_index, None)
        self._items[found.output_index] = bytes(found.item)
        if (progress is None or not progress.texts) and (text := text_of_item(read_item(found.item))):
            self._meter.count(text)

    def _end(self, event: bytes, kind: str, found: ResponsesEvent) -> bytes:
        self._started = self._final = self._ended = True
        self._tail = event
        body = read_body(found.response) or ResponseBody()
        usage, absurd = usage_in(body)
        if usage is not None or absurd:
            self._meter.report(usage)
        if kind == "response.failed":
            body.status = "failed"
            self._error = self._error or failure_in(body)
        return b""


def _cut_response(response: bytes, output: list[bytes], usage: Usage) -> Raw:
    try:
        fields: Fields = read_fields(response)
    except NOT_JSON:
        fields = {}
    changed = {
        "status": Raw(b'"incomplete"'),
        "incomplete_details": Raw(b'{"reason":"max_output_tokens"}'),
        "output": Raw(b"[%b]" % b",".join(output)),
        "usage": Raw(msgspec.json.encode(write_responses_usage(usage))),
    }
    return Raw(write_fields(fields | changed))


def _output_item(raw: dict[str, Any], index: int) -> OutputItem | None:
    """The item as it is written here; None for one of another kind."""
    item: OutputItem
    match raw.get("type"):
        case "message":
            item = MessageOutput("", index)
        case "reasoning":
            item = ReasoningOutput("", index)
        case "function_call":
            item = FunctionCallOutput(
                "", index, text_in(raw, "call_id"), text_in(raw, "name"), text_in(raw, "namespace")
            )
        case "custom_tool_call":
            item = CustomCallOutput(
                "", index, text_in(raw, "call_id"), text_in(raw, "name"), text_in(raw, "namespace")
            )
        case _:
            return None
    item.id = text_in(raw, "id")
    return item
