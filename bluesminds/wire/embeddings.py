"""Embeddings: POST /v1/embeddings.

Format: OpenAI API reference, embeddings; Jina's and Voyage's replies report `total_tokens` alone. Vectors, be
they lists of floats or base64, are only read for a client that wants the other one of a translated reply.
"""

from typing import Literal

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.conversation import EncodedRequest, unsupported
from bluesminds.wire.counted import CountedFields, facts_of, no_events, read_list_reply
from bluesminds.wire.errors import write_error, write_stream_error
from bluesminds.wire.field_reading import FieldReader, decode_as
from bluesminds.wire.json_text import NOT_JSON, Fields
from bluesminds.wire.requests import decode_fields, prepare
from bluesminds.wire.vectors import (
    VectorCodec,
    VectorReply,
    VectorRequest,
    as_base64,
    as_numbers,
    check_vectors,
    tokens_of,
)


class EmbeddingFields(CountedFields):
    input: Raw


class _Vector(Struct):
    embedding: Raw
    index: int | None = None


class _Vectors(Struct):
    data: list[_Vector]


_fields = msgspec.json.Decoder(EmbeddingFields)
_vectors = msgspec.json.Decoder(_Vectors)
_texts = msgspec.json.Decoder(str | list[str])
_MOST_TEXTS = 2048  # OpenAI's maximum
_encoding = msgspec.json.Decoder(Literal["float", "base64"])


def read_request(fields: Fields) -> RequestFacts:
    return facts_of(fields, decode_fields(fields, _fields, unread=("input",)).model)


def read_reply(body: bytes) -> ReplyFacts:
    return read_list_reply(body, "data", "embeddings")


def decode_request(fields: Fields) -> VectorRequest:
    """Raises InvalidRequest."""
    dropped: list[str] = []
    reader = FieldReader(fields, "", dropped)
    model, raw = reader.needed("model"), reader.raw("input")
    if bytes(raw)[:64].lstrip(b"[ \t\r\n")[:1].isdigit():
        raise unsupported("input", "they accept texts, not tokens.")
    texts = decode_as(_texts, raw, "input")
    if not texts:
        raise InvalidRequest("invalid_value", "`input` is empty.", param="input")
    if not isinstance(texts, str) and len(texts) > _MOST_TEXTS:
        message = f"`input` has {len(texts)} texts. Send at most {_MOST_TEXTS} in one request."
        raise InvalidRequest("invalid_value", message, param="input")
    dimensions, encoding = reader.whole("dimensions"), reader.raw("encoding_format")
    packed = bool(encoding) and decode_as(_encoding, encoding, "encoding_format") == "base64"
    reader.drop_rest()
    return VectorRequest(
        model=model,
        texts=(texts,) if isinstance(texts, str) else tuple(texts),
        dimensions=dimensions,
        packed=packed,
        dropped=tuple(dropped),
    )


def encode_request(request: VectorRequest, model: str) -> EncodedRequest:
    """Without `encoding_format`, servers send lists of numbers."""
    fields: dict[str, object] = {"model": model, "input": request.texts}
    if request.dimensions is not None:
        fields["dimensions"] = request.dimensions
    raws = {name: Raw(msgspec.json.encode(value)) for name, value in fields.items()}
    return EncodedRequest(raws, request.dropped)


def decode_reply(body: bytes) -> VectorReply:
    """Raises ValueError."""
    try:
        rows = _vectors.decode(body).data
    except NOT_JSON as exc:
        raise ValueError("the reply has no vectors") from exc
    places = {at if row.index is None else row.index: row.embedding for at, row in enumerate(rows)}
    usage = read_reply(body).usage
    vectors = tuple(places[at] for at in sorted(places))
    return VectorReply(vectors, None if usage is None else usage.input_tokens)


def encode_reply(reply: VectorReply, request: VectorRequest) -> bytes:
    """Raises ValueError."""
    check_vectors(reply, request)
    write = as_base64 if request.packed else as_numbers
    rows = [
        {"object": "embedding", "index": index, "embedding": write(vector)}
        for index, vector in enumerate(reply.vectors)
    ]
    tokens = tokens_of(reply, request)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": rows, "model": request.model, "usage": usage})


EMBEDDINGS = Format(
    name="embeddings",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=no_events,
    write_error=write_error,
    write_stream_error=write_stream_error,
    vectors=VectorCodec(
        decode_request=decode_request,
        encode_request=encode_request,
        decode_reply=decode_reply,
        encode_reply=encode_reply,
    ),
)
