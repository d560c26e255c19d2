"""POST /embeddings and POST /rerank: texts as vectors of hashed three-letter sequences.

Texts that share many words or parts of words have a small angle between their vectors.
"""

import math
import operator
import struct
import zlib
from base64 import b64encode
from typing import Annotated, Literal

from msgspec import Meta, Struct

from bluesminds.providers.demo.completions import texts_of
from bluesminds.providers.demo.script import DemoError, Script, identifier, read, response
from bluesminds.providers.demo.text import tokens_of

_DIMENSIONS = 256
_MAX_INPUTS = 2048
_MAX_NUMBERS = 1_000_000  # all vectors of a response
_MAX_TOKENS = 20_000  # all texts of a request; they are hashed on the event loop


class _EmbeddingRequest(Struct):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: Annotated[int, Meta(ge=1, le=4096)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class _Document(Struct):
    text: str


class _RerankRequest(Struct):
    model: str
    query: str
    documents: Annotated[list[str | _Document], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None


def embeddings(body: bytes) -> Script:
    """Raises DemoError."""
    request = read(body, _EmbeddingRequest)
    texts = texts_of(request.input, "input")
    if not texts or not all(texts):
        raise DemoError("input must have a text, and no text may be empty.", "input")
    tokens = _counted(texts, "input")
    size = request.dimensions or _DIMENSIONS
    if size * len(texts) > _MAX_NUMBERS:
        raise DemoError(
            f"With {size} dimensions a request can have {_MAX_NUMBERS // size} texts.", "dimensions"
        )
    data: list[dict[str, object]] = []
    for index, text in enumerate(texts):
        packed = struct.pack(f"<{size}f", *vector(text, size))
        encoded = request.encoding_format == "base64"
        value = b64encode(packed).decode() if encoded else list(struct.unpack(f"<{size}f", packed))
        data.append({"object": "embedding", "index": index, "embedding": value})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return response({"object": "list", "data": data, "model": request.model, "usage": usage})


def rerank(body: bytes) -> Script:
    """Raises DemoError."""
    request = read(body, _RerankRequest)
    texts = [one if isinstance(one, str) else one.text for one in request.documents]
    tokens = _counted([request.query, *texts], "documents")
    query = vector(request.query, _DIMENSIONS)
    scores = [_similarity(query, vector(text, _DIMENSIONS)) for text in texts]
    rows = [
        {"index": index, "relevance_score": scores[index]}
        | ({"document": {"text": texts[index]}} if request.return_documents else {})
        for index in sorted(range(len(texts)), key=lambda index: -scores[index])
    ]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return response(
        {
            "id": identifier("rerank", body),
            "object": "list",
            "model": request.model,
            "results": rows[: request.top_n],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "meta": meta | {"tokens": {"input_tokens": tokens}},
        }
    )


def vector(text: str, size: int) -> list[float]:
    """A unit vector."""
    sums = [0.0] * size
    for word in text.lower().split():
        padded = f" {word} "
        for at in range(len(padded) - 2):
            code = zlib.crc32(padded[at : at + 3].encode())
            sums[code % size] += 1.0 if code & 0x80000000 else -1.0
    length = math.hypot(*sums)
    return [value / length for value in sums] if length else [1.0, *sums[1:]]


def _similarity(one: list[float], other: list[float]) -> float:
    """From 0 to 1: the cosine of the angle, without its negative half."""
    cosine = math.fsum(map(operator.mul, one, other))
    return round(min(1.0, max(0.0, cosine)), 6)


def _counted(texts: list[str], param: str) -> int:
    tokens = sum(len(tokens_of(text)) for text in texts)
    if len(texts) > _MAX_INPUTS or tokens > _MAX_TOKENS:
        limits = f"{_MAX_INPUTS} texts and {_MAX_TOKENS} tokens"
        raise DemoError(f"{param} is too large: the demo server accepts {limits} in one request.", param)
    return tokens
