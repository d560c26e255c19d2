"""The request parser: the split of the input changes nothing, and nothing raises."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.http.server import rejections
from bluesminds.http.server.limits import ListenerLimits
from bluesminds.http.server.request_parser import RequestParser
from tests.http.server.test_smuggling import CORPUS

LIMITS = ListenerLimits(header_bytes=2000, header_lines=20, url_bytes=500, body_bytes=5000, body_chunks=50)
STREAMS = [data for data, _, _ in CORPUS.values()]
PIECES = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.1\r\n",
        b"Host: test\r\n",
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: Upgrade\r\n",
        b"Upgrade: h2c\r\n",
        b"Upgrade: websocket\r\n",
        b"\r\n",
        b"hello",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"X: y\r\n",
        b"\n",
        b"\0",
        b":",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"Expect: 100-continue\r\n",
    ]
)
INPUT = st.one_of(
    st.sampled_from(STREAMS),
    st.lists(PIECES, max_size=25).map(b"".join),
    st.binary(max_size=300),
)


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    parser = RequestParser(LIMITS)
    for piece in pieces:
        parser.feed(piece)
    requests = [
        (request.method, request.target, request.headers, b"".join(request.pieces), request.websocket)
        for request in parser.ready
        if request.complete
    ]
    return requests, parser.rejection and parser.rejection.code, parser.leftover


@given(INPUT, st.lists(st.integers(0, 3000), max_size=8))
def test_parser_any_split_gives_same_requests(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(edges)]
    whole, cut = outcome([data]), outcome(pieces)
    if whole[2]:  # what follows a WebSocket's head is kept only as far as it came with it
        assert whole[:2] == cut[:2]
    else:
        assert whole == cut


@given(st.lists(INPUT, max_size=6))
def test_parser_any_bytes_never_raise_and_memory_is_bounded(pieces: list[bytes]) -> None:
    parser = RequestParser(LIMITS)
    for piece in pieces:
        parser.feed(piece)
        assert sum(len(part) for part in parser.ready[-1].pieces) <= 5000 if parser.ready else True
        assert parser.ended or parser.rejection is None


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans()), min_size=1, max_size=8))
def test_parser_valid_requests_are_returned_whole(bodies: list[tuple[bytes, bool]]) -> None:
    stream = b""
    for body, chunked in bodies:
        if chunked:
            chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
            stream += (
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
            )
        else:
            stream += b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    parser = RequestParser(LIMITS)
    parser.feed(stream)
    assert [b"".join(request.pieces) for request in parser.ready] == [body for body, _ in bodies]
    assert parser.rejection is None


@pytest.mark.parametrize(
    ("content_type", "limit"),
    [
        (b"", 5000),
        (b"Content-Type: application/json\r\n", 5000),
        (b"content-type: Multipart/Form-Data; boundary=a\r\n", 8000),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_parser_largest_body_depends_on_the_content_type(
    content_type: bytes, limit: int, chunked: bool
) -> None:
    limits = replace(LIMITS, form_bytes=8000)
    for size, accepted in ((limit, True), (limit + 1, False)):
        body = b"x" * size
        framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        content = b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else body
        parser = RequestParser(limits)
        parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\n%b%b\r\n\r\n" % (content_type, framing))
        parser.feed(content)
        assert (parser.rejection is None) is accepted
        assert accepted or parser.rejection is rejections.BODY_TOO_LARGE
