"""A stream of chat or legacy completions that needs no translation: it is forwarded, and measured.

The bytes are only changed in these ways. If the client did not request usage, the usage chunk and the `usage`
of other chunks are removed. `data: [DONE]` is held back, because the client must not see the end of an answer
before its usage is recorded; everything after it is ignored. An event that is not JSON, or that is
incomplete, is removed; MAX_INVALID in a row end the stream with an error. An error in another format is
converted to OpenAI's. Comments and named events are forwarded byte for byte.
"""

import re
from typing import Any, Final, Literal

from msgspec import Struct, json

from bluesminds.common.values import Usage
from bluesminds.http.sse import EventSplitter, event_data, with_data, write_event
from bluesminds.wire import chunks
from bluesminds.wire.base import Format, RequestFacts
from bluesminds.wire.errors import ErrorDetail, is_error_event, read_error, write_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, decode, is_json
from bluesminds.wire.usage import estimate_output, merge_reports, settle_usage

DONE = b"data: [DONE]\n\n"
MAX_LEAD = 64 * 1024  # bytes of a stream that are held back until its first event is complete
MAX_INVALID = 2  # events in a row that are not JSON; one is left out
# Events that a server sends before it knows whether there will be an answer. They have no content.
_PROMISES = frozenset(
    (
        "ping",
        "message_start",
        "content_block_start",
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
    )
)

_NULL_USAGE = (b',"usage":null', b', "usage": null', b', "usage":null')
_NAME = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])event:[ ]?([^\r\n]*)")
_DATA_LINE = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data(?=[:\r\n]|\Z)")
_FIRST_LINE = (b"data:", b"event:", b":", b"id:", b"retry:")
_BOM = b"\xef\xbb\xbf"


def looks_like_events(first: bytes) -> bool | None:
    """Whether a body with this beginning is an event stream, independent of its content type; None: too
    short.
    """
    start = first.removeprefix(_BOM).lstrip(b"\r\n \t")
    if start.startswith(_FIRST_LINE):
        return True
    if (not start and len(first) < MAX_LEAD) or any(field.startswith(start) for field in _FIRST_LINE):
        return None
    return None if _BOM.startswith(first) else False


def event_name(event: bytes) -> bytes:
    found = _NAME.search(event) if b"event:" in event else None
    return b"" if found is None else found[1]


def bare_json(event: bytes) -> bytes:
    """The JSON of an event without its framing, as some servers send errors; b"" for other events."""
    text = event.strip()
    return text if text.startswith(b"{") else b""


def name_and_data(event: bytes) -> tuple[bytes, bytes]:
    """An event's name (b"" if it has none) and its data."""
    if event.startswith(b"event: ") and b"\r" not in event:
        end = event.find(b"\n")
        if event.startswith(b"data: ", end + 1) and event.find(b"\n", end + 7) == len(event) - 2:
            return event[7:end], event[end + 7 : -2]
    return event_name(event), event_data(event)


