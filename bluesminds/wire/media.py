"""Replies with images, audio or transcripts, as JSON, as events, or as other bytes.

Format: OpenAI API reference, images and audio, and their streaming. A stream's last event has the usage:
`image_generation.completed`, `image_edit.completed` (one for each image), `speech.audio.done`,
`transcript.text.done`. Mistral's has the type `transcription.done`. vLLM sends chunks like those of chat, and
[DONE] at the end.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.values import Usage
from bluesminds.http.sse import EventSplitter, event_data, write_event
from bluesminds.wire import chunks
from bluesminds.wire.base import ReplyFacts, RequestFacts
from bluesminds.wire.errors import ErrorDetail, find_error, is_error_event, read_error, write_error
from bluesminds.wire.json_digest import JsonDigest
from bluesminds.wire.json_text import ABSENT, NOT_JSON, decode, is_set, read_value
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.usage import ImplausibleUsage, estimate_output, merge_reports, read_usage, settle_usage

MAX_SECONDS: Final = 10**7  # a longer recording is a fault, not a duration
COMPLETED_IMAGES: Final = frozenset(("image_generation.completed", "image_edit.completed"))
_FINAL: Final = COMPLETED_IMAGES | {"speech.audio.done", "transcript.text.done", "transcription.done"}
_DELTAS: Final = frozenset(("transcript.text.delta", "transcription.text.delta"))
# Types of streams that are incomplete without an event of _FINAL.
_KNOWN: Final = ("image_generation.", "image_edit.", "speech.audio.", "transcript.text.", "transcription.")


class _MediaEvent(Struct, gc=False):
    type: Any = None
    delta: Any = None
    text: Any = None
    choices: Raw = ABSENT
    usage: Raw = ABSENT
    error: Raw = ABSENT


_event = msgspec.json.Decoder(_MediaEvent)


def read_media_usage(raw: Raw) -> Usage | None:
    """Tokens, or the duration of audio, or both. None without a report. Raises ImplausibleUsage."""
    if not is_set(raw):
        return None
    usage = read_usage(raw)
    try:
        report = read_value(raw)
    except NOT_JSON:
        raise ImplausibleUsage from None
    if not isinstance(report, dict):
        return usage
    if (seconds := report.get("prompt_audio_seconds")) is not None:
        return structs.replace(_mistral_tokens(report, usage), audio_ms=duration_usage(seconds).audio_ms)
    seconds = report.get("seconds")
    return usage if usage is not None or seconds is None else duration_usage(seconds)


def _mistral_tokens(report: dict[str, Any], usage: Usage | None) -> Usage:
    """Mistral counts the tokens of audio in the total only."""
    counts = [report.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    if usage is None or any(type(count) is not int for count in counts):
        return usage or Usage(usage_source="upstream")
    prompt, completion, total = cast("list[int]", counts)
    if total <= prompt + completion:
        return usage
    return Usage(
        total - completion,
        completion,
        usage_source="upstream",
        audio_input_tokens=total - completion - prompt,
    )


def duration_usage(seconds: object) -> Usage:
    """Raises ImplausibleUsage."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SECONDS:
        raise ImplausibleUsage
    return Usage(audio_ms=round(seconds * 1000), usage_source="upstream")


def read_media_event(name: bytes, data: bytes) -> ReplyFacts:
    """`choices` is 1 in an event that ends an answer."""
    return _read_event(name, data)[0]


def _read_event(name: bytes, data: bytes) -> tuple[ReplyFacts, str]:
    """The facts of an event, and its type."""
    try:
        event = decode(_event, data)
    except NOT_JSON:
        return ReplyFacts(readable=False), ""
    kind = event.type if isinstance(event.type, str) else ""
    return _facts(event, kind, name, data), kind


def _facts(event: _MediaEvent, kind: str, name: bytes, data: bytes) -> ReplyFacts:
    if is_set(event.error) or name == b"error" or kind == "error":
        return ReplyFacts(error=find_error(data) or read_error(200, data))
    if bytes(event.choices) not in (b"", b"null"):
        return structs.replace(chunks.read_event(name, data), choices=0)
    if kind not in _FINAL:
        text = (event.delta or event.text) if kind in _DELTAS else ""
        size = len(text.encode()) if isinstance(text, str) else 0
        return ReplyFacts(delivered=size, pieces=1 if size else 0)
    usage, implausible = None, False
    try:
        usage = read_media_usage(event.usage)
    except ImplausibleUsage:
        implausible = True
    if kind in COMPLETED_IMAGES:
        usage = structs.replace(usage or Usage(), images=1)
    return ReplyFacts(choices=1, usage=usage, implausible=implausible)


