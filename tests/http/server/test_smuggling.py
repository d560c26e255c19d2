"""Ambiguous input: a malformed request gets an error and closes its connection. The app only sees the valid
requests before it.
"""

import contextlib

import pytest
import trio

from bluesminds.http.asgi import Receive, Scope, Send
from tests.http.serving import Client, answer, app_of, body_of, patient, start

POST = b"POST / HTTP/1.1\r\nHost: test\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"

# name: (bytes, how many requests the app may see, status that ends the connection or None)
CORPUS: dict[str, tuple[bytes, int, int | None]] = {
    "CL.TE": (POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", 0, 400),
    "TE.CL": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX", 0, 400),
    "TE.TE": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 0, 400),
    "TE twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400),
    "TE not last": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 0, 400),
    "TE unknown": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0, 501),
    "TE misspelt": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 0, 501),
    "TE identity": (POST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 0, 501),
    "TE behind a vertical tab": (POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 0, 400),
    "TE in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400),
    "TE in capitals": (POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n" + SMUGGLED, 2, None),
    "TE with an underscore is another header": (
        POST + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
        1,
        400,
    ),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 0, 400),
    "the same length twice": (POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 0, 400),
    "length list": (POST + b"Content-Length: 5, 5\r\n\r\nhello", 0, 400),
    "length with a sign": (POST + b"Content-Length: +5\r\n\r\nhello", 0, 400),
    "negative length": (POST + b"Content-Length: -5\r\n\r\nhello", 0, 400),
    "hex length": (POST + b"Content-Length: 0x5\r\n\r\nhello", 0, 400),
    "empty length": (POST + b"Content-Length:\r\n\r\nhello", 0, 400),
    "length with a space": (POST + b"Content-Length: 5 0\r\n\r\nhello", 0, 400),
    "length beyond 64 bits": (POST + b"Content-Length: 18446744073709551621\r\n\r\nhello", 0, 400),
    "space before the colon": (POST + b"Content-Length : 5\r\n\r\nhello", 0, 400),
    "obs-fold": (POST + b"X: a\r\n b\r\n\r\n", 0, 400),
    "fold before the first header": (b"GET / HTTP/1.1\r\n Host: test\r\n\r\n", 0, 400),
    "bare LF after the request line": (b"GET / HTTP/1.1\nHost: test\r\n\r\n", 0, 400),
    "bare LF after a header": (b"GET / HTTP/1.1\r\nHost: test\n\r\n", 0, 400),
    "bare CR in a header": (b"GET / HTTP/1.1\r\nHost: test\r\nX: a\rb\r\n\r\n", 0, 400),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: test\r\nX: a\0b\r\n\r\n", 0, 400),
    "control character in a header": (b"GET / HTTP/1.1\r\nHost: test\r\nX: a\x01b\r\n\r\n", 0, 400),
    "header without a name": (b"GET / HTTP/1.1\r\nHost: test\r\n: x\r\n\r\n", 0, 400),
    "header without a colon": (b"GET / HTTP/1.1\r\nHost: test\r\nX\r\n\r\n", 0, 400),
    "non-ASCII header name": (b"GET / HTTP/1.1\r\nHost: test\r\nX\xe9: x\r\n\r\n", 0, 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: test\r\nHost: test\r\n\r\n", 0, 400),
    "no Host in 1.1": (b"GET / HTTP/1.1\r\n\r\n", 0, 400),
    "no Host in 1.0": (b"GET / HTTP/1.0\r\n\r\n", 1, None),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: test/x\r\n\r\n", 0, 400),
    "Host with a user": (b"GET / HTTP/1.1\r\nHost: a@test\r\n\r\n", 0, 400),
    **{
        f"Host {value!r}": (b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value, 0, 400)
        for value in (b"", b".", b"..", b".x", b"a..b", b"a" * 64, b"a." + b"b" * 64 + b".c", b"a." * 128)
    },
    **{
        f"Host {value[:20]!r}": (b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % value, 1, None)
        for value in (b"a.", b"a_b", b"A.b:80", b"a:", b"a" * 63 + b":8080", b"xn--bcher-kva.example")
    },
    **{
        f"request line {line!r}": (b"%b\r\nHost: test\r\n\r\n" % line, 0, 400)
        for line in (
            b"GET  /x HTTP/1.1",
            b"GET /x  HTTP/1.1",
            b"GET /x HTTP/1.1 ",
            b" GET /x HTTP/1.1",
            b"GET\t/x HTTP/1.1",
            b"OPTIONS /x RTSP/1.0",
            b"SOURCE /x ICE/1.0",
            b"GET /x http/1.1",
        )
    },
    "two spaces after a request": (SMUGGLED + b"GET  /smuggled HTTP/1.1\r\nHost: test\r\n\r\n", 1, 400),
    "two spaces after a body": (
        POST + b"Content-Length: 5\r\n\r\nhelloGET  / HTTP/1.1\r\nHost: test\r\n\r\n",
        1,
        400,
    ),
    "two spaces after a chunked body": (
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\nGET  / HTTP/1.1\r\nHost: test\r\n\r\n",
        1,
        400,
    ),
    "two spaces after an ignored upgrade": (
        SMUGGLED[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET  / HTTP/1.1\r\nHost: test\r\n\r\n",
        1,
        400,
    ),
    "Host list": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 0, 400),
    "Host not UTF-8": (b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", 0, 400),
    "Host as IPv6": (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 1, None),
    "absolute form": (b"GET http://TEST/x HTTP/1.1\r\nHost: test\r\n\r\n", 1, None),
    "absolute form of another host": (b"GET http://other/x HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "absolute form with a user": (b"GET http://a@test/x HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "absolute form of another scheme": (b"GET ftp://test/x HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "target without a slash": (b"GET x HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "target of a query only": (b"GET ?x HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "target with a fragment": (b"GET /a#b HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "target with a space": (b"GET /a b HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "target not ASCII": (b"GET /\xff HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "asterisk for GET": (b"GET * HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "asterisk for OPTIONS": (b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", 1, None),
    "CONNECT": (b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n" + SMUGGLED, 0, 501),
    "HTTP/0.9": (b"GET /\r\n\r\n", 0, 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: test\r\n\r\n", 0, 400),
    "HTTP/2 by word": (b"GET / HTTP/2.0\r\nHost: test\r\n\r\n", 0, 505),
    "HTTP/2 by prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 400),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "unknown method": (b"FOO / HTTP/1.1\r\nHost: test\r\n\r\n", 0, 400),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0, 400),
    "chunk size with a space": (CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", 0, 400),
    "chunk size in 0x": (CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 0, 400),
    "chunk size negative": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 0, 400),
    "chunk size beyond 64 bits": (CHUNKED + b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n", 0, 400),
    "chunk size ended by LF": (CHUNKED + b"5\nhello\r\n0\r\n\r\n", 0, 400),
    "chunk longer than its size": (CHUNKED + b"5\r\nhelloX\r\n0\r\n\r\n", 0, 400),
    "chunk extension with LF": (CHUNKED + b"5;\n\r\nhello\r\n0\r\n\r\n", 0, 400),
    "chunk extension with a control character": (CHUNKED + b"5;a\x01\r\nhello\r\n0\r\n\r\n", 0, 400),
    "chunk extension": (CHUNKED + b'5;a="b"\r\nhello\r\n0\r\n\r\n' + SMUGGLED, 2, None),
    "trailers are dropped": (CHUNKED + b"5\r\nhello\r\n0\r\nHost: evil\r\nX: y\r\n\r\n" + SMUGGLED, 2, None),
    "length in a trailer": (CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n" + SMUGGLED, 0, 400),
    "GET with a body": (
        b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello" + SMUGGLED,
        2,
        None,
    ),
    "GET with a request as its body": (
        b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
        1,
        None,
    ),
    "valid, then malformed": (SMUGGLED + SMUGGLED + b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + SMUGGLED, 2, 400),
    "after Connection: close": (
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n" + SMUGGLED,
        1,
        None,
    ),
    "empty lines first": (b"\r\n\r\n" + SMUGGLED, 1, None),
    "h2c upgrade with a body": (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        b"Content-Length: 5\r\n\r\nhello" + SMUGGLED,
        2,
        None,
    ),
    "h2c upgrade with a chunked body": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED,
        2,
        None,
    ),
    "h2c upgrade with bad settings": (
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: a\r\n\r\n" + SMUGGLED,
        2,
        None,
    ),
    "h2c upgrade and close": (
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n" + SMUGGLED,
        1,
        None,
    ),
    "WebSocket upgrade of a POST": (
        POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello" + SMUGGLED,
        2,
        None,
    ),
}


async def send_in_pieces(stream: trio.SocketStream, data: bytes, size: int) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        for start_of_piece in range(0, len(data), size):
            await stream.send_all(data[start_of_piece : start_of_piece + size])
        await stream.send_eof()


@pytest.mark.parametrize("pieces", [0, 1], ids=["whole", "byte by byte"])
async def test_app_with_ambiguous_input_sees_only_valid_requests(
    pieces: int, nursery: trio.Nursery, subtests: pytest.Subtests
) -> None:
    seen = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if await body_of(receive) is not None:
            seen.append(scope["path"])
            await answer(send)

    served = await start(nursery, app, patient())
    for name, (data, valid, last) in CORPUS.items():
        with subtests.test(name):
            seen.clear()
            served.errors.clear()
            with trio.fail_after(60):
                statuses = await statuses_of(await served.connect(), data, pieces or len(data))
            assert len(seen) == valid
            assert statuses == [200] * valid + ([] if last is None else [last])
            assert not served.errors


async def statuses_of(stream: trio.SocketStream, data: bytes, size: int) -> list[int]:
    statuses = []
    async with stream:
        await send_in_pieces(stream, data, size)
        client = Client(stream)
        while (got := await client.read()).complete:
            statuses.append(got.status)
            if got.headers.get("connection") == "close":
                break
    return statuses
