"""The types all wire formats share."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from msgspec import Struct

from bluesminds.common.values import Usage
from bluesminds.wire.conversation import (
    ConversationReply,
    ConversationRequest,
    EncodedRequest,
    EncodingOptions,
    StreamEvent,
)
from bluesminds.wire.errors import ErrorDetail, has_error_object
from bluesminds.wire.json_text import Fields

# "realtime" has no requests and replies, but events: see sockets.py.
FormatName = Literal[
    "chat", "messages", "count_tokens", "completions", "embeddings", "moderations", "rerank", "realtime"
]


class RequestFacts(Struct, frozen=True, gc=False):
    """What a request asks for, as far as the gateway acts on it."""

    model: str
    stream: bool = False
    wants_usage: bool = False  # the client itself asked for the usage chunk
    max_output: int | None = None  # tokens of one choice, as the client bounds it
    choices: int = 1  # answers asked for at once
    text_bytes: int = 0  # of the request's values, without media in base64


class ReplyFacts(Struct, frozen=True, gc=False):
    """What a whole reply or one event says about itself."""

    readable: bool = True  # it is a JSON object
    choices: int = 0  # answers in it; embeddings, results and documents count as such
    usage: Usage | None = None  # as the server reports it
    implausible: bool = False  # it reports a usage that cannot be true
    delivered: int = 0  # bytes of generated text
    pieces: int = 0  # choices with anything generated in them
    units: int | None = None  # search units (rerank), as the server reports them
    error: ErrorDetail | None = None  # the reply is an error in the place of an answer


class Stage(Protocol):
    """What a relay knows of any running reply."""

    @property
    def usage(self) -> Usage:
        """To be charged as things stand: what the server reported, with estimates for the rest."""

    @property
    def output(self) -> int:
        """Tokens of the answer so far, reported or estimated."""

    @property
    def implausible(self) -> bool:
        """Whether a usage was reported that cannot be true."""

    @property
    def started(self) -> bool:
        """Whether anything of an answer has come."""

    @property
    def finished(self) -> bool:
        """Whether the answer has come to its end by its own protocol."""

    @property
    def final(self) -> bool:
        """Whether nothing more is to be read from the server."""

    @property
    def error(self) -> ErrorDetail | None:
        """The error that the server put into the stream."""

    def feed(self, data: bytes) -> bytes:
        """Bytes for the client now. Raises sse.EventTooLarge."""

    def finish(self) -> bytes:
        """The server has ended: what is still to be sent."""

    def stop(self) -> bytes:
        """Events that end the client's stream at a cap, now."""


class StreamDecoder(Protocol):
    """Reads the events of a server's stream, one after the other. It never raises."""

    def feed(self, name: bytes, data: bytes) -> Sequence[StreamEvent]:
        """What an event's name and data say."""


class StreamEncoder(Protocol):
    """Writes a client's stream. The events come in the order of `conversation`: StreamStarted first, and
    StreamFinished last.
    """

    def feed(self, event: StreamEvent) -> bytes: ...


class Codec(Struct, frozen=True):
    """A conversation's format to and from the neutral form. Every function is pure.

    `decode_request(fields, created)` and `encode_request` raise InvalidRequest: "unsupported_by_server" for a
    field that changes the meaning and has no counterpart. `decode_reply` and `encode_reply` raise ValueError
    for a reply without an answer, or one that cannot be written. A decoder gets the request as well.
    """

    decode_request: Callable[[Fields, int], ConversationRequest]
    encode_request: Callable[[ConversationRequest, EncodingOptions], EncodedRequest]
    decode_reply: Callable[[bytes, ConversationRequest], ConversationReply]
    encode_reply: Callable[[ConversationReply, ConversationRequest], bytes]
    decoder: Callable[[ConversationRequest], StreamDecoder]
    encoder: Callable[[ConversationRequest], StreamEncoder]


class Format(Struct, frozen=True):
    """One wire format. Every function is pure.

    `read_request` and `prepare` raise InvalidRequest. `prepare(fields, model, force_usage)` gives the fields
    for the server: with its name of the model, and asking for usage in a stream where the client did not.
    `read_event` takes an event's name and its data.
    """

    name: FormatName
    read_request: Callable[[Fields], RequestFacts]
    prepare: Callable[[Fields, str, bool], Fields]
    read_reply: Callable[[bytes], ReplyFacts]
    read_event: Callable[[bytes, bytes], ReplyFacts]
    write_error: Callable[[ErrorDetail, str], bytes]
    write_stream_error: Callable[[str, str], bytes]
    is_error: Callable[[bytes], bool] = has_error_object  # in this format's shape, so that it can pass
    # Formats with streams only: for servers that answer in the other form than was asked for. They raise
    # ValueError for an answer without choices. The flag: whether the client asked for usage.
    chunk_object: str = ""  # of a stream's events
    events_from_reply: Callable[[bytes, bool], bytes] | None = None
    reply_from_events: Callable[[bytes], bytes] | None = None
    stage: Callable[[RequestFacts], Stage] | None = None  # of its streams; None: stages.Passthrough
    codec: Codec | None = None  # conversations only
