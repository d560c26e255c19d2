"""HTTP/1.1 over real sockets: framing, bodies, early responses, limits, deadlines, disconnects."""

import json
import select

import pytest
import trio
import trio.testing

from bluesminds.http.asgi import ASGIApp, ClientDisconnected, Message, Receive, Scope, Send
from bluesminds.http.server import connection
from tests.http.serving import Client, answer, app_of, body_of, echo, eventually, patient, read_all, start

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: test\r\n"


def streaming(*pieces: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> ASGIApp:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def code_of(body: bytes) -> str:
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    return str(error["code"])


# Answers


async def test_response_complete_is_one_segment_with_length_and_date(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo)
    async with await served.connect() as stream:
        await stream.send_all(GET)
        raw = await stream.receive_some(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK"
    assert b"content-length: 6" in lines
    assert any(line.startswith(b"date: ") for line in lines)
    assert body == b"GET / "


async def test_pipelined_requests_are_answered_in_order(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo)
    async with await served.connect() as stream:
        client = Client(stream)
        for _ in range(3):
            assert (await client.ask(GET)).body == b"GET / "
        requests = [b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % index for index in range(200)]
        await stream.send_all(b"".join(requests))
        for index in range(200):
            assert (await client.read()).body == b"GET /%d " % index
    assert served.stats.accepted == 1
    assert served.stats.requests == 203


async def test_response_stream_is_chunked(nursery: trio.Nursery) -> None:
    served = await start(nursery, streaming(b"one", b"", b"two"))
    async with await served.connect() as stream:
        got = await Client(stream).ask(GET)
    assert got.headers["transfer-encoding"] == "chunked"
    assert got.body == b"onetwo"
    assert got.complete


async def test_http_1_0_response_has_no_chunks(nursery: trio.Nursery) -> None:
    served = await start(nursery, streaming(b"one", b"two"))
    raw = await served.ask(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"chunked" not in head
    assert body == b"onetwo"


async def test_http_1_0_keep_alive_is_honoured(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo)
    async with await served.connect() as stream:
        client = Client(stream)
        for _ in range(2):
            got = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert got.headers["connection"] == "keep-alive"


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_response_to_head_or_bodiless_status_has_no_body(status: int, nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"twelve bytes", status)

    served = await start(nursery, app)
    async with await served.connect() as stream:
        client = Client(stream)
        for _ in range(2):
            got = await client.ask(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n", "HEAD")
            assert (got.status, got.body) == (status, b"")
            assert got.headers.get("content-length") == ("12" if status == 200 else None)
        got = await client.ask(GET)
        assert got.body == (b"twelve bytes" if status == 200 else b"")


async def test_response_framing_headers_of_app_are_dropped(nursery: trio.Nursery) -> None:
    headers = ((b"Transfer-Encoding", b"chunked"), (b"Keep-Alive", b"x"), (b"Connection", b"close"))
    served = await start(nursery, streaming(b"x", headers=headers))
    raw = await served.ask(GET)
    assert raw.count(b"ransfer-") == 1
    assert b"eep-" not in raw
    assert b"connection: close" in raw


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x", b"a\r\nset-cookie: b")],
        [(b"x", b"a\nb")],
        [(b"x", b"a\rb")],
        [(b"x", b"a\0b")],
        [(b"x\r\ny", b"a")],
    ],
)
async def test_response_header_with_line_end_is_500(
    headers: list[tuple[bytes, bytes]], nursery: trio.Nursery
) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, headers=headers)

    served = await start(nursery, app)
    async with await served.connect() as stream:
        got = await Client(stream).ask(GET)
    assert (got.status, code_of(got.body)) == (500, "internal_error")
    assert len(served.errors) == 1


async def test_response_header_with_line_end_in_204_is_500(nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, b"", 204, [(b"x", b"a\r\nset-cookie: b"), (b"connection", b"close")])

    served = await start(nursery, app)
    async with await served.connect() as stream:
        assert (await Client(stream).ask(GET)).status == 500


@pytest.mark.parametrize("declared", [b"2", b"4"])
async def test_response_stream_with_wrong_length_is_cut(declared: bytes, nursery: trio.Nursery) -> None:
    served = await start(nursery, streaming(b"a", b"bc", headers=((b"content-length", declared),)))
    async with await served.connect() as stream:
        got = await Client(stream).ask(GET)
    assert not got.complete
    assert "content-length" in str(served.errors[0])


# Errors of the app


async def test_app_error_before_response_is_500(nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fail":
            raise ValueError("secret")
        if scope["path"] == "/group":
            async with trio.open_nursery() as inner:
                inner.start_soon(trio.sleep_forever)
                raise ValueError("secret")
        if scope["path"] == "/ok":
            await answer(send)

    served = await start(nursery, app)
    for path in (b"/fail", b"/group", b"/silent"):
        async with await served.connect() as stream:
            got = await Client(stream).ask(b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n" % path)
        assert (got.status, code_of(got.body)) == (500, "internal_error")
        assert b"secret" not in got.body
    assert [type(error) for error in served.errors] == [ValueError, ExceptionGroup, RuntimeError]
    async with await served.connect() as stream:
        assert (await Client(stream).ask(b"GET /ok HTTP/1.1\r\nHost: test\r\n\r\n")).status == 200


async def test_app_error_during_response_closes_connection(nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError

    served = await start(nursery, app)
    async with await served.connect() as stream:
        got = await Client(stream).ask(GET)
    assert (got.status, got.body, got.complete) == (200, b"part", False)
    assert len(served.errors) == 1


# Bodies in


async def test_body_received_with_head_is_one_message(nursery: trio.Nursery) -> None:
    messages: list[Message] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        messages.append(await receive())
        await answer(send)

    served = await start(nursery, app)
    async with await served.connect() as stream:
        client = Client(stream)
        await client.ask(POST + b"Content-Length: 5\r\n\r\nhello")
        await client.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
        await client.ask(GET)
    whole = {"type": "http.request", "body": b"hello", "more_body": False}
    assert messages == [whole, whole, {**whole, "body": b""}]


async def test_expect_continue_is_sent_when_app_reads_body(nursery: trio.Nursery) -> None:
    began, asked = trio.Event(), trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/no":
            await answer(send, b"no", 401)
            return
        began.set()
        await asked.wait()
        await answer(send, await body_of(receive) or b"")

    served = await start(nursery, app)
    async with await served.connect() as stream:
        await stream.send_all(POST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        await began.wait()
        assert not select.select([stream.socket.fileno()], [], [], 0)[0], "nothing has been sent"
        asked.set()
        assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        got = await Client(stream).ask(b"hello")
        assert got.body == b"hello"
    raw = await served.ask(
        b"POST /no HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    assert raw.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in raw
    raw = await served.ask(POST + b"Expect: 200-ok\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 417 ")


@pytest.mark.parametrize("status", [401, 413])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n4c4b40\r\n"]
)
async def test_early_response_reaches_client_that_is_sending(
    status: int, framing: bytes, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 3600)

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if status == 401:
            await answer(send, b"{}", 401)
        else:
            await body_of(receive)

    served = await start(nursery, app, patient(body_bytes=1_000_000 if status == 413 else 10_000_000))
    async with await served.connect() as stream:
        await stream.send_all(POST + framing + bytes(5_000_000))  # all of it, before reading anything
        got = await Client(stream).read()
        assert (got.status, got.complete, got.headers["connection"]) == (status, True, "close")
    assert not served.errors


# Limits


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: test\r\n\r\n", 414, "url_too_long"),
        (b"GET /" + b"a" * 1_000_000, 414, "url_too_long"),
        (GET[:-2] + b"X: " + b"a" * 33_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (GET[:-2] + b"X: " + b"a" * 1_000_000, 431, "headers_too_large"),
        (GET[:-2] + b"a" * 1_000_000, 431, "headers_too_large"),
        (GET[:-2] + b"X: y\r\n" * 129 + b"\r\n", 431, "headers_too_large"),
        (GET[:-2] + b"X: y\r\n" * 10_000 + b"\r\n", 431, "headers_too_large"),
        (GET + GET[:-2] + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (GET[:-2] + b"X: \0\r\n\r\n", 400, "malformed_request"),
        (GET[:-2] + b"X: a\r\n b\r\n\r\n", 400, "malformed_request"),
        (POST + b"Content-Length: 33554433\r\n\r\n", 413, "body_too_large"),
    ],
)
async def test_head_oversized_or_malformed_is_rejected(
    request_bytes: bytes, status: int, code: str, nursery: trio.Nursery
) -> None:
    served = await start(nursery, echo)
    async with await served.connect() as stream:
        nursery.start_soon(_send_quietly, stream, request_bytes)
        client = Client(stream)
        got = await client.read()
        if request_bytes.startswith(GET + GET[:9]):
            assert got.status == 200
            got = await client.read()
    assert (got.status, code_of(got.body), got.headers["connection"]) == (status, code, "close")
    assert served.stats.refused[code] == 1


async def _send_quietly(stream: trio.SocketStream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def test_head_at_limit_with_large_body_is_accepted(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo)
    async with await served.connect() as stream:
        head = POST + b"X: " + b"a" * 32_000 + b"\r\nContent-Length: 40000\r\n\r\n"
        got = await Client(stream).ask(head + b"b" * 40_000)
    assert got.body == b"POST / " + b"b" * 40_000


@pytest.mark.parametrize(
    "attack",
    [
        b"1\r\na\r\n" * 250_000,
        (b"1;" + b"x" * 60_000 + b"\r\na\r\n") * 30,
        b"0\r\n" + b"x: y\r\n" * 30_000,
        b"0\r\n" + b"x" * 1_000_000,
    ],
    ids=["one-byte chunks", "long extensions", "many trailers", "endless trailer"],
)
async def test_chunk_flood_is_rejected(attack: bytes, nursery: trio.Nursery) -> None:
    served = await start(nursery, echo)
    async with await served.connect() as stream:
        nursery.start_soon(_send_quietly, stream, POST + b"Transfer-Encoding: chunked\r\n\r\n" + attack)
        got = await Client(stream).read()
    assert (got.status, code_of(got.body)) == (413, "too_many_chunks")


# Deadlines


async def test_head_arriving_slowly_is_rejected_while_others_are_served(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    served = await start(nursery, echo, patient(header_timeout=0.5))
    begun = [served.connect_sending(b"GET /") for _ in range(20)]
    silent = [served.connect_sending(b"") for _ in range(20)]
    await eventually(lambda: served.stats.accepted == 40)
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(0.3)
    for stream in begun:
        await stream.send_all(b"x")
    for stream in silent:
        await stream.send_all(b"\r\n")
    async with served.connect_sending(GET) as other:
        assert (await Client(other).read()).status == 200
    await trio.testing.wait_all_tasks_blocked()
    mock_clock.jump(0.3)
    for stream in begun:
        async with stream:
            assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")
    for stream in silent:
        async with stream:
            assert await read_all(stream) == b""
    await eventually(lambda: served.stats.open == 0)


async def test_head_slow_on_kept_connection_is_rejected(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    served = await start(nursery, echo, patient(header_timeout=0.3))
    async with served.connect_sending(GET) as stream:
        client = Client(stream)
        assert (await client.read()).status == 200
        mock_clock.jump(0.5)  # idle for longer than a head may take
        assert (await client.ask(GET)).status == 200
        await stream.send_all(b"GET / HT")
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(0.4)
        got = await client.read()
    assert (got.status, code_of(got.body)) == (408, "header_timeout")


async def test_body_that_stalls_is_408(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, patient(body_timeout=0.3))
    async with await served.connect() as stream:
        with trio.fail_after(60):
            got = await Client(stream).ask(POST + b"Content-Length: 9\r\n\r\nhel")
    assert (got.status, code_of(got.body)) == (408, "body_timeout")
    assert not served.errors


async def test_body_below_minimum_rate_is_408(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """Uses a clock that only the test moves."""
    had = 0

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal had
        while (message := await receive())["type"] == "http.request":
            had += len(message["body"])

    served = await start(nursery, app, patient(body_timeout=0.4))
    async with await served.connect() as stream:
        await stream.send_all(POST + b"Content-Length: 5000\r\n\r\n")
        sent = 0
        while not served.stats.refused:
            assert sent * 0.05 < 1.4
            mock_clock.jump(0.05)
            await stream.send_all(b"x")
            sent += 1
            while had < sent and not served.stats.refused:
                assert served.stats.open == served.stats.accepted, "cut"
                await trio.lowlevel.checkpoint()
        got = await Client(stream).read()
    assert (got.status, code_of(got.body)) == (408, "body_timeout")


async def test_body_and_reader_slow_but_steady_are_served(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """Uses a clock that only the test moves."""
    had = 0

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal had
        while had < 30_000:
            had += len((await receive())["body"])
        await answer(send, bytes(had * 800))

    served = await start(nursery, app, patient(body_timeout=0.3, write_timeout=0.3))
    async with await served.connect() as stream:
        await stream.send_all(POST + b"Content-Length: 30000\r\n\r\n")
        for number in range(6):
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked()  # what this ends is ended before the next piece
            await stream.send_all(bytes(5000))
            while had < 5000 * (number + 1):
                assert served.stats.open == served.stats.accepted, "cut"
                assert not served.stats.refused
                await trio.lowlevel.checkpoint()
        received = 0
        while received < 24_000_000:  # of which the kernel's buffers hold a part
            piece = await stream.receive_some(400_000)
            assert piece, "cut"
            received += len(piece)
            mock_clock.jump(0.02 * len(piece) / 400_000)
    assert not served.errors
    assert not served.stats.refused


async def test_idle_connection_after_timeout_is_closed_silently(nursery: trio.Nursery) -> None:
    served = await start(nursery, echo, patient(idle_timeout=0.3))
    async with await served.connect() as stream:
        assert (await Client(stream).ask(GET)).status == 200
        with trio.fail_after(60):
            assert await read_all(stream) == b""


async def test_reader_that_stops_blocks_app_and_is_disconnected(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    produced = 0
    outcomes: list[BaseException] = []
    piece = bytes(65536)

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal produced
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                produced += len(piece)
        except ClientDisconnected as error:
            outcomes.append(error)
            raise

    served = await start(nursery, app, patient(write_timeout=0.6))
    streams = [await served.connect() for _ in range(20)]
    for stream in streams:
        await stream.send_all(GET)
    await eventually(lambda: served.stats.requests == 20)
    await trio.testing.wait_all_tasks_blocked(0.05)  # the kernel's buffers are full
    before = produced
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert produced == before
    mock_clock.jump(1)
    await eventually(lambda: len(outcomes) == 20 and not served.stats.open)
    assert served.stats.refused["write_timeout"] == 20
    assert not served.errors
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("cancelled", [False, True])
async def test_complete_response_not_read_closes_connection(
    cancelled: bool, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with trio.move_on_after(0.3 if cancelled else 60):
            await answer(send, bytes(20_000_000))

    served = await start(nursery, app, patient(write_timeout=60 if cancelled else 0.3))
    async with await served.connect() as stream:
        await stream.send_all(GET + GET)
        await eventually(lambda: served.stats.requests == 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        mock_clock.jump(0.4)
        await eventually(lambda: served.stats.accepted == 1 and served.stats.open == 0)
        with pytest.raises(trio.BrokenResourceError):  # reset: the kernel does not go on sending for us
            while await stream.receive_some(65536):
                pass
    assert served.stats.requests == 1
    assert served.stats.refused["write_timeout"] == (0 if cancelled else 1)
    assert served.stats.disconnects == (0 if cancelled else 1)
    assert not served.errors


# Disconnects


@pytest.mark.parametrize("reset", [False, True])
async def test_client_disconnect_is_detected_without_write(reset: bool, nursery: trio.Nursery) -> None:
    events: list[object] = []
    began, done = trio.Event(), trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        disconnect = scope["extensions"]["disconnect"]
        disconnect.add_callback(lambda: events.append("called back"))
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        began.set()
        assert not disconnect.disconnected
        events.append((await receive())["type"])
        assert disconnect.disconnected
        disconnect.add_callback(lambda: events.append("called at once"))
        with pytest.raises(ClientDisconnected):
            await send({"type": "http.response.body", "body": b"y", "more_body": True})
        done.set()

    served = await start(nursery, app)
    stream = await served.connect()
    await stream.send_all(GET)
    await began.wait()
    if reset:
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await stream.aclose()
    with trio.fail_after(60):
        await done.wait()
    assert events == ["called back", "http.disconnect", "called at once"]
    assert served.stats.disconnects == 1
    assert not served.errors


async def test_receive_after_complete_response_returns_disconnect(nursery: trio.Nursery) -> None:
    received: list[str] = []

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def listen() -> None:
            received.append((await receive())["type"])

        await receive()
        async with trio.open_nursery() as inner:
            inner.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await answer(send)
        received.append((await receive())["type"])

    served = await start(nursery, app)
    async with await served.connect() as stream:
        client = Client(stream)
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(GET)).status == 200
        await eventually(lambda: len(received) == 4)
    assert received == ["http.disconnect"] * 4


async def test_send_cancelled_closes_connection(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    outcome: list[str] = []
    over = trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.move_on_after(0.2):
            await send({"type": "http.response.body", "body": bytes(20_000_000), "more_body": True})
        try:
            await send({"type": "http.response.body", "body": b"more"})
        except ClientDisconnected:
            outcome.append("ended")
        over.set()

    served = await start(nursery, app)
    async with await served.connect() as stream:
        await stream.send_all(GET)
        await eventually(lambda: served.stats.requests == 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        mock_clock.jump(0.3)
        await over.wait()
        got = await Client(stream).read()
    assert not got.complete
    assert outcome == ["ended"]


async def test_endless_stream_lets_other_connections_run(nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/short":
            await answer(send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def swallow(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(GET)
            while await stream.receive_some(65536):
                pass

    served = await start(nursery, app)
    nursery.start_soon(swallow, await served.connect())
    with trio.fail_after(60):
        for _ in range(20):
            async with await served.connect() as stream:
                assert (await Client(stream).ask(b"GET /short HTTP/1.1\r\nHost: test\r\n\r\n")).status == 200


async def test_body_that_stalls_during_response_ends_exchange(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    received = trio.Event()

    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def read() -> None:
            while (await receive())["type"] == "http.request":
                pass
            received.set()

        async with trio.open_nursery() as both:
            both.start_soon(read)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            with pytest.raises(ClientDisconnected):
                while True:
                    await send({"type": "http.response.body", "body": bytes(2_000_000), "more_body": True})
                    await trio.lowlevel.checkpoint()

    served = await start(nursery, app, patient(body_timeout=0.5))
    async with await served.connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\nab")
        await eventually(lambda: served.stats.requests == 1)
        await trio.testing.wait_all_tasks_blocked(0.05)  # a send is waiting for the client
        mock_clock.jump(1)
        await read_all(stream)
        await received.wait()


@pytest.mark.parametrize("body", [b"abc", b"abcdefg"])
async def test_complete_response_with_wrong_length_is_500(body: bytes, nursery: trio.Nursery) -> None:
    @app_of
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, body, headers=[(b"content-length", b"5")])

    served = await start(nursery, app)
    got = await served.ask(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 500 ")
    assert b"internal_error" in got
    assert [type(error) for error in served.errors] == [RuntimeError]
