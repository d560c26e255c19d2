"""The digest of long JSON has the facts of the whole."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.wire.json_digest import MAX_VALUE, JsonDigest

KEPT = ("usage", "text")


def digest(body: bytes, *cuts: int) -> JsonDigest:
    found = JsonDigest(*KEPT)
    for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True):
        found.feed(body[start:end])
    return found


def expected(value: dict[str, Any]) -> dict[str, Any]:
    return {
        name: one if name in KEPT else [0] * len(one)
        for name, one in value.items()
        if name in KEPT or isinstance(one, list)
    }


def test_digest_keeps_small_values_and_counts_items() -> None:
    value = {
        "created": 1,
        "data": [{"b64_json": "A" * 300_000}, {"x": [1, [2], {"y": 'a,b"]}'}]}],
        "usage": {"a": [1, 2], "b": "\\"},
        "text": 'h\\"i',
        "empty": [],
        "one": [[]],
    }
    found = digest(json.dumps(value).encode())
    assert found.is_complete and json.loads(found.write()) == expected(value)
    assert len(found.write()) < 200


texts = st.text(st.sampled_from('ab"\\{}[],: é\n'), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
names = st.sampled_from([*KEPT, "data", "created"]) | texts
objects = st.dictionaries(names, values, max_size=6)


@given(objects, st.sampled_from([None, 1, 2]), st.booleans(), st.data())
def test_any_split_of_an_object_has_the_same_digest(
    value: dict[str, Any], indent: int | None, ascii_: bool, data: st.DataObject
) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode() + b"\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=9)))
    found = digest(body, *cuts)
    assert found.is_complete
    plain = {name: one for name, one in value.items() if json.dumps(name, ensure_ascii=ascii_) == f'"{name}"'}
    read = json.loads(found.write())
    assert {name: read[name] for name in read if name in plain} == expected(plain)


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_bytes_have_a_digest(pieces: list[bytes]) -> None:
    found = JsonDigest(*KEPT)
    for piece in pieces:
        found.feed(piece)
    assert found.write().startswith(b"{")


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"a":1', b'{"a":"}', b"[1]", b'"{}"', b"x{}", b"{}x", b"{}{}", b'{"a":[1}']
)
def test_incomplete_object_is_noticed(body: bytes) -> None:
    assert not digest(body).is_complete
    assert not digest(body, *range(1, len(body))).is_complete


def test_value_that_is_too_long_is_left_out() -> None:
    body = json.dumps({"text": "a" * (MAX_VALUE + 9), "usage": {"a": 1}}).encode()
    assert json.loads(digest(body, 1000, 200_000).write()) == {"usage": {"a": 1}}