class Passthrough:
    """The Stage of a stream that needs no translation."""

    next_number = 0  # its events are not numbered

    def __init__(self, format_: Format, request: RequestFacts) -> None:
        self._request = request
        self._object = format_.chunk_object
        self._shows_usage = request.wants_usage
        self._splitter = EventSplitter()
        self._first = b""  # data of the first chunk
        self._invalid = 0  # events in a row that were not JSON
        self._pieces_at_invalid = -1
        self._reported: Usage | None = None
        self._delivered = 0  # bytes of generated text
        self._pieces = 0  # number of choices with generated content
        self._pieces_at_report = 0
        self._absurd = False  # a report was impossible
        self._open: set[int] = set()  # open choices
        self._closed: set[int] = set()
        self._tail = b""
        self._error: ErrorDetail | None = None
        self._final = False
        self._ended = False  # by the server, so that its last report is complete

    @property
    def usage(self) -> Usage:
        return self._settled()[0]

    @property
    def own_output(self) -> int | None:
        return estimate_output(self._delivered, self._pieces, self._request)

    @property
    def implausible(self) -> bool:
        return self._absurd or self._settled()[1]

    @property
    def output(self) -> int:
        reported = self._reported
        if reported is not None and reported.output_tokens and self._has_full_report():
            return reported.output_tokens
        expected = estimate_output(self._delivered, self._pieces, self._request)
        return expected if reported is None else max(expected, reported.output_tokens or 0)

    @property
    def started(self) -> bool:
        return bool(self._open or self._closed)

    @property
    def finished(self) -> bool:
        return self._final or bool(self._closed and not self._open)

    @property
    def final(self) -> bool:
        return self._final

    @property
    def error(self) -> ErrorDetail | None:
        return self._error

    def _has_full_report(self) -> bool:
        """Whether the last report is complete. Before [DONE], text may follow a report."""
        return self._pieces == self._pieces_at_report or (self._ended and not self._absurd)

    def _settled(self) -> tuple[Usage, bool]:
        return settle_usage(
            self._reported,
            self._request,
            delivered=self._delivered,
            pieces=self._pieces,
            complete=self._has_full_report(),
        )

    def feed(self, data: bytes) -> bytes:
        if (
            data.startswith(b"data: ")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and self._splitter.is_empty
            and not self._final
        ):
            return self._pass_data(data, data[6:-2], b"")
        return b"".join([self._pass(event) for event in self._splitter.feed(data)])

    def finish(self) -> bytes:
        """A last event that only lacks its blank line is completed; any other rest is dropped."""
        rest = self._splitter.finish()
        passed = b""
        if rest == b"\r" or rest.endswith((b"\r\r", b"\n\r")):
            passed = self._pass(rest)
        elif rest.strip() and _is_whole(event_data(rest)):
            line_end = b"\r\n" if b"\r\n" in rest else b"\r" if rest.endswith(b"\r") else b"\n"
            passed = self._pass(rest.rstrip(b"\r\n") + 2 * line_end)
        tail, self._tail = self._tail, b""
        return passed + tail

    def stop(self) -> bytes:
        """Finish reason "length" for every open choice, usage if the client requested it, and [DONE]."""
        usage = self.usage
        self._splitter.finish()
        self._final = True
        self._tail = b""
        indexes = sorted(self._open) or ([] if self._closed else [0])
        events = [self._own_chunk([_cut_choice(self._object, index) for index in indexes])] if indexes else []
        self._closed |= self._open
        self._open.clear()
        if self._shows_usage:
            events.append(self._own_chunk([], usage))
        return b"".join([*events, DONE])

    def _own_chunk(self, choices: list[dict[str, object]], usage: Usage | None = None) -> bytes:
        head = _Head()
        if self._first:
            try:
                head = decode(_head, self._first)
            except NOT_JSON:
                pass
        chunk: dict[str, object] = {
            "id": head.id,
            "object": self._object,
            "created": head.created,
            "model": head.model or self._request.model,
            "choices": choices,
        }
        if usage is not None:
            chunk["usage"] = write_usage(usage)
        return write_event(json.encode(chunk))

    def _pass(self, event: bytes) -> bytes:
        if self._final:
            return b""
        # Most servers write one line of data per event.
        if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
            return self._pass_data(event, event[6:-2], b"")
        data = event_data(event)
        if not data.strip():
            # An empty data line would stop OpenAI's SDKs: they read every event's data as JSON.
            return with_data(event, None) if _DATA_LINE.search(event) and not event_name(event) else event
        return self._pass_data(event, data, event_name(event))

    def _pass_data(self, event: bytes, data: bytes, name: bytes) -> bytes:
        try:
            chunk = chunks.decode_chunk(data)
        except NOT_JSON:
            return self._pass_odd(event, data, name)
        choices = chunk.choices
        if choices and chunk.error is ABSENT:
            if chunk.usage is ABSENT:
                if self._count(choices, data) and b'"usage' in data:
                    self._report(chunk, data)
                return event
            if not name and bytes(chunk.usage) == b"null":
                if self._count(choices, data) and data.count(b'"usage') > 1:
                    self._report(chunk, data)
                return event if self._shows_usage else _without_null_usage(event, data)
        return self._read(event, data, name, chunk)

    def _count(self, choices: list[chunks.Choice], data: bytes) -> bool:
        """Count the text of the choices. Whether one of them has finished."""
        finishes = False
        for choice in choices:
            size = chunks.text_of(choice)
            if size >= 0:
                self._delivered += size
                self._pieces += 1
            if choice.finish_reason is None and choice.index in self._open:
                continue
            index = choice.index or 0
            if chunks.is_finished(choice):
                self._open.discard(index)
                self._closed.add(index)
                finishes = True
            elif index not in self._closed:
                self._open.add(index)
                self._first = self._first or data
        return finishes

    def _pass_odd(self, event: bytes, data: bytes, name: bytes) -> bytes:
        if data.lstrip().startswith(b"[DONE]"):
            self._final = self._ended = True
            self._tail = event if data.startswith(b"[DONE]") else DONE
            return b""
        chunk = chunks.read_chunk(data)
        if chunk is not None:
            return self._read(event, data, name, chunk)
        return event if name or is_json(data) else self._drop_invalid()

    def _drop_invalid(self) -> bytes:
        """Leave out an event that is not JSON. After several in a row, the stream ends with an error."""
        in_a_row = self._pieces == self._pieces_at_invalid
        self._invalid = self._invalid + 1 if in_a_row else 1
        self._pieces_at_invalid = self._pieces
        if self._invalid < MAX_INVALID or self.finished:
            return b""
        self._error, self._final = INVALID_EVENTS, True
        return write_event(write_error(INVALID_EVENTS))

    def _read(self, event: bytes, data: bytes, name: bytes, chunk: chunks.Chunk) -> bytes:
        choices = chunk.choices
        if choices:
            self._count(choices, data)
        if (error := chunks.error_in(chunk, name, data)) is not None:
            self._error = error
            return event if is_error_event(data) else write_event(write_error(error))
        self._report(chunk, data)
        usage = bytes(chunk.usage)
        if self._shows_usage or not usage or name:
            return event
        if choices is None and chunk.object not in (None, self._object):
            return event
        if usage == b"null":
            return _without_null_usage(event, data)
        return with_data(event, chunks.without_usage(data) if choices else None)

    def _report(self, chunk: chunks.Chunk, data: bytes) -> None:
        usage, absurd = chunks.usage_of(chunk, data)
        self._absurd = self._absurd or absurd
        if usage is not None:
            self._reported = merge_reports(usage, self._reported)
            self._pieces_at_report = self._pieces


