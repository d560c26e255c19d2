"""Writes streams of the Responses API from the neutral events of a stream.

Format: OpenAI API reference, responses streaming. An event's name is the `type` in its data, and its
`sequence_number` counts from 0. The last event has the whole answer.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from bluesminds.common.values import NO_USAGE
from bluesminds.http.sse import write_event
from bluesminds.wire.conversation import (
    REDACTED,
    SIGNATURE,
    ConversationRequest,
    PartClosed,
    PartDelta,
    PartOpened,
    StreamEvent,
    StreamFailed,
    StreamFinished,
    StreamStarted,
    StreamStopped,
    UsageReported,
)
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.responses_errors import write_error_event
from bluesminds.wire.responses_objects import ResponseHead, ResponseStatus, status_of
from bluesminds.wire.responses_output import (
    FunctionCallOutput,
    ItemStatus,
    MessageOutput,
    OutputEvent,
    OutputItem,
    ReasoningOutput,
    call_output,
    text_output,
)
from bluesminds.wire.responses_tools import client_tools_by_name

_ILLEGAL: Final = re.compile(r"[^A-Za-z0-9_-]")  # what an id must not have


class OutputWriter:
    """Makes the items of one answer. `id_`: the answer's."""

    def __init__(self, id_: str, request: ConversationRequest) -> None:
        self._id = _ILLEGAL.sub("_", id_.removeprefix("resp_"))[:64]
        self._tools = client_tools_by_name(request)
        self.items: list[OutputItem] = []

    def sign(self, call: PartOpened) -> OutputItem | None:
        """An item of reasoning with the signature of a call, which has no place for it; None without one."""
        if call.kind != "tool" or not call.data:
            return None
        item = ReasoningOutput(self._id, len(self.items), SIGNATURE + call.data)
        self.items.append(item)
        return item

    def open(self, part: PartOpened) -> OutputItem:
        index = len(self.items)
        if part.kind == "tool":
            item = call_output(self._id, index, part.id, part.name, self._tools.get(part.name))
        elif part.kind == "redacted":
            item = ReasoningOutput(self._id, index, REDACTED + part.data)
        else:
            item = text_output(self._id, index, part.kind)
        self.items.append(item)
        return item


def close_item(item: OutputItem, signature: str) -> None:
    """The part of an item has ended."""
    if signature and isinstance(item, ReasoningOutput):
        item.encrypted = SIGNATURE + signature
    if isinstance(item, FunctionCallOutput) and not item.text:
        item.texts.append("{}")  # clients read the arguments as JSON


class _Open:
    """An item whose end is not written. `part`: the last part that it has; `around`: what surrounds the text
    of its deltas.
    """

    __slots__ = ("around", "ended", "item", "part")

    def __init__(self, item: OutputItem, part: int) -> None:
        self.item = item
        self.part = part
        self.ended = False
        self.around = b""


