"""Gemini's API: models.embedContent and models.batchEmbedContents.

Format: Gemini API reference, embeddings. Native requests are forwarded with all fields. The model is in the
path, and again in each request of a batch, where it must be the same.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.conversation import EncodedRequest, unique, unsupported
from bluesminds.wire.counted import list_length, no_events, read_list_reply
from bluesminds.wire.field_reading import decode_as
from bluesminds.wire.gemini_errors import is_gemini_error, write_gemini_error, write_stream_error
from bluesminds.wire.gemini_fields import GeminiReader
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields, text_bytes, write_fields
from bluesminds.wire.requests import decode_fields
from bluesminds.wire.vectors import (
    ClientVectorCodec,
    VectorCodec,
    VectorReply,
    VectorRequest,
    as_numbers,
    check_vectors,
    tokens_of,
)

_MODELS = "models/"
_MOST_TEXTS = 100  # Google's maximum for one batch


class EmbedFields(Struct):
    model: str
    content: Raw


class BatchEmbedFields(Struct):
    model: str
    requests: Raw


class _Values(Struct):
    values: Raw


class _ManyVectors(Struct):
    embeddings: list[_Values]


_fields = msgspec.json.Decoder(EmbedFields)
_batch_fields = msgspec.json.Decoder(BatchEmbedFields)
_items = msgspec.json.Decoder(list[Fields])
_name = msgspec.json.Decoder(str)
_many = msgspec.json.Decoder(_ManyVectors)


def read_request(fields: Fields) -> RequestFacts:
    model = decode_fields(fields, _fields, unread=("content",)).model
    return RequestFacts(model, max_output=0, text_bytes=text_bytes(_without_path(fields)))


def read_batch_request(fields: Fields) -> RequestFacts:
    model = decode_fields(fields, _batch_fields, unread=("requests",)).model
    for item in _requests(fields):
        check_named(item, model)
    return RequestFacts(model, max_output=0, text_bytes=text_bytes(_without_path(fields)))


def check_named(item: Fields, model: str) -> None:
    """Raises InvalidRequest for a request of a batch with another model than the path's."""
    for key in item:
        if key != "model" and key.strip("_").casefold() == "model":
            raise InvalidRequest("invalid_value", "Write it `model`.", param="requests.model")
    if (raw := item.get("model")) is None:
        return
    named = decode_as(_name, raw, "requests.model")
    if named.removeprefix(_MODELS) != model.removeprefix(_MODELS):
        message = "`requests.model` must be the model in the path."
        raise InvalidRequest("model_mismatch", message, param="requests.model")


def _requests(fields: Fields) -> list[Fields]:
    """Raises InvalidRequest."""
    return decode_as(_items, fields["requests"], "requests")


def _without_path(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if name != "model"}


def prepare(fields: Fields, model: str, force: bool) -> Fields:
    """The model goes into the path."""
    return _without_path(fields)


def prepare_batch(fields: Fields, model: str, force: bool) -> Fields:
    """The model goes into the path and into each request."""
    named = Raw(_write_name(model))
    items = [Raw(write_fields({**item, "model": named})) for item in _requests(fields)]
    return _without_path(fields) | {"requests": Raw(msgspec.json.encode(items))}


def _write_name(model: str) -> bytes:
    return msgspec.json.encode(_MODELS + model.removeprefix(_MODELS))


def read_batch_reply(body: bytes) -> ReplyFacts:
    return read_list_reply(body, "embeddings")


def read_reply(body: bytes) -> ReplyFacts:
    facts = read_list_reply(body)
    try:
        vector = read_fields(bytes(read_fields(body).get("embedding", ABSENT)))
    except NOT_JSON:
        return facts
    choices = int(list_length(vector.get("values")) > 0)
    return structs.replace(facts, choices=choices, error=None) if choices else facts


def decode_request(fields: Fields) -> VectorRequest:
    """Raises InvalidRequest."""
    dropped: list[str] = []
    reader = GeminiReader(fields, "", dropped)
    model = reader.needed("model")
    text, dimensions = _read_item(reader)
    return VectorRequest(model=model, texts=(text,), dimensions=dimensions, dropped=unique(dropped))


