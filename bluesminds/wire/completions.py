"""Legacy completions: POST /v1/completions.

Format: OpenAI API reference, completions. A stream's chunks have the same object as a whole answer.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct

from bluesminds.wire import assembly, chunks
from bluesminds.wire.base import Format, RequestFacts
from bluesminds.wire.completions_codec import COMPLETIONS_CODEC, OBJECT
from bluesminds.wire.errors import write_error, write_stream_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_value, text_bytes
from bluesminds.wire.requests import (
    UNBOUNDED,
    Choices,
    StreamOptions,
    Tokens,
    UsageOptions,
    decode_fields,
    prepare_stream,
)

BestOf = Annotated[int, Meta(ge=0, le=128)]  # 0 is 1, as at OpenAI


class CompletionFields(Struct):
    """The fields that limit what a request may cost."""

    model: str
    prompt: Raw = ABSENT
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    usage: UsageOptions | None = None
    max_tokens: Tokens | None = None
    n: Choices | None = None
    best_of: BestOf | None = None


_fields = msgspec.json.Decoder(CompletionFields)


def read_request(fields: Fields) -> RequestFacts:
    request = decode_fields(fields, _fields, unread=("prompt",))
    options = request.stream_options
    wants_cost = request.usage is not None and bool(request.usage.include)
    return RequestFacts(
        model=request.model,
        stream=bool(request.stream),
        wants_usage=wants_cost or (options is not None and bool(options.include_usage)),
        wants_cost=wants_cost,
        max_output=None if request.max_tokens == UNBOUNDED else request.max_tokens,
        choices=max(request.n or 1, request.best_of or 1) * _prompts(fields),
        text_bytes=text_bytes(fields),
    )


def _prompts(fields: Fields) -> int:
    """The number of prompts: a list of texts or of token lists has several, a list of tokens is one."""
    prompt = fields.get("prompt")
    if prompt is None or not bytes(prompt).startswith(b"["):
        return 1
    try:
        items: Any = read_value(prompt)
    except NOT_JSON:
        return 1
    return len(items) if items and not isinstance(items[0], int) else 1


def events_from_reply(body: bytes, wants_usage: bool) -> bytes:
    """A JSON answer as a stream. Raises ValueError if it has no choices."""
    return assembly.events_of(body, OBJECT, assembly.spread_text, wants_usage=wants_usage)


def reply_from_events(stream: bytes) -> bytes:
    """A stream as a JSON answer. Raises ValueError if it has no choices."""
    return assembly.reply_of(stream, OBJECT, "text")


COMPLETIONS = Format(
    name="completions",
    read_request=read_request,
    prepare=prepare_stream,
    read_reply=chunks.read_reply,
    read_event=chunks.read_event,
    write_error=write_error,
    write_stream_error=write_stream_error,
    chunk_object=OBJECT,
    events_from_reply=events_from_reply,
    reply_from_events=reply_from_events,
    codec=COMPLETIONS_CODEC,
)
