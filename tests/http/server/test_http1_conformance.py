"""One ASGI app over this server and over Hypercorn: the same requests give the same responses, except for a
table of differences, which are checked too.
"""

from functools import partial

import hypercorn.config
import hypercorn.trio
import pytest
import trio

from bluesminds.http.server.serve import bind_tcp
from tests.http.conformance_app import app
from tests.http.serving import Answer, Client, start

H2C = (
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
)
# name: (requests sent in one go, their methods)
CASES: dict[str, tuple[bytes, list[str]]] = {
    "get": (b"GET /a%20b?q=1 HTTP/1.1\r\nHost: test\r\nX-One: 1\r\nX-Two:  2 \r\n\r\n", ["GET"]),
    "same header twice": (b"GET / HTTP/1.1\r\nHost: test\r\nX: 1\r\nX: 2\r\n\r\n", ["GET"]),
    "post": (b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello", ["POST"]),
    "post chunked": (
        b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
        ["POST"],
    ),
    "get with a body": (b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello", ["GET"]),
    "pipelined": (b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" * 3 % (1, 2, 3), ["GET"] * 3),
    "http/1.0": (b"GET / HTTP/1.0\r\n\r\n", ["GET"]),
    "http/1.0 stream": (b"GET /stream HTTP/1.0\r\n\r\n", ["GET"]),
    "options": (b"OPTIONS / HTTP/1.1\r\nHost: test\r\n\r\n", ["OPTIONS"]),
    "stream": (b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "sized": (b"GET /sized HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "empty": (b"GET /empty HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "cookies": (b"GET /cookies HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "head": (
        b"HEAD /sized HTTP/1.1\r\nHost: test\r\n\r\nGET /empty HTTP/1.1\r\nHost: test\r\n\r\n",
        ["HEAD", "GET"],
    ),
    "close": (b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", ["GET"]),
    "late": (
        b"GET /late HTTP/1.1\r\nHost: test\r\n\r\nGET /late HTTP/1.1\r\nHost: test\r\n\r\n",
        ["GET", "GET"],
    ),
    "half": (b"GET /half HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "fail": (b"GET /fail HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "silent": (b"GET /silent HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "early": (b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello", ["POST"]),
    "malformed": (b"GET / HTTP/1.1\r\nHost : test\r\n\r\n", ["GET"]),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", ["GET"]),
    "bare LF": (b"GET / HTTP/1.1\nHost: test\n\n", ["GET"]),
    "obs-fold": (b"GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n", ["GET"]),
    "query only": (b"GET ?x HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "fragment": (b"GET /#x HTTP/1.1\r\nHost: test\r\n\r\n", ["GET"]),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", ["GET"]),
    "CL and TE": (
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ["POST"],
    ),
    "h2c": (H2C, ["GET"]),
    "continue": (
        b"POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        ["POST"],
    ),
}

# name: (our statuses, Hypercorn's); 0 is no answer. Everything else agrees.
DIFFERENCES = {
    "bare LF": ([400], [200]),
    "obs-fold": ([400], [200]),
    "query only": ([400], [200]),
    "fragment": ([400], [200]),
    "CL and TE": ([400], [200]),
    "h2c": ([200], [0]),  # ours ignores the upgrade; Hypercorn switches protocols
}
APPS_OWN = {"early"}  # errors that the app answers, so that their bodies agree too


def summary(name: str, answer: Answer) -> tuple[object, ...]:
    """The parts that must agree: not the framing of complete responses, nor the text of server errors."""
    mute = answer.status >= 400 and name not in APPS_OWN
    kept = {"connection"} if mute else {"connection", "x-kind", "set-cookie", "content-type"}
    headers = {key: value for key, value in answer.headers.items() if key in kept}
    return answer.status, answer.complete, headers, None if mute else answer.body


async def converse(port: int, data: bytes, methods: list[str]) -> list[Answer]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(data)
        client = Client(stream)
        outcomes: list[Answer] = []
        with trio.move_on_after(30):
            for method in methods:  # what came before the time is up is kept
                outcomes.append(await client.read(method))  # noqa: PERF401
        return outcomes


async def start_hypercorn(nursery: trio.Nursery) -> int:
    config = hypercorn.config.Config()
    config.errorlog = None
    config.include_server_header = False
    sock = bind_tcp("127.0.0.1", 0)[0]
    config.bind = [f"fd://{sock.detach()}"]
    binds = await nursery.start(partial(hypercorn.trio.serve, app, config))  # type: ignore[arg-type]
    return int(binds[0].rpartition(":")[2])


@pytest.fixture
async def ports(nursery: trio.Nursery) -> tuple[int, int]:
    theirs = await start_hypercorn(nursery)
    return (await start(nursery, app)).port, theirs


@pytest.mark.parametrize("name", CASES)
async def test_http1_response_agrees_with_hypercorn(name: str, ports: tuple[int, int]) -> None:
    ours, theirs = [await converse(port, *CASES[name]) for port in ports]
    if name in DIFFERENCES:
        assert ([answer.status for answer in ours], [answer.status for answer in theirs]) == DIFFERENCES[name]
    else:
        assert [summary(name, answer) for answer in ours] == [summary(name, answer) for answer in theirs]
        assert len(ours) == len(CASES[name][1])


async def test_http1_complete_response_has_length_unlike_hypercorn(ports: tuple[int, int]) -> None:
    ours, theirs = [(await converse(port, *CASES["get"]))[0].headers for port in ports]
    assert int(ours["content-length"]) > 0
    assert theirs["transfer-encoding"] == "chunked"


async def test_http1_server_errors_have_body_unlike_hypercorn(
    ports: tuple[int, int],
) -> None:
    for name in ("fail", "silent", "malformed"):
        ours, theirs = [(await converse(port, *CASES[name]))[0].body for port in ports]
        assert b'"error"' in ours
        assert theirs == b""