class ResponsesEncoder:
    """Writes the events of a Responses stream. An item ends when the next one begins: only then is it known
    whether it is complete, and neighbouring texts are one message.
    """

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self._head = ResponseHead.of("", "", request)
        self._writer = OutputWriter("", request)
        self._number = 0
        self._open: dict[int, _Open] = {}  # by part
        self._status: dict[int, ItemStatus] = {}  # of items that have ended
        self._stopped = StreamStopped("end")
        self._usage = NO_USAGE

    @property
    def next_number(self) -> int:
        return self._number

    def feed(self, event: StreamEvent) -> bytes:
        if type(event) is PartDelta:
            return self._delta(event)
        match event:
            case PartOpened():
                return self._open_part(event)
            case PartClosed():
                return self._end_part(event)
            case StreamStarted():
                return self._begin(event)
            case StreamStopped():
                self._stopped = event
                cut = status_of(event.stop, refused=self._refused) == "incomplete"
                return self._close(list(self._open.values()), "incomplete" if cut else "completed")
            case UsageReported():
                self._usage = event.usage or self._usage
            case StreamFailed():
                return self._fail(event.error)
            case StreamFinished():
                stop = self._stopped.stop
                return self._end(status_of(stop, refused=self._refused))
        return b""

    @property
    def _refused(self) -> bool:
        return any(isinstance(item, MessageOutput) and item.refusal for item in self._writer.items)

    def _begin(self, started: StreamStarted) -> bytes:
        self._head = ResponseHead.of(started.id, started.model, self._request)
        self._writer = OutputWriter(self._head.id, self._request)
        response = self._head.write("in_progress")
        return self._write("response.created", response=response) + self._write(
            "response.in_progress", response=response
        )

    def _delta(self, event: PartDelta) -> bytes:
        open_ = self._open.get(event.index)
        if open_ is None or not event.text:
            return b""
        item = open_.item
        began = b"" if item.texts else self._write_all(item.began())
        item.texts.append(event.text)
        if not item.delta_type:
            return began
        if not open_.around:
            open_.around = _around(item)
        number = self._number
        self._number += 1
        return b'%b%b%b,"sequence_number":%d}\n\n' % (
            began,
            open_.around,
            msgspec.json.encode(event.text),
            number,
        )

    def _open_part(self, part: PartOpened) -> bytes:
        ended = [one for one in self._open.values() if one.ended]
        kind = part.kind
        if kind in ("text", "refusal") and ended and _continues(ended[-1].item, refusal=kind == "refusal"):
            last = ended.pop()
            closed = self._close(ended, "completed")
            del self._open[last.part]
            last.part, last.ended = part.index, False
            self._open[part.index] = last
            return closed
        closed = self._close(ended, "completed")
        if (signature := self._writer.sign(part)) is not None:
            self._status[signature.index] = "completed"
            closed += self._write_all((*signature.opened(), *signature.closed("completed")))
        item = self._writer.open(part)
        self._open[part.index] = _Open(item, part.index)
        return closed + self._write_all(item.opened())

    def _end_part(self, event: PartClosed) -> bytes:
        if (open_ := self._open.get(event.index)) is None:
            return b""
        open_.ended = True
        missing = isinstance(open_.item, FunctionCallOutput) and not open_.item.texts
        delta = self._delta(PartDelta(event.index, "{}")) if missing else b""
        close_item(open_.item, event.signature)
        return delta

    def _close(self, items: Iterable[_Open], last: ItemStatus) -> bytes:
        """The ends of items. `last`: the status of the last one."""
        items = list(items)
        written = []
        for open_ in items:
            del self._open[open_.part]
            status = last if open_ is items[-1] else "completed"
            written.append(self._write_all(open_.item.closed(status)))
            self._status[open_.item.index] = status
        return b"".join(written)

    def _fail(self, error: ErrorDetail) -> bytes:
        event = write_error_event(error, self._number)
        self._number += 1
        response = self._head.write("failed", self._output(), usage=self._usage, error=error)
        return event + self._write("response.failed", response=response)

    def _end(self, status: ResponseStatus) -> bytes:
        response = self._head.write(status, self._output(), usage=self._usage, stop=self._stopped.stop)
        return self._write(f"response.{status}", response=response)

    def _output(self) -> list[dict[str, Any]]:
        return [item.write(self._status.get(item.index, "incomplete")) for item in self._writer.items]

    def _write_all(self, events: Iterable[OutputEvent]) -> bytes:
        return b"".join([self._write(kind, **fields) for kind, fields in events])

    def _write(self, kind: str, **fields: object) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return write_event(msgspec.json.encode(event), kind.encode())


def _continues(item: OutputItem, *, refusal: bool) -> bool:
    return isinstance(item, MessageOutput) and item.refusal is refusal


def _around(item: OutputItem) -> bytes:
    """An event that brings more text, up to its text."""
    head = msgspec.json.encode({"type": item.delta_type, **item.place})[:-1]
    return b'event: %b\ndata: %b,"delta":' % (item.delta_type.encode(), head)
