"""Requests for embeddings and their replies, in OpenAI's and in Gemini's format."""

import json
import struct
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.base import FormatName
from bluesminds.wire.formats import FORMATS, client_vectors_of, codec_of, vectors_of
from bluesminds.wire.json_text import write_fields
from bluesminds.wire.requests import read_body
from bluesminds.wire.vectors import VectorReply, VectorRequest

FORMAT_NAMES: list[FormatName] = ["embeddings", "gemini_batch_embed"]
NAMED = {"model": Raw(b'"m"')}
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
requests = st.builds(
    VectorRequest,
    model=st.just("m"),
    texts=st.lists(st.text(), min_size=1, max_size=5).map(tuple),
    dimensions=st.none() | st.integers(1, 4096),
    expected_input=st.integers(0, 9),
)


def content(*texts: str) -> dict[str, Any]:
    return {"parts": [{"text": text} for text in texts]}


def decoded(name: FormatName, body: dict[str, Any]) -> VectorRequest:
    return client_vectors_of(name).decode_request(read_body(json.dumps(body).encode()) | NAMED)


@pytest.mark.parametrize("name", FORMAT_NAMES)
@given(request=requests)
def test_vector_request_survives_each_format(name: FormatName, request: VectorRequest) -> None:
    codec = vectors_of(name)
    encoded = codec.encode_request(request, "m")
    assert not encoded.dropped
    fields = read_body(write_fields(encoded.fields)) | NAMED
    assert codec.decode_request(fields) == structs.replace(request, expected_input=0)


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("packed", [False, True])
@given(vectors=st.lists(st.lists(numbers, min_size=1, max_size=4), min_size=1, max_size=4))
def test_vectors_survive_each_format(name: FormatName, packed: bool, vectors: list[list[float]]) -> None:
    """Also if the server's or the client's vectors are in base64."""
    codec = vectors_of(name)
    raws = tuple(Raw(json.dumps(vector).encode()) for vector in vectors)
    request = VectorRequest("m", ("a",) * len(vectors), packed=packed)
    reply = codec.decode_reply(codec.encode_reply(VectorReply(raws, 3), request))
    assert reply.input_tokens == 3
    plain = codec.decode_reply(codec.encode_reply(reply, structs.replace(request, packed=False)))
    assert [json.loads(bytes(vector)) for vector in plain.vectors] == vectors


def test_base64_of_a_server_becomes_numbers_for_gemini() -> None:
    packed = b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    body = json.dumps({"data": [{"embedding": packed}]}).encode()
    reply = vectors_of("embeddings").decode_reply(body)
    request = VectorRequest("m", ("a",), expected_input=4)
    one = json.loads(client_vectors_of("gemini_embed").encode_reply(reply, request))
    assert one == {"embedding": {"values": [0.5, -1.0]}, "usageMetadata": {"promptTokenCount": 4}}


def test_vectors_of_a_server_are_sorted_by_index() -> None:
    rows = [{"index": 1, "embedding": [1]}, {"index": 0, "embedding": [0]}]
    reply = vectors_of("embeddings").decode_reply(json.dumps({"data": rows}).encode())
    assert [bytes(vector) for vector in reply.vectors] == [b"[0]", b"[1]"]


@pytest.mark.parametrize(
    ("name", "body", "texts", "dimensions", "dropped"),
    [
        ("embeddings", {"input": "a", "user": "u"}, ("a",), None, ("user",)),
        ("embeddings", {"input": [" [1]", ""], "dimensions": None}, (" [1]", ""), None, ()),
        (
            "gemini_embed",
            {"content": content("a", "b") | {"role": "user"}, "taskType": "X", "output_dimensionality": 3},
            ("a\nb",),
            3,
            ("taskType",),
        ),
        (
            "gemini_batch_embed",
            {"requests": [{"model": "models/m", "content": content("a"), "title": "t"}]},
            ("a",),
            None,
            ("requests.title",),
        ),
    ],
)
def test_vector_request_is_read(
    name: FormatName,
    body: dict[str, Any],
    texts: tuple[str, ...],
    dimensions: int | None,
    dropped: tuple[str, ...],
) -> None:
    request = decoded(name, body)
    assert (request.texts, request.dimensions, request.dropped) == (texts, dimensions, dropped)


