"""Chat completions: POST /v1/chat/completions.

Format: OpenAI API reference, chat completions and streaming; the fields follow the types of the openai Python
SDK.
"""

import msgspec
from msgspec import Raw, Struct

from bluesminds.wire import assembly, chunks
from bluesminds.wire.base import Format, RequestFacts
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.errors import write_error, write_stream_error
from bluesminds.wire.json_text import Fields, text_bytes
from bluesminds.wire.requests import (
    Choices,
    StreamOptions,
    Tokens,
    UsageOptions,
    decode_fields,
    largest_bound,
    prepare_stream,
)

CHUNK_OBJECT = "chat.completion.chunk"


class ChatFields(Struct):
    """The fields that limit what a request may cost."""

    model: str
    messages: Raw
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    usage: UsageOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Choices | None = None
    best_of: Choices | None = None


_fields = msgspec.json.Decoder(ChatFields)


def read_request(fields: Fields) -> RequestFacts:
    request = decode_fields(fields, _fields, unread=("messages",))
    options = request.stream_options
    wants_cost = request.usage is not None and bool(request.usage.include)
    return RequestFacts(
        model=request.model,
        stream=bool(request.stream),
        wants_usage=wants_cost or (options is not None and bool(options.include_usage)),
        wants_cost=wants_cost,
        max_output=_max_output(request),
        choices=max(request.n or 1, request.best_of or 1),
        text_bytes=text_bytes(fields),
    )


def _max_output(request: ChatFields) -> int | None:
    most, other = request.max_tokens, request.max_completion_tokens
    if most is None and other is None:
        return None
    return largest_bound(("max_tokens", most), ("max_completion_tokens", other))


def events_from_reply(body: bytes, wants_usage: bool) -> bytes:
    """A JSON answer as a stream. Raises ValueError if it has no choices."""
    return assembly.events_of(body, CHUNK_OBJECT, assembly.spread_message, wants_usage=wants_usage)


def reply_from_events(stream: bytes) -> bytes:
    """A stream as a JSON answer. Raises ValueError if it has no choices."""
    return assembly.reply_of(stream, "chat.completion", "delta")


CHAT = Format(
    name="chat",
    read_request=read_request,
    prepare=prepare_stream,
    read_reply=chunks.read_reply,
    read_event=chunks.read_event,
    write_error=write_error,
    write_stream_error=write_stream_error,
    events_from_reply=events_from_reply,
    reply_from_events=reply_from_events,
    chunk_object=CHUNK_OBJECT,
    codec=CHAT_CODEC,
)
