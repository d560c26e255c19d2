"""Reads token usage out of what passes by, and passes it on.

A stream is changed in two ways only, and only when the client did not ask for usage itself: the usage chunk
that the gateway forced upstream is taken out, and so is the top-level `usage` of the other chunks. `data:
[DONE]` is held back: the client must not see the end of an answer before its usage row is durable; nothing
after it counts or passes. Everything else, named events and any that are no chat chunk, passes byte for byte.
"""

from collections.abc import Callable

from msgspec import structs

from bluesminds.common.values import Usage
from bluesminds.http.sse import EventSplitter, event_data, is_named, with_data
from bluesminds.providers import openai

_NULL_USAGE = (b',"usage":null', b', "usage": null')
_SMALL_BODY = 4096  # bytes; not worth a closer look
_SMALL_MEDIA = 1024  # bytes; a longer run of base64 is no text
_LONGEST_MEDIA_TYPE = 256  # bytes
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\\"
_BYTES_PER_TOKEN = 4  # the usual rule of thumb for English text; only for what a server does not report


class StreamMeter:
    """One event stream. `feed` returns the bytes to pass on now; `tail` is what was held back for the end."""

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._splitter = EventSplitter()
        self._clean = True  # nothing half-read is pending
        self._usage: Usage | None = None
        self._reported = 0  # events up to the latest report
        self.ended = False  # the server has said [DONE]
        self.events = 0
        self.error = b""  # the data of the error event the server sent
        self.implausible = False  # the server reported a usage that cannot be true
        self.tail = b""

    @property
    def usage(self) -> Usage | None:
        """What the server reported; of a stream that went on after the report and never said [DONE], no less
        than what has come.
        """
        told = self._usage
        if self.ended or told is None or told.output is None:
            return told
        if self.events <= self._reported or told.output >= self.events:
            return told
        return structs.replace(told, output=self.events, source="estimated")

    @property
    def failed(self) -> bool:
        return bool(self.error)

    def feed(self, data: bytes) -> bytes:
        """Raises sse.EventTooLarge."""
        if (
            self._clean
            and data.endswith(b"\n\n")
            and b'"error"' not in data
            and b"[DONE]" not in data
            and not self.ended
        ):
            if b'"usage"' not in data:
                self.events += data.count(b"\ndata:") + data.startswith(b"data:")
                return data
            if (plain := _announcement(data)) is not None:
                self.events += 1
                return data if self._wants_usage else plain
        events = self._splitter.feed(data)
        self._clean = self._splitter.is_empty
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
        if self.ended:
            return b""
        if data.startswith(b"[DONE]"):
            self.ended, self.tail = True, event
            return b""
        if not data:
            return event
        self.events += 1
        if b'"usage"' not in data and b'"error"' not in data:
            return event
        return self._read(event, data)

    def _read(self, event: bytes, data: bytes) -> bytes:
        reading = openai.read_answer(data)
        if reading.failed:
            self.error = data
        self.implausible = self.implausible or reading.implausible
        if reading.chunk == "usage":
            self.events -= 1
        if reading.usage is not None:
            self._usage = _newer(reading.usage, self._usage)
            self._reported = self.events
        if self._wants_usage or reading.chunk is None or is_named(event):
            return event
        if reading.chunk == "usage":
            return with_data(event, None)
        return with_data(event, openai.without_usage(data))


def _announcement(event: bytes) -> bytes | None:
    """What is left of the usual chunk that announces usage with a null; None when it is not exactly that."""
    one_line = event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2
    # The only "usage" there is must be the chunk's own key: inside a string its quotes would be escaped.
    if one_line and event.count(b'"usage"') == 1 and b"\\u00" not in event and b"\r" not in event:
        for null in _NULL_USAGE:
            if null in event and openai.announces_usage(event[6:-2]):
                return event.replace(null, b"")
    return None


def text_size(body: bytes) -> int:
    """How many bytes of a JSON body may be text. Pictures and sound in base64 are not, and servers do not
    count them by their length.
    """
    if len(body) < _SMALL_BODY:
        return len(body)
    strings = body.split(b'"')
    return len(body) - sum(len(text) for text in strings if len(text) >= _SMALL_MEDIA and _is_media(text))


def _is_media(text: bytes) -> bool:
    if b";base64," not in text[:_LONGEST_MEDIA_TYPE] and text[:_SMALL_MEDIA].translate(None, _BASE64):
        return False
    head, mark, data = text.partition(b";base64,")
    return not (data if mark and len(head) < _LONGEST_MEDIA_TYPE else text).translate(None, _BASE64)


def estimate(size: int, events: int) -> Usage:
    """Usage that the server did not report: input from the bytes of its text, output from the number of
    events, because servers stream one token in each.
    """
    return Usage(input=_tokens(size), output=events, source="estimated")


def estimate_whole(size: int, answer: bytes) -> Usage:
    """The same for an answer in one piece, by its bytes."""
    return Usage(input=_tokens(size), output=_tokens(text_size(answer)), source="estimated")


def filled(reported: Usage | None, guessed: Callable[[], Usage]) -> Usage:
    """What the server reported. A count that it left out is guessed: it must not be free."""
    if reported is not None and reported.input is not None and reported.output is not None:
        return reported
    guess = guessed()
    if reported is None:
        return guess
    return structs.replace(
        reported,
        input=_at_least(guess.input, reported.cache_read) if reported.input is None else reported.input,
        output=_at_least(guess.output, reported.reasoning) if reported.output is None else reported.output,
        source="estimated",
    )


def _at_least(guess: int | None, part: int | None) -> int:
    return max(guess or 0, part or 0)


def _newer(usage: Usage, before: Usage | None) -> Usage:
    """Of two reports the later one, with a count, and its details, that only the earlier one had."""
    if before is not None and usage.input is None:
        usage = structs.replace(
            usage, input=before.input, cache_read=before.cache_read, cache_write=before.cache_write
        )
    if before is not None and usage.output is None:
        usage = structs.replace(usage, output=before.output, reasoning=before.reasoning)
    return usage


def _tokens(size: int) -> int:
    return -(-size // _BYTES_PER_TOKEN)