class _EventKind(Struct):
    type: Any = None


class _Head(Struct):
    id: str = "chatcmpl-0"
    created: int = 0
    model: str = ""


_head = json.Decoder(_Head)
_kind = json.Decoder(_EventKind)


def _cut_choice(object_: str, index: int) -> dict[str, object]:
    if object_ == "text_completion":
        return {"index": index, "text": "", "logprobs": None, "finish_reason": "length"}
    return {"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"}


def write_usage(usage: Usage) -> dict[str, object]:
    """In OpenAI's format."""
    written: dict[str, object] = {
        "prompt_tokens": usage.input_tokens or 0,
        "completion_tokens": usage.output_tokens or 0,
        "total_tokens": (usage.input_tokens or 0) + (usage.output_tokens or 0),
    }
    details = {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens}
    if known := {name: count for name, count in details.items() if count is not None}:
        written["prompt_tokens_details"] = known
    if usage.reasoning_tokens is not None:
        written["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return written


def _without_null_usage(event: bytes, data: bytes) -> bytes:
    # The only "usage" there is must be the chunk's own key: inside a string its quotes would be escaped.
    if event.count(b'"usage"') == 1 and b"\\u00" not in event:
        for null in _NULL_USAGE:
            if null in event:
                return event.replace(null, b"")
    return with_data(event, chunks.without_usage(data))


def _is_whole(data: bytes) -> bool:
    return data.startswith(b"[DONE]") or chunks.read_chunk(data) is not None


INVALID_EVENTS: Final = ErrorDetail(
    message="The server sent events that are not JSON.", type="server_error", code="upstream_invalid"
)
Verdict = Literal["answer", "error", "empty"]


class StreamOpening:
    """Reads a stream up to its first event with content: text, reasoning, a call, or the end of the answer.
    Comments, pings and the first events of a response do not count, because servers send them while a request
    is queued, and may fail after them.
    """

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._size = 0
        self.error: ErrorDetail | None = None

    def feed(self, piece: bytes) -> Verdict | None:
        """None: more bytes are needed. "error": see `error`. "empty": the stream ends without an answer.
        Raises sse.EventTooLarge.
        """
        self._size += len(piece)
        for event in self._splitter.feed(piece):
            if (verdict := self._judge(event)) is not None:
                return verdict
        return "answer" if self._size > MAX_LEAD else None

    def finish(self) -> Verdict:
        """The stream has ended."""
        rest = self._splitter.finish()
        return (self._judge(rest) if rest else None) or "empty"

    def _judge(self, event: bytes) -> Verdict | None:
        data = event_data(event)
        if not data.strip():
            return None
        if data.lstrip().startswith(b"[DONE]"):
            return "empty"
        name = event_name(event)
        chunk = chunks.read_chunk(data)
        if chunk is None:
            if name == b"error":
                self.error = read_error(200, data)
            return None if self.error is None else "error"
        self.error = chunks.error_in(chunk, name, data)
        if self.error is not None:
            return "error"
        return "answer" if _has_content(chunk, name, data) else None


def _has_content(chunk: chunks.Chunk, name: bytes, data: bytes) -> bool:
    if chunk.choices is not None:
        return any(chunks.is_finished(one) or chunks.text_of(one) >= 0 for one in chunk.choices)
    if chunk.object in chunks.CHUNK_OBJECTS:
        return False
    kind = decode(_kind, data).type if b'"type"' in data else None
    return (kind if isinstance(kind, str) else name.decode(errors="replace")) not in _PROMISES