def decode_batch_request(fields: Fields) -> VectorRequest:
    """Raises InvalidRequest."""
    dropped: list[str] = []
    reader = GeminiReader(fields, "", dropped)
    model = reader.needed("model")
    found = []
    for item in reader.items("requests"):
        item.ignore("model")
        found.append(_read_item(item))
    reader.drop_rest()
    if not found:
        raise InvalidRequest("invalid_value", "`requests` is empty.", param="requests")
    sizes = {dimensions for _, dimensions in found}
    if len(sizes) > 1:
        raise unsupported("requests.outputDimensionality", "they make all vectors of a request equally long.")
    return VectorRequest(
        model=model,
        texts=tuple(text for text, _ in found),
        dimensions=next(iter(sizes), None),
        dropped=unique(dropped),
    )


def _read_item(reader: GeminiReader) -> tuple[str, int | None]:
    """The text of one request, and the dimensions."""
    content = reader.inner("content")
    parts: Sequence[GeminiReader] = [] if content is None else content.items("parts")
    texts = []
    for part in parts:
        texts.append(part.text("text"))
        if (name := part.first_unread()) is not None:
            raise unsupported(part.name(name), "they only embed text.")
    if content is not None:
        content.ignore("role")
        content.drop_rest()
    if not texts:
        param = reader.name("content")
        raise InvalidRequest("invalid_value", f"`{param}` has no `parts` with text.", param=param)
    dimensions = reader.whole("outputDimensionality")
    reader.drop_rest()
    return "\n".join(texts), dimensions


def encode_batch_request(request: VectorRequest, model: str) -> EncodedRequest:
    named = _write_name(model)
    more: dict[str, object] = {}
    if request.dimensions is not None:
        more["outputDimensionality"] = request.dimensions
    items = [{"model": Raw(named), "content": {"parts": [{"text": text}]}, **more} for text in request.texts]
    return EncodedRequest({"requests": Raw(msgspec.json.encode(items))}, request.dropped)


def decode_batch_reply(body: bytes) -> VectorReply:
    """Raises ValueError."""
    try:
        vectors = tuple(one.values for one in _many.decode(body).embeddings)
    except NOT_JSON as exc:
        raise ValueError("the reply has no vectors") from exc
    usage = read_batch_reply(body).usage
    return VectorReply(vectors, None if usage is None else usage.input_tokens)


def encode_reply(reply: VectorReply, request: VectorRequest) -> bytes:
    """Raises ValueError."""
    check_vectors(reply, request)
    usage = {"promptTokenCount": tokens_of(reply, request)}
    return msgspec.json.encode(
        {"embedding": {"values": as_numbers(reply.vectors[0])}, "usageMetadata": usage}
    )


def encode_batch_reply(reply: VectorReply, request: VectorRequest) -> bytes:
    """Raises ValueError."""
    check_vectors(reply, request)
    vectors = [{"values": as_numbers(vector)} for vector in reply.vectors]
    usage = {"promptTokenCount": tokens_of(reply, request)}
    return msgspec.json.encode({"embeddings": vectors, "usageMetadata": usage})


GEMINI_EMBED = Format(
    name="gemini_embed",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=no_events,
    write_error=write_gemini_error,
    write_stream_error=write_stream_error,
    is_error=is_gemini_error,
    vectors=ClientVectorCodec(decode_request=decode_request, encode_reply=encode_reply),
)
GEMINI_BATCH_EMBED = structs.replace(
    GEMINI_EMBED,
    name="gemini_batch_embed",
    read_request=read_batch_request,
    prepare=prepare_batch,
    read_reply=read_batch_reply,
    vectors=VectorCodec(
        decode_request=decode_batch_request,
        encode_request=encode_batch_request,
        decode_reply=decode_batch_reply,
        encode_reply=encode_batch_reply,
        most_texts=_MOST_TEXTS,
    ),
)
