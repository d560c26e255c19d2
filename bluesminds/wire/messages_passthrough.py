"""A messages stream that needs no translation: it is forwarded byte for byte, and measured.

message_stop is held back, because the client must not see the end of an answer before its usage is recorded;
everything after it is ignored. Pings, comments and unknown events are forwarded unchanged. A known event that
is not JSON, or that is incomplete, is removed.
"""

from typing import Final

import msgspec

from bluesminds.common.values import NO_USAGE
from bluesminds.http.sse import event_data
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.conversation import StreamStopped
from bluesminds.wire.errors import read_error
from bluesminds.wire.json_text import NOT_JSON
from bluesminds.wire.messages_encoder import named_event, write_end, write_start
from bluesminds.wire.messages_stream import (
    EventBlock,
    EventDelta,
    MessageEvent,
    MessageUsage,
    decode_event,
    read_event_data,
)
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.stream_meter import MeteredStage
from bluesminds.wire.usage import ImplausibleUsage

_STOP: Final = named_event("message_stop")
_NAMES: Final = frozenset(
    (
        b"message_start",
        b"content_block_start",
        b"content_block_delta",
        b"content_block_stop",
        b"message_delta",
        b"message_stop",
    )
)


def text_of_delta(delta: EventDelta | EventBlock) -> str:
    """The generated text."""
    if isinstance(delta, EventBlock):
        return (delta.name or "") + (delta.text or delta.thinking or "")
    return delta.text or delta.partial_json or delta.thinking or ""


class MessagesPassthrough(MeteredStage):
    """The Stage of a Messages stream that needs no translation."""

    def __init__(self, request: RequestFacts) -> None:
        super().__init__(request)
        self._model = request.model
        self._reports = MessageUsage()
        self._open: set[int] = set()  # blocks

    def finish(self) -> bytes:
        """A last event that only lacks its blank line is completed; any other rest is dropped. If a complete
        answer has no message_stop, it is added.
        """
        rest = self._splitter.finish()
        passed = b""
        if rest.strip() and read_event_data(event_data(rest)) is not None:
            line_end = b"\r\n" if b"\r\n" in rest else b"\r" if rest.endswith(b"\r") else b"\n"
            passed = self._pass(rest.rstrip(b"\r\n") + 2 * line_end)
        if self._stopped and self._error is None and not self._final:
            self._final, self._tail = True, _STOP
        tail, self._tail = self._tail, b""
        return passed + tail

    def stop(self) -> bytes:
        usage = self.usage
        self._splitter.finish()
        self._final, self._tail = True, b""
        if self._stopped:
            return _STOP
        started = b"" if self._started else write_start("", self._model, NO_USAGE)
        closed = [named_event("content_block_stop", index=index) for index in sorted(self._open)]
        self._open.clear()
        return b"".join([started, *closed, write_end(StreamStopped("length"), usage)])

    def _pass(self, event: bytes) -> bytes:
        if self._final:
            return b""
        name, data = name_and_data(event)
        try:
            found = decode_event(data)
        except NOT_JSON:
            return self._pass_odd(event, name, data)
        if found.type == "content_block_delta":
            if found.delta is not None and (text := text_of_delta(found.delta)):
                self._meter.count(text)
            return event
        return self._read(event, name, data, found)

    def _pass_odd(self, event: bytes, name: bytes, data: bytes) -> bytes:
        """Forward or drop an event that has an unexpected form."""
        found = read_event_data(data)
        if found is not None or name == b"error":
            return self._read(event, name, data, found or MessageEvent())
        return b"" if name in _NAMES and not _is_json(data) else event

    def _read(self, event: bytes, name: bytes, data: bytes, found: MessageEvent) -> bytes:
        match found.type:
            case "content_block_start":
                self._started = True
                self._open.add(found.index)
                if (block := found.content_block) is not None and (text := text_of_delta(block)):
                    self._meter.count(text)
            case "content_block_stop":
                self._open.discard(found.index)
            case "message_start":
                self._started = True
                if found.message is not None:
                    self._report(found.message.usage)
            case "message_delta":
                self._report(found.usage)
                if found.delta is not None and found.delta.stop_reason is not None:
                    self._stopped = True
            case "message_stop":
                self._final = self._ended = True
                self._tail = event
                return b""
            case _ if name == b"error" or found.type == "error":
                self._error = read_error(200, data)
        return event

    def _report(self, report: msgspec.Raw) -> None:
        if bytes(report) in (b"", b"null"):
            return
        try:
            usage = self._reports.merge(report)
        except ImplausibleUsage:
            self._meter.report(None)
            return
        if usage is not None:
            self._meter.report(usage)


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except NOT_JSON:
        return False
    return True
