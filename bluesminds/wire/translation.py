"""A stream that is translated from the server's format to the client's.

Each event of the server is converted to neutral events, and these to events of the client. The end of the
client's stream is held back, because the client must not see the end of an answer before its usage is
recorded. Comments and keep-alive events of the server are sent as the client's keep-alive.
"""

from msgspec.structs import replace

from bluesminds.common.values import Usage
from bluesminds.wire.base import ClientCodec, Codec, RequestFacts
from bluesminds.wire.conversation import (
    ConversationRequest,
    PartDelta,
    PartOpened,
    StreamEvent,
    StreamFailed,
    StreamFinished,
    StreamStarted,
    StreamStopped,
    UsageReported,
)
from bluesminds.wire.stages import bare_json, name_and_data
from bluesminds.wire.stream_meter import MeteredStage


class Translation(MeteredStage):
    """The Stage of a stream in another format than the client's."""

    def __init__(
        self, server: Codec, client: ClientCodec, conversation: ConversationRequest, request: RequestFacts
    ) -> None:
        super().__init__(request)
        self._conversation = conversation
        self._decoder = server.decoder(conversation)
        self._encoder = client.encoder(conversation)
        self._keep_alive = client.keep_alive

    @property
    def next_number(self) -> int:
        return self._encoder.next_number

    def finish(self) -> bytes:
        """A last event that only lacks its blank line is translated. A complete answer gets the end of the
        client's format; a cut one does not.
        """
        rest = self._splitter.finish()
        passed = self._pass(rest) if rest.strip() else b""
        if self._stopped and self._error is None and not self._final:
            passed += self._encode(StreamFinished())
        tail, self._tail = self._tail, b""
        return passed + tail

    def stop(self) -> bytes:
        usage = self.usage
        self._splitter.finish()
        started = b"" if self._started else self._encode(StreamStarted("", self._conversation.model))
        stopped = b"" if self._stopped else self._encode(StreamStopped("length"))
        self._end(usage)
        tail, self._tail = self._tail, b""
        return started + stopped + tail

    def _end(self, usage: Usage) -> None:
        """The client also gets counts that the server has not reported."""
        self._final = True
        if usage.usage_source == "estimated":
            self._encoder.feed(UsageReported(usage))
        self._tail = self._encoder.feed(StreamFinished())

    def _pass(self, event: bytes) -> bytes:
        if self._final or self._error is not None:
            return b""
        name, data = name_and_data(event)
        if name == b"ping" or not (data.strip() or (data := bare_json(event))):
            return self._keep_alive if event.strip() else b""
        events = self._decoder.feed(name, data)
        if len(events) == 1:
            passed = self._encode(events[0])
        else:
            passed = b"".join([self._encode(one) for one in events])
        self._ended = self._final
        return passed

    def _encode(self, event: StreamEvent) -> bytes:
        if type(event) is PartDelta:
            self._meter.count(event.text)
            return self._encoder.feed(event)
        if self._error is not None:
            return b""
        match event:
            case StreamFinished():
                self._end(self._meter.usage(ended=True))
                return b""
            case StreamStarted():
                self._started = True
            case StreamStopped():
                self._stopped = True
            case StreamFailed():
                self._error = event.error
            case UsageReported():
                self._meter.report(event.usage)
            case PartOpened() if event.name:
                self._meter.count(event.name)
                if (names := self._conversation.client_names) and event.name in names:
                    event = replace(event, name=names[event.name])
        return self._encoder.feed(event)