class MediaEvents:
    """The Stage of a stream of events. The event that ends an answer is held back, because the client must
    not see the end of an answer before its usage is recorded.
    """

    next_number = 0  # its events are not numbered

    def __init__(self, request: RequestFacts) -> None:
        self._request = request
        self._splitter = EventSplitter()
        self._reported: Usage | None = None
        self._delivered = 0  # bytes of text
        self._pieces = 0
        self._completed = 0  # answers
        self._absurd = False  # a report had an impossible count
        self._started = False
        self._is_known = False  # an event of the last type must come
        self._ended = False  # by the server
        self._final = False
        self._error: ErrorDetail | None = None
        self._tail = b""

    @property
    def usage(self) -> Usage:
        return self._settled()[0]

    @property
    def own_output(self) -> int | None:
        request = self._request
        return estimate_output(self._delivered, self._pieces, request) if request.text_answer else None

    @property
    def implausible(self) -> bool:
        return self._absurd or self._settled()[1]

    @property
    def output(self) -> int:
        if self._reported is not None and self._reported.output_tokens:
            return self._reported.output_tokens
        return estimate_output(self._delivered, self._pieces, self._request)

    @property
    def started(self) -> bool:
        return self._started

    @property
    def finished(self) -> bool:
        if self._ended:
            return self._final or self._completed > 0 or (self._started and not self._is_known)
        return self._final or self._completed >= self._request.choices

    @property
    def final(self) -> bool:
        return self._final

    @property
    def error(self) -> ErrorDetail | None:
        return self._error

    def feed(self, data: bytes) -> bytes:
        return b"".join([self._pass(event) for event in self._splitter.feed(data)])

    def finish(self) -> bytes:
        """A last event that only lacks its blank line is completed; any other rest is dropped."""
        rest = self._splitter.finish()
        passed = b""
        if rest.strip() and read_media_event(b"", event_data(rest)).readable:
            passed = self._pass(rest.rstrip(b"\r\n") + b"\n\n")
        self._ended = True
        self._final = self.finished and self._error is None
        tail, self._tail = self._tail, b""
        return passed + tail

    def stop(self) -> bytes:
        """These formats have no event for an answer that was cut."""
        self._splitter.finish()
        self._final = True
        tail, self._tail = self._tail, b""
        return tail

    def _settled(self) -> tuple[Usage, bool]:
        return settle_usage(self._reported, self._request, delivered=self._delivered, pieces=self._pieces)

    def _pass(self, event: bytes) -> bytes:
        if self._final:
            return b""
        name, data = name_and_data(event)
        if data.lstrip().startswith(b"[DONE]"):
            self._final = True
            self._tail += event
            return b""
        passed, self._tail = self._tail, b""
        if not data.strip():
            # An empty data line would stop OpenAI's SDKs: they read every event's data as JSON.
            return passed if b"data" in event else passed + event
        facts, kind = _read_event(name, data)
        if not facts.readable:
            return passed
        self._started = True
        if facts.error is not None:
            self._error = facts.error
            return passed + (event if is_error_event(data) else write_event(write_error(facts.error)))
        self._delivered += facts.delivered
        self._pieces += facts.pieces
        self._is_known = self._is_known or kind.startswith(_KNOWN)
        if not facts.choices:
            self._report(facts)
            return passed + event
        self._completed += 1
        self._tail = event
        self._report(facts)
        return passed

    def _report(self, facts: ReplyFacts) -> None:
        self._absurd = self._absurd or facts.implausible
        if (usage := facts.usage) is None:
            return
        earlier = self._reported
        self._reported = merge_reports(usage, earlier)
        if earlier is not None and earlier.images is not None:
            self._reported = structs.replace(self._reported, images=self._completed)


_DIGESTED: Final = ("usage", "duration", "text")


class Opaque:
    """The Stage of a reply that is neither JSON nor events: its bytes are forwarded and counted. `is_text`:
    the tokens are estimated from the number of bytes.
    """

    next_number = 0  # its events are not numbered

    def __init__(self, request: RequestFacts, *, is_text: bool) -> None:
        self._request = request
        self._is_text = is_text
        self._delivered = 0
        self._ended = False

    @property
    def usage(self) -> Usage:
        size = self._delivered if self._is_text else 0
        return settle_usage(None, self._request, delivered=size, pieces=min(size, 1))[0]

    @property
    def own_output(self) -> int | None:
        return None

    @property
    def implausible(self) -> bool:
        return False

    @property
    def output(self) -> int:
        return self.usage.output_tokens or 0

    @property
    def started(self) -> bool:
        return self._delivered > 0

    @property
    def finished(self) -> bool:
        return self._ended

    @property
    def final(self) -> bool:
        return self._ended

    @property
    def error(self) -> ErrorDetail | None:
        return None

    def feed(self, data: bytes) -> bytes:
        self._delivered += len(data)
        return data

    def finish(self) -> bytes:
        self._ended = True
        return b""

    def stop(self) -> bytes:
        self._ended = True
        return b""


class PassingJson(Opaque):
    """The Stage of JSON that is too long to be held. `read_reply` is that of its format."""

    def __init__(self, request: RequestFacts, read_reply: Callable[[bytes], ReplyFacts]) -> None:
        super().__init__(request, is_text=False)
        self._read_reply = read_reply
        self._digest = JsonDigest(*_DIGESTED)

    @property
    def usage(self) -> Usage:
        return self._settled()[0]

    @property
    def implausible(self) -> bool:
        return self._settled()[1]

    @property
    def finished(self) -> bool:
        return super().finished and self._digest.is_complete

    def feed(self, data: bytes) -> bytes:
        self._digest.feed(data)
        return super().feed(data)

    def _settled(self) -> tuple[Usage, bool]:
        facts = self._read_reply(self._digest.write())
        usage, implausible = settle_usage(
            facts.usage, self._request, delivered=facts.delivered, pieces=facts.pieces
        )
        return usage, implausible or facts.implausible
