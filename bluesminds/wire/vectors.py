"""The neutral form of requests for embeddings, and of their replies.

A vector keeps the bytes of its JSON, because it is usually only passed on.
"""

import struct
from base64 import b64decode, b64encode
from collections.abc import Callable

import msgspec
from msgspec import Raw, Struct

from bluesminds.wire.conversation import EncodedRequest
from bluesminds.wire.json_text import NOT_JSON, Fields

_numbers = msgspec.json.Decoder(list[float])
_text = msgspec.json.Decoder(str)


class VectorRequest(Struct, frozen=True):
    """Texts to be embedded. `packed`: the client wants its vectors in base64. `expected_input`: tokens, for a
    reply without usage. `dropped`: fields without an equivalent.
    """

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    packed: bool = False
    expected_input: int = 0
    dropped: tuple[str, ...] = ()


class VectorReply(Struct, frozen=True):
    """One vector for each text, as a JSON list or as base64 of 32-bit floats. `input_tokens` is None if the
    server does not report them.
    """

    vectors: tuple[Raw, ...]
    input_tokens: int | None = None


class ClientVectorCodec(Struct, frozen=True, kw_only=True):
    """Converts a client's format for embeddings: its requests to the neutral form, and replies from it. Every
    function is pure.

    `decode_request` raises InvalidRequest: "unsupported_by_server" for a field that changes the meaning and
    has no equivalent. `encode_reply` raises ValueError for a reply without a vector for each text.
    """

    decode_request: Callable[[Fields], VectorRequest]
    encode_reply: Callable[[VectorReply, VectorRequest], bytes]


class VectorCodec(ClientVectorCodec, frozen=True, kw_only=True):
    """Converts in both directions, so that servers can get requests in this format. `encode_request` gets the
    server's name of the model. `decode_reply` raises ValueError. `most_texts`: how many a server takes in
    one request; 0: any number.
    """

    encode_request: Callable[[VectorRequest, str], EncodedRequest]
    decode_reply: Callable[[bytes], VectorReply]
    most_texts: int = 0


def check_vectors(reply: VectorReply, request: VectorRequest) -> None:
    """Raises ValueError unless each text has a vector."""
    if len(reply.vectors) != len(request.texts):
        raise ValueError("the number of vectors is not the number of texts")


def tokens_of(reply: VectorReply, request: VectorRequest) -> int:
    """The tokens in the reply to the client: as reported, otherwise as estimated."""
    return request.expected_input if reply.input_tokens is None else reply.input_tokens


def as_numbers(vector: Raw) -> Raw:
    """The vector as a JSON list. Raises ValueError."""
    if bytes(vector).startswith(b"["):
        return vector
    try:
        packed = b64decode(_text.decode(vector), validate=True)
        return Raw(msgspec.json.encode(struct.unpack(f"<{len(packed) // 4}f", packed)))
    except (*NOT_JSON, struct.error) as exc:
        raise ValueError("a vector is neither a list nor base64") from exc


def as_base64(vector: Raw) -> Raw:
    """The vector as base64 of little-endian 32-bit floats. Raises ValueError."""
    if bytes(vector).startswith(b'"'):
        return vector
    try:
        numbers = _numbers.decode(vector)
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except (*NOT_JSON, struct.error, OverflowError) as exc:
        raise ValueError("a vector is not a list of numbers") from exc
    return Raw(msgspec.json.encode(b64encode(packed).decode()))
