"""Forwards a Gemini stream byte for byte, and measures it.

The event that ends the answer is held back until the server has closed the stream, because the client must
not see the end of an answer before its usage is recorded. Servers send errors as JSON without the framing of
an event; they are forwarded unchanged. Events that are not JSON, or have no end, are dropped.
"""

from typing import Any

import msgspec

from bluesminds.common.values import Usage
from bluesminds.http.sse import event_data, write_event
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.gemini_encoder import write_gemini_usage, write_response
from bluesminds.wire.gemini_stream import (
    GeminiChunk,
    decode_gemini_chunk,
    error_of,
    gemini_usage,
    read_gemini_chunk,
)
from bluesminds.wire.json_text import NOT_JSON, read_value
from bluesminds.wire.stages import bare_json
from bluesminds.wire.stream_meter import MeteredStage
from bluesminds.wire.usage import merge_reports


class GeminiPassthrough(MeteredStage):
    """The Stage of a Gemini stream without translation."""

    def __init__(self, request: RequestFacts) -> None:
        super().__init__(request)
        self._model = request.model
        self._reported: Usage | None = None
        self._head: dict[str, Any] = {}
        self._open: set[int] = set()  # candidates that have begun and not finished
        self._closed: set[int] = set()
        self._blocked = False

    @property
    def started(self) -> bool:
        return bool(self._open or self._closed)

    @property
    def finished(self) -> bool:
        return self._final or self._blocked or bool(self._closed and not self._open)

    def finish(self) -> bytes:
        """A last event that lacks only its blank line is completed; any other rest is dropped."""
        rest = self._splitter.finish()
        passed = b""
        if rest.strip():
            if read_gemini_chunk(event_data(rest)) is not None:
                line_end = b"\r\n" if b"\r\n" in rest else b"\r" if rest.endswith(b"\r") else b"\n"
                rest = rest.rstrip(b"\r\n") + 2 * line_end
            passed = self._pass(rest)
        if self.finished and self._error is None:
            self._final = self._ended = True
        tail, self._tail = self._tail, b""
        return passed + tail

    def stop(self) -> bytes:
        usage = self.usage
        self._splitter.finish()
        tail, self._tail = self._tail, b""
        stopped = self.finished
        self._final = True
        if stopped:
            return tail
        head = self._head or {"modelVersion": self._model}
        report = {"usageMetadata": write_gemini_usage(usage)}
        return tail + write_event(msgspec.json.encode(write_response([], "MAX_TOKENS", report | head)))

    def _pass(self, event: bytes) -> bytes:
        if self._final:
            return b""
        data = event_data(event) or bare_json(event)
        try:
            chunk = decode_gemini_chunk(data)
        except NOT_JSON:
            odd = read_gemini_chunk(data)
            if odd is None:
                return event if not data or _is_json(data) else b""
            chunk = odd
        held, self._tail = self._tail, b""
        if (error := error_of(chunk, data)) is not None:
            self._error = error
            return held + event
        self._measure(chunk)
        if self.finished:
            self._tail = event
            return held
        return held + event

    def _measure(self, chunk: GeminiChunk) -> None:
        for candidate in chunk.candidates or ():
            for part in candidate.parts():
                if text := part.generated():
                    self._meter.count(text)
            index = candidate.index or 0
            if candidate.is_finished():
                self._open.discard(index)
                self._closed.add(index)
            elif index not in self._closed:
                self._open.add(index)
        if not self._head and (chunk.response_id or chunk.model_version):
            self._head = {"modelVersion": chunk.model_version, "responseId": chunk.response_id}
        self._blocked = self._blocked or chunk.is_blocked()
        usage, absurd = gemini_usage(chunk)
        if usage is not None:
            self._reported = merge_reports(usage, self._reported)
            self._meter.report(self._reported)
        elif absurd:
            self._meter.report(None)


def _is_json(data: bytes) -> bool:
    try:
        read_value(data)
    except NOT_JSON:
        return False
    return True
