"""A stream that continues after its server has failed: another server answers the same request, and the part
that the client has already is left out.

The new answer is compared with what was sent. While it is equal it is dropped, and from there on passed. If
it differs, the stream ends with an error: the client cannot take back what it has.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct, structs

from bluesminds.http.sse import EventSplitter
from bluesminds.wire.base import Codec, RequestFacts
from bluesminds.wire.conversation import (
    ConversationRequest,
    PartClosed,
    PartDelta,
    PartOpened,
    StreamEvent,
    StreamFailed,
    StreamStarted,
    StreamStopped,
)
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.translation import Translation

DIVERGED: Final = ErrorDetail(
    message="The server ended the stream, and the answer of the next server was not the same. Try again.",
    type="server_error",
    code="upstream_cut",
)
_OFFSET: Final = 1_000_000  # added to the parts of the new answer, whose numbers must not be used twice


class SentAnswer(Struct, frozen=True):
    """What the client has: `events` of its stream, and the `text` of the open `part`."""

    events: tuple[StreamEvent, ...]
    part: int
    text: str


def read_sent(client: Codec, conversation: ConversationRequest, data: bytes) -> SentAnswer | None:
    """None if the stream cannot be resumed: within a call or reasoning, after a call, or without a text."""
    decoder, splitter = client.decoder(conversation), EventSplitter()
    events: list[StreamEvent] = []
    for event in splitter.feed(data):
        events += decoder.feed(*name_and_data(event))
    texts: list[str] = []
    part = -1
    open_parts: set[int] = set()
    for one in events:
        match one:
            case PartOpened(kind="text") if part < 0:
                part = one.index
                open_parts.add(part)
            case PartOpened(kind="thinking" | "redacted") if part < 0:
                open_parts.add(one.index)
            case PartOpened() | StreamStopped() | StreamFailed():
                return None
            case PartClosed():
                open_parts.discard(one.index)
            case PartDelta() if one.index == part:
                texts.append(one.text)
    return SentAnswer(tuple(events), part, "".join(texts)) if open_parts == {part} else None


class ResumedStream(Translation):
    """The Stage of the new answer. `diverged`: it differs from what was sent."""

    def __init__(
        self,
        server: Codec,
        client: Codec,
        conversation: ConversationRequest,
        request: RequestFacts,
        sent: SentAnswer,
    ) -> None:
        super().__init__(server, client, conversation, request)
        for event in sent.events:
            self._encoder.feed(event)
        self._started = True
        self._part = sent.part
        self._left = sent.text  # what has not come again yet
        self._texts: set[int] = set()  # parts of the new answer that continue the part
        self._hidden: set[int] = set()  # reasoning before the text, which the client already has
        self._joined = False  # the part of the client is closed
        self.diverged = False

    def _encode(self, event: StreamEvent) -> bytes:
        match event:
            case _ if self.diverged:
                return b""
            case StreamStarted():
                return b""
            case PartOpened():
                return self._open(event)
            case PartDelta():
                return self._write(event)
            case PartClosed():
                return self._close(event)
            case StreamStopped() if self._left:
                return self._diverge()
        return super()._encode(event)

    def _open(self, opened: PartOpened) -> bytes:
        if not self._joined and opened.kind == "text":
            self._texts.add(opened.index)
            return b""
        if not self._texts and opened.kind in ("thinking", "redacted"):
            self._hidden.add(opened.index)
            return b""
        if self._left:
            return self._diverge()
        shifted = PartOpened(opened.index + _OFFSET, opened.kind, opened.id, opened.name, opened.data)
        return super()._encode(shifted)

    def _write(self, delta: PartDelta) -> bytes:
        if delta.index in self._texts:
            text, left = delta.text, self._left
            equal = min(len(text), len(left))
            if text[:equal] != left[:equal]:
                self._meter.count(text)
                return self._diverge()
            self._left = left[equal:]
            if equal:
                self._meter.count(text[:equal])
            return super()._encode(PartDelta(self._part, text[equal:])) if len(text) > equal else b""
        if delta.index in self._hidden:
            self._meter.count(delta.text)
            return b""
        return super()._encode(PartDelta(delta.index + _OFFSET, delta.text))

    def _close(self, closed: PartClosed) -> bytes:
        if closed.index in self._hidden:
            return b""
        if closed.index not in self._texts:
            return super()._encode(PartClosed(closed.index + _OFFSET, closed.signature))
        if self._left or self._joined:
            return b""
        self._joined = True
        return super()._encode(PartClosed(self._part))

    def _diverge(self) -> bytes:
        self.diverged = True
        self._error, self._final = DIVERGED, True
        return self._encoder.feed(StreamFailed(DIVERGED))


class ContinuedStream(ResumedStream):
    """The Stage of an answer that continues the text that was sent. `echoes`: the server may repeat the text.
    What it repeats is left out; otherwise that is only white space, which a server may not get.
    """

    def __init__(
        self,
        server: Codec,
        client: Codec,
        conversation: ConversationRequest,
        request: RequestFacts,
        sent: SentAnswer,
        *,
        echoes: bool,
    ) -> None:
        super().__init__(server, client, conversation, request, structs.replace(sent, text=""))
        self._repeated = sent.text if echoes else sent.text[len(sent.text.rstrip()) :]
        self._held = ""  # may be a repetition

    def _encode(self, event: StreamEvent) -> bytes:
        if isinstance(event, StreamStopped) and not self._joined:
            self._joined = True
            return self._release() + super()._encode(PartClosed(self._part)) + super()._encode(event)
        return super()._encode(event)

    def _write(self, delta: PartDelta) -> bytes:
        if not self._repeated or delta.index not in self._texts:
            return super()._write(delta)
        text, repeated = self._held + delta.text, self._repeated
        if len(text) < len(repeated) and repeated.startswith(text):
            self._held = text
            return b""
        self._held = self._repeated = ""
        rest = text.removeprefix(repeated)
        return super()._write(PartDelta(delta.index, rest)) if rest else b""

    def _close(self, closed: PartClosed) -> bytes:
        held = self._release() if closed.index in self._texts else b""
        return held + super()._close(closed)

    def _release(self) -> bytes:
        text, self._held, self._repeated = self._held, "", ""
        return Translation._encode(self, PartDelta(self._part, text)) if text else b""


def without_last(events: bytes) -> bytes:
    """The events without the last one."""
    found: Sequence[bytes] = EventSplitter().feed(events)
    return b"".join(found[:-1])
