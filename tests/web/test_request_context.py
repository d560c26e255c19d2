"""Building a RequestContext from an ASGI scope."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import trio_test

from bluesminds.common.clock import SystemClock
from bluesminds.common.values import RequestContext
from bluesminds.web.request_context import read_request_context

names = st.sampled_from(
    [b"authorization", b"x-api-key", b"api-key", b"x-request-id", b"traceparent", b"cookie", b"x"]
)
headers = st.lists(st.tuples(names, st.binary(max_size=80)), max_size=8)


def read_context(*sent: tuple[bytes, bytes], client: Any = ("10.0.0.1", 5)) -> RequestContext:
    scope = {"method": "POST", "path": "/v1/x", "headers": list(sent), "client": client}
    return read_request_context(scope, "chat.completions", SystemClock())


@given(headers)
def test_read_request_context_of_any_headers_does_not_raise(sent: list[tuple[bytes, bytes]]) -> None:
    @trio_test
    async def read() -> None:
        context = read_context(*sent)
        assert 1 <= len(context.request_id) <= 64
        assert all(char.isalnum() or char in "._-" for char in context.request_id)
        assert all(name == b"traceparent" for name, _ in context.forward)
        assert uuid.UUID(context.id).version == 7

    read()


@pytest.mark.parametrize(
    ("sent", "header", "credential"),
    [
        ([], None, None),
        ([(b"authorization", b"Bearer k")], "authorization", "k"),
        ([(b"authorization", b"BEARER   k ")], "authorization", "k"),
        ([(b"authorization", b"k")], "authorization", "k"),
        ([(b"x-api-key", b"k")], "x-api-key", "k"),
        ([(b"api-key", b"a"), (b"x-api-key", b"x")], "x-api-key", "x"),
        ([(b"x-api-key", b"x"), (b"authorization", b"Bearer a")], "authorization", "a"),
        ([(b"x-api-key", b"first"), (b"x-api-key", b"second")], "x-api-key", "first"),
        ([(b"authorization", b"Bearer ")], "authorization", ""),
    ],
)
async def test_read_request_context_finds_the_credential(
    sent: list[tuple[bytes, bytes]], header: str | None, credential: str | None
) -> None:
    context = read_context(*sent)
    assert (context.credential_header, context.credential) == (header, credential)


async def test_read_request_context_keeps_only_a_valid_request_id() -> None:
    assert read_context((b"x-request-id", b"Abc.9_-" * 9)).request_id == "Abc.9_-" * 9
    assert read_context((b"x-request-id", b"a" * 64)).request_id == "a" * 64
    for insane in (b"", b"a" * 65, b"a b", b"a\n", b"\xff"):
        context = read_context((b"x-request-id", insane))
        assert context.request_id == context.id


async def test_read_request_context_without_client_address_is_local() -> None:
    assert read_context(client=None).client == "local"
    assert read_context().client == "10.0.0.1"
