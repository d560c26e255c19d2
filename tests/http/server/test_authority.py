"""Authorities: every accepted one is accepted by later readers too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.routing import Map

from bluesminds.http.server.authority import is_valid_authority
from tests.cases import each


@pytest.mark.parametrize("value", [b"a", b"a.", b"a-b.c:80", b"a" * 63 + b":8080", b"127.0.0.1", b"[::1]:80"])
def test_authority_valid_is_accepted(value: bytes) -> None:
    assert is_valid_authority(value)


@each(
    "value",
    [
        b"",
        b".",
        b":80",
        b".x",
        b"a..b",
        b"a" * 64,
        b"u@x",
        b"a b",
        b"a/b",
        b"<script>",
        b"\xff",
        b"a:b",
        b"[a",
    ],
)
def test_authority_invalid_is_rejected(value: bytes) -> None:
    assert not is_valid_authority(value)


@given(st.lists(st.sampled_from("aZ9._~!$&'()*+;=%-:[]" + "b" * 5), max_size=80).map("".join))
def test_authority_accepted_is_accepted_by_the_router(value: str) -> None:
    if is_valid_authority(value.encode()):
        Map().bind(value)