@pytest.mark.parametrize(
    ("name", "body", "code", "param"),
    [
        ("embeddings", {"input": [1, 2]}, "unsupported_by_server", "input"),
        ("embeddings", {"input": [[1, 2], [3]]}, "unsupported_by_server", "input"),
        ("embeddings", {"input": []}, "invalid_value", "input"),
        ("embeddings", {"input": {"a": 1}}, "invalid_value", "input"),
        ("embeddings", {"input": "a", "encoding_format": "hex"}, "invalid_value", "encoding_format"),
        ("embeddings", {"input": "a", "dimensions": "3"}, "invalid_value", "dimensions"),
        ("gemini_embed", {"content": {"parts": []}}, "invalid_value", "content"),
        (
            "gemini_embed",
            {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}},
            "unsupported_by_server",
            "content.parts.inlineData",
        ),
        ("gemini_batch_embed", {"requests": []}, "invalid_value", "requests"),
        ("gemini_batch_embed", {"requests": [{}]}, "invalid_value", "requests.content"),
        (
            "gemini_batch_embed",
            {"requests": [{"content": content("a"), "outputDimensionality": 3}, {"content": content("b")}]},
            "unsupported_by_server",
            "requests.outputDimensionality",
        ),
    ],
)
def test_vector_request_that_cannot_be_translated_is_refused(
    name: FormatName, body: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoded(name, body)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"model": "models/other"}, "model_mismatch"),
        ({"model": "other"}, "model_mismatch"),
        ({"model": 1}, "invalid_value"),
        ({"Model": "models/m"}, "invalid_value"),
        ({"_model": "models/other"}, "invalid_value"),
    ],
)
def test_batch_request_with_another_model_than_the_path_is_refused(item: dict[str, Any], code: str) -> None:
    body = json.dumps({"requests": [{"content": content("a")}, item]}).encode()
    with pytest.raises(InvalidRequest) as caught:
        FORMATS["gemini_batch_embed"].read_request(read_body(body) | NAMED)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("embeddings", b"{}"),
        ("embeddings", b'{"data":[{"index":0}]}'),
        ("gemini_batch_embed", b'{"embeddings":[{}]}'),
        ("gemini_batch_embed", b"[]"),
    ],
)
def test_reply_without_vectors_is_no_reply(name: FormatName, body: bytes) -> None:
    with pytest.raises(ValueError, match="no vectors"):
        vectors_of(name).decode_reply(body)


@pytest.mark.parametrize("name", [*FORMAT_NAMES, "gemini_embed"])
@pytest.mark.parametrize("vector", [b'"!"', b'"AAA="', b"1", b"[null]"])
@pytest.mark.parametrize("count", [1, 2])
def test_reply_with_odd_vectors_is_never_sent(name: FormatName, vector: bytes, count: int) -> None:
    """A vector in base64 must have whole numbers of four bytes, and each text must have a vector."""
    request = VectorRequest("m", ("a",), packed=name == "embeddings" and not vector.startswith(b'"'))
    if count == 1 and vector == b"[null]" and not request.packed:
        return  # numbers are passed on unread
    with pytest.raises(ValueError):
        client_vectors_of(name).encode_reply(VectorReply((Raw(vector),) * count), request)


def test_codecs_of_other_formats_are_not_found() -> None:
    for find, name in ((vectors_of, "gemini_embed"), (client_vectors_of, "chat"), (codec_of, "embeddings")):
        with pytest.raises(LookupError):
            find(name)  # type: ignore[operator]
