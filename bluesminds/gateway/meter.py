"""Reads token usage out of what passes by, and passes it on.

A stream is changed in two ways only, and only when the client did not ask for usage itself: the usage chunk
that the gateway forced upstream is taken out, and so is the null `usage` that announces it in the other
chunks. `data: [DONE]` is held back: the client must not see the end of an answer before its usage row is
durable; nothing after it counts or passes. Everything else, unknown events included, passes byte for byte.
"""

from bluesminds.http.sse import EventSplitter, event_data, write_event
from bluesminds.providers import openai
from bluesminds.values import Usage

# As bytes these can only be a JSON key: inside a JSON string the quotes would be escaped.
_NULL_USAGE = (b',"usage":null', b', "usage": null')
_BYTES_PER_TOKEN = 4  # the usual rule of thumb for English text; only used when a server reports nothing


class StreamMeter:
    """One event stream. `feed` returns the bytes to pass on now; `tail` is what was held back for the end."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._splitter = EventSplitter()
        self._clean = True  # nothing half-read is pending
        self.usage: Usage | None = None
        self.events = 0
        self.failed = False  # the server sent an error event
        self.tail = b""

    @property
    def ended(self) -> bool:
        """Whether the server has said [DONE]."""
        return bool(self.tail)

    def feed(self, data: bytes) -> bytes:
        """Raises sse.EventTooLarge."""
        if self._clean and data.endswith(b"\n\n"):
            plain = _without_null_usage(data)
            if (
                b'"usage"' not in plain
                and b'"error"' not in plain
                and b"[DONE]" not in plain
                and not self.tail
            ):
                self.events += data.count(b"\ndata:") + data.startswith(b"data:")
                return data if self._wants_usage else plain
        events = self._splitter.feed(data)
        self._clean = not self._splitter.pending
        return b"".join([self._pass(event) for event in events])

    def finish(self) -> bytes:
        """The server has ended: what is still to be sent, with the held back end last."""
        rest = self._splitter.finish()
        if rest:
            rest = self._pass(rest)
        tail, self.tail = self.tail, b""
        return rest + tail

    def _pass(self, event: bytes) -> bytes:
        data = event_data(event)
        if self.tail:
            return b""
        if data.startswith(b"[DONE]"):
            self.tail = event
            return b""
        if not data:
            return event
        self.events += 1
        if b'"usage"' not in data and b'"error"' not in data:
            return event
        return self._read(event, data)

    def _read(self, event: bytes, data: bytes) -> bytes:
        reading = openai.read_answer(data)
        self.failed = self.failed or reading.failed
        if reading.usage is not None:
            self.usage = reading.usage
        if self._wants_usage:
            return event
        if reading.usage is None:
            return _without_null_usage(event)
        if reading.choices == 0:
            self.events -= 1
            return b""
        return write_event(openai.without_usage(data))


def _without_null_usage(data: bytes) -> bytes:
    for key in _NULL_USAGE:
        data = data.replace(key, b"")
    return data


def estimate(body: bytes, events: int) -> Usage:
    """When the server said nothing: the prompt by its bytes, the completion by its events (one token each,
    as servers stream them).
    """
    return Usage(prompt=-(-len(body) // _BYTES_PER_TOKEN), completion=events, source="estimated")


def estimate_whole(body: bytes, answer: bytes) -> Usage:
    """The same for an answer in one piece, by its bytes."""
    return Usage(
        prompt=-(-len(body) // _BYTES_PER_TOKEN),
        completion=-(-len(answer) // _BYTES_PER_TOKEN),
        source="estimated",
    )
