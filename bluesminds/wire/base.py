"""The types all wire formats share."""

from collections.abc import Callable, Mapping, Sequence
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
from bluesminds.wire.vectors import ClientVectorCodec

# "realtime" has no requests and replies, but events: see sockets.py.
FormatName = Literal[
    "chat",
    "messages",
    "responses",
    "count_tokens",
    "input_tokens",
    "compact",
    "gemini",
    "gemini_count_tokens",
    "gemini_embed",
    "gemini_batch_embed",
    "completions",
    "embeddings",
    "moderations",
    "rerank",
    "images",
    "image_edits",
    "image_variations",
    "speech",
    "transcription",
    "audio_translation",
    "realtime",
]
FieldKind = Literal["text", "flag", "whole"]


class RequestFacts(Struct, frozen=True, gc=False):
    """The properties of a request that the gateway uses."""

    model: str
    stream: bool = False
    wants_usage: bool = False  # the client requested the usage chunk
    wants_cost: bool = False  # the client requested the cost in the usage
    max_output: int | None = None  # maximum tokens of one choice; None: no maximum
    choices: int = 1  # number of answers requested
    text_bytes: int = 0  # size of the request's values, without media in base64
    media_tokens: int = 0  # estimated tokens of audio in the request
    text_answer: bool = True  # the tokens of an answer can be estimated from its length
    characters: int | None = None  # of a text to be spoken


class ReplyFacts(Struct, frozen=True, gc=False):
    """The properties of a complete reply, or of one event."""

    readable: bool = True  # it is a JSON object
    choices: int = 0  # number of answers, embeddings or results
    usage: Usage | None = None  # as the server reports it
    implausible: bool = False  # the reported usage is impossible
    delivered: int = 0  # bytes of generated text
    pieces: int = 0  # number of choices with generated content
    units: int | None = None  # search units (rerank), as the server reports them
    error: ErrorDetail | None = None  # the reply is an error instead of an answer


class Stage(Protocol):
    """The interface of a running stream for the relay."""

    @property
    def usage(self) -> Usage:
        """The usage to charge so far: as reported, with estimates for missing counts."""

    @property
    def output(self) -> int:
        """Tokens of the answer so far, reported or estimated."""

    @property
    def own_output(self) -> int | None:
        """The gateway's own count of the tokens of the answer so far; None if it cannot count them."""

    @property
    def implausible(self) -> bool:
        """Whether an impossible usage was reported."""

    @property
    def started(self) -> bool:
        """Whether the answer has started."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete according to its format."""

    @property
    def final(self) -> bool:
        """Whether nothing more needs to be read from the server."""

    @property
    def error(self) -> ErrorDetail | None:
        """The error that the server put into the stream."""

    @property
    def next_number(self) -> int:
        """The number of the client's next event, if its events are numbered."""

    def feed(self, data: bytes) -> bytes:
        """Process bytes of the server; the bytes for the client. Raises sse.EventTooLarge."""

    def finish(self) -> bytes:
        """Call it at the end of the server's stream; the last bytes for the client."""

    def stop(self) -> bytes:
        """End the stream early, at a limit; the last bytes for the client."""


class StreamDecoder(Protocol):
    """Reads the events of a server's stream in order. It never raises."""

    def feed(self, name: bytes, data: bytes) -> Sequence[StreamEvent]:
        """The neutral events of one event of the server."""


class StreamEncoder(Protocol):
    """Writes a client's stream. The events come in the order of `conversation`: StreamStarted first, and
    StreamFinished last.
    """

    @property
    def next_number(self) -> int:
        """The number of the next event, if the events are numbered."""

    def feed(self, event: StreamEvent) -> bytes: ...


class ClientCodec(Struct, frozen=True, kw_only=True):
    """Converts a client's format for conversations: its requests to the neutral form, and answers from it.
    Every function is pure.

    `decode_request(fields, created)` raises InvalidRequest: "unsupported_by_server" for a field that changes
    the meaning and has no equivalent. `encode_reply` raises ValueError for a reply without an answer, or one
    that cannot be converted. `names`: what this format calls fields that other formats refuse or leave out.
    `keep_alive` is sent while the server sends no data; some clients fail on comments.
    """

    decode_request: Callable[[Fields, int], ConversationRequest]
    encode_reply: Callable[[ConversationReply, ConversationRequest], bytes]
    encoder: Callable[[ConversationRequest], StreamEncoder]
    names: Mapping[str, str] = {}
    keep_alive: bytes = b": ping\n\n"


class Codec(ClientCodec, frozen=True, kw_only=True):
    """Converts in both directions, so that servers can get requests in this format. `encode_request` and
    `decode_reply` raise errors as the functions of ClientCodec do.
    """

    encode_request: Callable[[ConversationRequest, EncodingOptions], EncodedRequest]
    decode_reply: Callable[[bytes, ConversationRequest], ConversationReply]
    decoder: Callable[[ConversationRequest], StreamDecoder]


class FormFields(Struct, frozen=True):
    """How a format's forms (multipart/form-data) are read. `kinds` has the fields that are read; `read` gets
    them as JSON and raises InvalidRequest. `bytes_per_token`: how large a file is for each token that it
    probably has; 0: that is not known.
    """

    kinds: Mapping[str, FieldKind]
    read: Callable[[Fields], RequestFacts]
    bytes_per_token: int = 0


class Format(Struct, frozen=True):
    """One wire format. Every function is pure.

    `read_request` and `prepare` raise InvalidRequest. `prepare(fields, model, force_usage)` returns the
    fields for the server, with the server's model name. With `force_usage` a stream requests its usage.
    `read_event` gets an event's name and data. `write_stream_error(code, message, number)`: `number` is the
    place of the event in a stream whose events are numbered.
    """

    name: FormatName
    read_request: Callable[[Fields], RequestFacts]
    prepare: Callable[[Fields, str, bool], Fields]
    read_reply: Callable[[bytes], ReplyFacts]
    read_event: Callable[[bytes, bytes], ReplyFacts]
    write_error: Callable[[ErrorDetail, str], bytes]
    write_stream_error: Callable[[str, str, int], bytes]
    is_error: Callable[[bytes], bool] = has_error_object  # whether an error body already has this format
    # For formats with streams: conversions between JSON and events. They raise ValueError for an answer
    # without choices. The flag: whether the client requested usage.
    chunk_object: str = ""  # the `object` of a stream's chunks
    events_from_reply: Callable[[bytes, bool], bytes] | None = None
    reply_from_events: Callable[[bytes], bytes] | None = None
    stage: Callable[[RequestFacts], Stage] | None = None  # None: stages.Passthrough
    form: FormFields | None = None
    is_media: bool = False  # a reply has the form of its content type
    estimate: Callable[[Fields], bytes] | None = None  # the response to a count request, without a server
    codec: ClientCodec | None = None  # only for conversations
    vectors: ClientVectorCodec | None = None  # only for embeddings
