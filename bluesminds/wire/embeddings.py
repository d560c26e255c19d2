"""Embeddings: POST /v1/embeddings.

Format: OpenAI API reference, embeddings; Jina's and Voyage's replies report `total_tokens` alone. Vectors, be
they lists of floats or base64, are not read.
"""

import msgspec
from msgspec import Raw

from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.counted import CountedFields, facts_of, no_events, read_list_reply
from bluesminds.wire.errors import write_error, write_stream_error
from bluesminds.wire.json_text import Fields
from bluesminds.wire.requests import decode_fields, prepare


class EmbeddingFields(CountedFields):
    input: Raw


_fields = msgspec.json.Decoder(EmbeddingFields)


def read_request(fields: Fields) -> RequestFacts:
    return facts_of(fields, decode_fields(fields, _fields, unread=("input",)).model)


def read_reply(body: bytes) -> ReplyFacts:
    return read_list_reply(body, "data", "embeddings")


EMBEDDINGS = Format(
    name="embeddings",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=no_events,
    write_error=write_error,
    write_stream_error=write_stream_error,
)
