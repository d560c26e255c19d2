"""Server-sent events as bytes: split a stream into events, read an event's data, write an event.

The splitter never changes a byte: its outputs joined are its inputs joined. The events do not depend on how
the stream was cut. Lines end with LF, CRLF or CR, and a blank line ends an event (WHATWG HTML, section 9.2).
A blank line that ends with CR waits for the next byte, which may be the LF of the same line end.
"""

import re

MAX_EVENT = 32 * 1024 * 1024  # bytes; image models send a complete image in one event

# A line end followed by a blank line. A final CR is only matched once the next byte is known.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?=[^\n]))")
_LINE_END = re.compile(rb"\r\n|\n|\r(?=[^\n])")
_ANY_LINE_END = re.compile(rb"\r\n|\n|\r")
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+")
_DATA_FIELD = re.compile(rb"(?:\xef\xbb\xbf)?data(?=[:\r\n]|\Z)")
_LONGEST_BLANK_LINE = 4  # bytes
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """One event is longer than the splitter allows; the stream cannot be continued."""


class EventSplitter:
    """Cuts a stream into events, incrementally."""

    __slots__ = ("_limit", "_pending", "_searched")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._searched = 0  # bytes of pending known to hold no event's end

    @property
    def pending(self) -> bytes:
        """Bytes fed and not yet returned."""
        return bytes(self._pending)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is pending."""
        return not self._pending

    def feed(self, data: bytes) -> list[bytes]:
        """The events that data completes, each with its blank line. A lone blank line is a separate event.

        Raises EventTooLarge, after every event before the large one has been returned.
        """
        if self._pending or not data.endswith(b"\n\n") or data.startswith(b"\n") or b"\r" in data:
            return self._split(data)
        if len(data) > self._limit:
            return self._split(data)
        if data.find(b"\n\n") == len(data) - 2:
            return [data]
        if b"\n\n\n" in data:
            return self._split(data)
        return [part + b"\n\n" for part in data[:-2].split(b"\n\n")]

    def finish(self) -> bytes:
        """The bytes left at the end of the stream: part of an event, or a whole one that ends with CR."""
        rest = bytes(self._pending)
        self._pending.clear()
        self._searched = 0
        return rest

    def _split(self, data: bytes) -> list[bytes]:
        buffer = self._pending
        buffer += data
        events = []
        start = 0
        while (end := self._event_end(start)) and end - start <= self._limit:
            events.append(bytes(buffer[start:end]))
            start = end
            self._searched = end
        del buffer[:start]
        if not events and (end or len(buffer) > self._limit):
            raise EventTooLarge(f"an event is longer than {self._limit} bytes")
        self._searched = 0 if end else len(buffer)
        return events

    def _event_end(self, start: int) -> int:
        """The offset after the blank line that ends the event at `start`; 0 when it is not there yet."""
        blank = _LINE_END.match(self._pending, start)
        if blank is None:
            blank = _BLANK_LINE.search(self._pending, max(start, self._searched - _LONGEST_BLANK_LINE))
        return 0 if blank is None else blank.end()


def event_data(event: bytes) -> bytes:
    """The event's data lines joined with LF; b"" when it has none."""
    one_line = event.startswith(b"data: ") and event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2
    if one_line and b"\r" not in event:
        return event[6:-2]
    lines = []
    for line in _ANY_LINE_END.split(event.removeprefix(_BOM)):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)


def with_data(event: bytes, data: bytes | None) -> bytes:
    """The event with its data replaced, or removed (None). Other lines are kept; b"" when no line is left."""
    kept = []
    for line in _LINE.findall(event):
        if not _DATA_FIELD.match(line):
            kept.append(line)
        elif data is not None:
            end = line[len(line.rstrip(b"\r\n")) :]
            kept += [b"data: %b%b" % (part, end) for part in _ANY_LINE_END.split(data)]
            data = None
    return b"".join(kept) if any(line.strip(b"\r\n") for line in kept) else b""


def write_event(data: bytes, name: bytes | None = None) -> bytes:
    """One event; each line of data becomes a data line. Raises ValueError for a name of several lines."""
    if name is None:
        head = b""
    elif b"\n" in name or b"\r" in name:
        raise ValueError("an event's name must be one line")
    else:
        head = b"event: " + name + b"\n"
    if b"\n" in data or b"\r" in data:
        data = b"\ndata: ".join(_ANY_LINE_END.split(data))
    return b"%bdata: %b\n\n" % (head, data)
