"""WebSockets of the listener: handshakes, messages both ways, limits, and every way to end."""

import functools

import pytest
import trio
import trio.testing

from bluesminds.http.asgi import Message, Receive, Scope, Send
from bluesminds.http.deadlines import TICK
from bluesminds.http.server import serve as serve_module
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import (
    MAX_CONTROL,
    MAX_FRAGMENTS,
    CloseCode,
    WebSocket,
    WebSocketClosed,
    WebSocketLimits,
    WebSocketViolation,
)
from tests.http.server.test_serve import connect_http2, connect_tls, server_tls
from tests.http.serving import HOST, Client, Served, answer, eventually, patient, read_all, start
from tests.http.sockets import HANDSHAKE, Closed, SocketClient, frame

LIMITS = WebSocketLimits(message_bytes=1000, ping_seconds=3600.0, write_seconds=3600.0)
UPGRADE = b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
VALID = HANDSHAKE % (b"/", b"")
Conversation = list[str | bytes | WebSocketClosed | WebSocketViolation]


class Parrot:
    """An app that repeats messages in upper case and collects what it gets. "stop" makes it close, "fail"
    makes it raise. Requests without a handshake get 426.
    """

    def __init__(self, limits: WebSocketLimits = LIMITS) -> None:
        self.limits = limits
        self.got: Conversation = []
        self.held = 0
        self.draining = False
        self.repeats = True

    def hold(self, size: int) -> None:
        self.held += size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        upgrade = scope["extensions"].get("websocket")
        if upgrade is None:
            await answer(send, b"upgrade", 426, [(b"upgrade", b"websocket")])
        elif scope["path"] == "/no":
            await answer(send, b"no", 403)
        else:
            await self.talk(scope, upgrade)

    async def talk(self, scope: Scope, upgrade: WebSocketUpgrade) -> None:
        offered = [name for name in upgrade.subprotocols if name == "realtime"]
        headers = [(b"x-query", scope["query_string"])]
        socket = await upgrade.accept(offered[0] if offered else None, headers, self.limits, self.hold)
        if scope["path"] == "/fail":
            raise ValueError("secret")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch, upgrade, nursery.cancel_scope)
            await self.repeat(socket)
            nursery.cancel_scope.cancel()
        await socket.close(CloseCode.GOING_AWAY if self.draining else CloseCode.NORMAL, "bye")

    async def watch(self, upgrade: WebSocketUpgrade, scope: trio.CancelScope) -> None:
        await upgrade.draining.wait()
        self.draining = True
        scope.cancel()

    async def repeat(self, socket: WebSocket) -> None:
        try:
            while True:
                message = await socket.receive()
                self.got.append(message)
                if message == "stop":
                    return
                if self.repeats:
                    await socket.send(message.upper())
        except WebSocketViolation as exc:
            self.got.append(exc)
            await socket.close(exc.code, exc.reason)
        except WebSocketClosed as exc:
            self.got.append(exc)

    @property
    def code(self) -> int:
        """The code of what ended the conversation."""
        last = self.got[-1]
        assert isinstance(last, WebSocketClosed | WebSocketViolation)
        return last.code


async def connect(served: Served, target: str = "/") -> SocketClient:
    client = await SocketClient.open(await served.connect(), target)
    assert client.status == 101
    return client


# Handshakes


@pytest.mark.parametrize("tls", [False, True])
async def test_websocket_messages_are_carried_both_ways(tls: bool, nursery: trio.Nursery) -> None:
    parrot = Parrot()
    served = await start(nursery, parrot, tls=server_tls() if tls else None)
    stream = await connect_tls(served) if tls else await served.connect()
    async with stream:
        client = await SocketClient.open(stream, "/talk?x=1")
        assert (client.status, client.headers["x-query"], client.subprotocol) == (101, "x=1", None)
        for sent, expected in (("one", "ONE"), (b"two", b"TWO"), ("ümläut", "ÜMLÄUT"), ("", "")):
            await client.send(sent)
            assert await client.receive() == expected
        assert await client.close(4001, "done") == Closed(4001, "done")
    await eventually(lambda: served.stats.open == 0)
    assert parrot.code == 4001
    assert not served.errors
    assert parrot.held == len("onetwo") + len("ümläut".encode())


async def test_websocket_after_other_requests_is_served(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    async with await served.connect() as stream:
        got = await Client(stream).ask(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (got.status, got.headers["upgrade"], got.headers["connection"]) == (
            426,
            "websocket",
            "upgrade",
        )
        client = await SocketClient.open(stream)
        await client.send("hello")
        assert await client.receive() == "HELLO"


async def test_websocket_subprotocol_is_one_that_the_client_offers(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    async with await served.connect() as stream:
        client = await SocketClient.open(stream, subprotocols=["other", "realtime"])
        assert (client.status, client.subprotocol) == (101, "realtime")


async def test_websocket_rejected_by_the_app_gets_an_ordinary_response(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    async with await served.connect() as stream:
        got = await Client(stream).ask(HANDSHAKE % (b"/no", b""))
        assert (got.status, got.body, got.headers["connection"]) == (403, b"no", "close")
        assert await read_all(stream) == b""
    assert not served.errors


async def test_websocket_of_failing_app_is_closed_with_1011(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    async with await served.connect() as stream:
        client = await SocketClient.open(stream, "/fail")
        got = await client.receive()
    assert isinstance(got, Closed)
    assert got.code == 1011
    assert "secret" not in got.reason
    assert [str(error) for error in served.errors] == ["secret"]
    async with (await connect(served)).stream:
        pass


@pytest.mark.parametrize(
    ("head", "status", "text"),
    [
        (UPGRADE + b"\r\n", 400, b"Sec-WebSocket-Version"),
        (UPGRADE + b"Sec-WebSocket-Version: 13\r\n\r\n", 400, b"Sec-WebSocket-Key"),
        (UPGRADE + b"Sec-WebSocket-Version: 9\r\nSec-WebSocket-Key: x\r\n\r\n", 426, b"Version"),
        (HANDSHAKE % (b"/", b"Sec-WebSocket-Protocol: \xff\r\n"), 400, b"Malformed"),
        (HANDSHAKE % (b"/", b"Sec-WebSocket-Extensions: \xff\r\n"), 400, b"Malformed"),
    ],
    ids=["no version", "no key", "other version", "protocol not ASCII", "extension not ASCII"],
)
async def test_websocket_malformed_handshake_is_rejected(
    head: bytes, status: int, text: bytes, nursery: trio.Nursery
) -> None:
    served = await start(nursery, Parrot())
    async with await served.connect() as stream:
        got = await Client(stream).ask(head)
        assert (got.status, got.complete) == (status, True)
        assert b'"malformed_handshake"' in got.body
        assert text in got.body
        if status == 426:
            assert got.headers["sec-websocket-version"] == "13"
        assert await read_all(stream) == b""
    assert served.stats.refused["malformed_handshake"] == 1
    assert not served.errors


@pytest.mark.parametrize(
    "head",
    [
        UPGRADE.replace(b"GET", b"POST") + b"Content-Length: 0\r\n\r\n",
        VALID.replace(b"GET / HTTP/1.1", b"GET / HTTP/1.0"),
        VALID.replace(b"Connection: Upgrade\r\n", b""),
        VALID.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        VALID.replace(HOST, HOST + b"Content-Length: 3\r\n") + b"abc",
    ],
    ids=["POST", "HTTP/1.0", "no Connection", "other protocol", "with a body"],
)
async def test_websocket_request_that_is_no_handshake_is_ordinary(head: bytes, nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    async with await served.connect() as stream:
        assert (await Client(stream).ask(head, head[:4].decode().strip())).status == 426
    assert not served.errors


async def test_websocket_extension_offered_is_not_used(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    async with await served.connect() as stream:
        offer = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")]
        client = await SocketClient.open(stream, headers=offer)
        assert client.status == 101
        assert "sec-websocket-extensions" not in client.headers
        await client.send_raw(frame(b"compressed", rsv=4))
        assert await client.receive() == Closed(1002, "Reserved bit set unexpectedly")


async def test_websocket_frames_sent_before_the_response_are_read(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    stream = served.connect_sending(VALID + frame(b"early"))
    async with stream:
        data = b""
        while b"EARLY" not in data:
            data += await stream.receive_some(1000)
    assert data.startswith(b"HTTP/1.1 101 ")


async def test_websocket_over_http2_is_not_offered(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot(), tls=server_tls(), http2=True)
    client = await connect_http2(served)
    assert await client.finish(await client.request("/")) == (426, b"upgrade")
    await client.stream.aclose()


# Messages


async def test_websocket_fragments_are_one_message(nursery: trio.Nursery) -> None:
    parrot = Parrot()
    served = await start(nursery, parrot)
    client = await connect(served)
    word = "grüße".encode()
    async with client.stream:
        await client.send_raw(frame(word[:3], fin=False) + frame(b"p", 9) + frame(b"", 0, fin=False))
        await client.send_raw(frame(word[3:], 0) + frame(b"\1", 2, fin=False) + frame(b"\2", 0))
        assert await client.receive() == "GRÜSSE"
        assert client.pongs == [b"p"]
        assert await client.receive() == b"\1\2"


async def test_websocket_message_in_single_bytes_is_complete(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    client = await connect(served)
    async with client.stream:
        client.stream.setsockopt(6, 1, 1)  # type: ignore[attr-defined]
        for byte in frame("müde".encode()):
            await client.send_raw(bytes([byte]))
        assert await client.receive() == "MÜDE"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x" * 1001), 1009),
        (frame(b"x" * 600, fin=False) + frame(b"x" * 401, 0), 1009),
        (b"\x81\xff\x7f" + b"\xff" * 7 + bytes(4) + b"x" * 70_000, 1009),
        (frame(b"", fin=False) + frame(b"", 0, fin=False) * MAX_FRAGMENTS, 1009),
        (frame(b"\xff"), 1007),
        (frame("ü".encode()[:1]), 1007),
        (frame(b"x", masked=False), 1002),
        (frame(b"x", 3), 1002),
        (frame(b"x", 0), 1002),
        (frame(b"x", fin=False) + frame(b"y"), 1002),
        (frame(b"x", 9, fin=False), 1002),
        (frame(bytes(126), 9), 1002),
        (frame(b"x", rsv=2), 1002),
        (frame(b"\x03", 8), 1002),
        (frame(b"\x03\xed", 8), 1002),
        (frame(b"", 9) * (MAX_CONTROL + 1), 1008),
        (frame(b"", 10) * (MAX_CONTROL + 1), 1008),
    ],
    ids=[
        "message too large",
        "fragments too large",
        "length of 2^63",
        "too many fragments",
        "not UTF-8",
        "half a character",
        "not masked",
        "unknown opcode",
        "continuation of nothing",
        "interleaved messages",
        "fragmented ping",
        "long ping",
        "reserved bit",
        "close of one byte",
        "close with reserved code",
        "ping flood",
        "pong flood",
    ],
)
async def test_websocket_frame_against_the_rules_is_closed_with_code(
    data: bytes, code: int, nursery: trio.Nursery
) -> None:
    parrot = Parrot()
    served = await start(nursery, parrot)
    client = await connect(served)
    async with client.stream:
        await client.send_raw(data + frame(b"later") * 100)
        assert (await client.receive_closed()).code == code
        assert await read_all(client.stream) == b""  # not reset: the client can read the close frame
    assert isinstance(parrot.got[-1], WebSocketViolation)
    assert len(parrot.got) == 1
    await eventually(lambda: served.stats.open == 0)
    assert not served.errors


async def test_websocket_message_of_the_limit_is_received(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    client = await connect(served)
    async with client.stream:
        for text in ("x" * 1000, "ü" * 500):
            await client.send(text)
            assert await client.receive() == text.upper()


async def test_websocket_many_small_messages_leave_time_for_others(nursery: trio.Nursery) -> None:
    parrot = Parrot()
    parrot.repeats = False
    served = await start(nursery, parrot)
    client = await connect(served)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while len(parrot.got) < 6000:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with client.stream, trio.open_nursery() as tasks:
        await client.send_raw(frame(b"") * 6000)
        tasks.start_soon(count)
    assert turns > 50


async def test_websocket_client_that_does_not_read_blocks_only_itself(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    limits = WebSocketLimits(message_bytes=1_000_000, ping_seconds=3600.0, write_seconds=5.0)
    parrot = Parrot(limits)
    served = await start(nursery, parrot)
    client = await connect(served)

    async def flood() -> None:
        try:
            while True:
                await client.send("x" * 1_000_000)
        except trio.BrokenResourceError:
            pass

    async with client.stream, trio.open_nursery() as tasks:
        tasks.start_soon(flood)
        held = -1
        while held != parrot.held:  # until nothing more is read from the client
            held = parrot.held
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert not parrot.got or isinstance(parrot.got[-1], str)
        mock_clock.jump(6)
        await eventually(functools.partial(_jump_until, mock_clock, served))
        tasks.cancel_scope.cancel()
    assert not served.errors


def _jump_until(clock: trio.testing.MockClock, served: Served) -> bool:
    clock.jump(TICK)
    return served.stats.open == 0


# Keep-alive


async def test_websocket_silent_client_gets_a_ping_and_stays(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    parrot = Parrot(WebSocketLimits(ping_seconds=5.0))
    served = await start(nursery, parrot)
    client = await connect(served)
    async with client.stream, trio.open_nursery() as tasks:
        tasks.start_soon(client.receive)
        for pings in range(1, 4):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(5)
            await eventually(functools.partial(_jump_until_ping, mock_clock, client, pings))
        tasks.cancel_scope.cancel()
    await eventually(lambda: served.stats.open == 0)
    assert parrot.code == CloseCode.ABNORMAL


def _jump_until_ping(clock: trio.testing.MockClock, client: SocketClient, pings: int) -> bool:
    clock.jump(TICK)
    return client.pings == pings


async def test_websocket_client_that_answers_no_ping_is_given_up(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    parrot = Parrot(WebSocketLimits(ping_seconds=5.0))
    served = await start(nursery, parrot)
    client = await connect(served)
    async with client.stream:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5)
        await eventually(functools.partial(_jump_until, mock_clock, served))
    assert parrot.code == CloseCode.ABNORMAL


# The end


async def test_websocket_closed_by_the_app_waits_for_the_client(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    client = await connect(served)
    async with client.stream:
        await client.send_raw(frame(b"stop") + frame(b"x") * 1000)
        assert await client.receive() == Closed(1000, "bye")
        assert await read_all(client.stream) == b""
    await eventually(lambda: served.stats.open == 0)
    assert not served.errors


async def test_websocket_client_that_ignores_a_close_frame_is_given_up(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    served = await start(nursery, Parrot())
    client = await connect(served)
    async with client.stream:
        await client.send("stop")
        await eventually(functools.partial(_jump_until, mock_clock, served))
    assert not served.errors


@pytest.mark.parametrize("reset", [False, True])
async def test_websocket_connection_lost_is_1006(reset: bool, nursery: trio.Nursery) -> None:
    parrot = Parrot()
    served = await start(nursery, parrot)
    client = await connect(served)
    async with client.stream:
        await client.send_raw(b"\x81")  # half of a frame
        if reset:
            client.stream.socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # type: ignore[attr-defined]
    await eventually(lambda: served.stats.open == 0)
    assert parrot.code == CloseCode.ABNORMAL
    assert not served.errors


async def test_websocket_half_closed_client_gets_what_it_asked_for(nursery: trio.Nursery) -> None:
    served = await start(nursery, Parrot())
    stream = await served.connect()
    async with stream:
        client = await SocketClient.open(stream)
        await client.send("last words")
        await stream.send_eof()
        assert await client.receive() == "LAST WORDS"
        await client.receive_closed()
    await eventually(lambda: served.stats.open == 0)
    assert not served.errors


async def test_websocket_sweep_does_not_end_open_sockets(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "SWEEP_SECONDS", 0.001)
    served = await start(nursery, Parrot())
    stream = await served.connect()
    async with stream:
        client = await SocketClient.open(stream)
        for _ in range(20):
            await client.send("x")
            assert await client.receive() == "X"
    assert served.stats.disconnects == 0


async def test_websocket_on_drain_is_closed_by_the_app(nursery: trio.Nursery) -> None:
    parrot = Parrot()
    served = await start(nursery, parrot)
    client = await connect(served)
    async with client.stream:
        served.shutdown.set()
        assert await client.receive() == Closed(1001, "bye")
    with trio.fail_after(60):
        await served.ended.wait()
    assert parrot.draining
    assert served.stats.refused["drain_timeout"] == 0


async def test_websocket_accepted_during_the_drain_sees_it(nursery: trio.Nursery) -> None:
    go_on, began = trio.Event(), trio.Event()
    parrot = Parrot()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            began.set()
            await go_on.wait()
            await parrot(scope, receive, send)

    served = await start(nursery, app)
    stream = served.connect_sending(VALID)
    async with stream:
        await began.wait()
        served.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        data = b""
        while b"\x88\x05\x03\xe9bye" not in data:
            data += await stream.receive_some(1000)
    with trio.fail_after(60):
        await served.ended.wait()


async def test_websocket_cancelled_at_the_drain_timeout_ends(
    nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            socket = await scope["extensions"]["websocket"].accept(None, (), LIMITS, len)
            try:
                await socket.receive()
            finally:
                socket.abort(CloseCode.GOING_AWAY, "too late")

    served = await start(nursery, app, patient(drain_timeout=5))
    client = await connect(served)
    async with client.stream:
        served.shutdown.set()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(6)
        assert await client.receive() == Closed(1001, "too late")
    with trio.fail_after(60):
        await served.ended.wait()
    assert served.stats.refused["drain_timeout"] == 1


async def test_websocket_hold_that_raises_ends_the_receive(nursery: trio.Nursery) -> None:
    def refuse(size: int) -> None:
        raise ValueError(size)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            socket = await scope["extensions"]["websocket"].accept(None, (), LIMITS, refuse)
            with pytest.raises(ValueError, match="5"):
                await socket.receive()
            await socket.close(CloseCode.TRY_AGAIN_LATER, "full")

    served = await start(nursery, app)
    client = await connect(served)
    async with client.stream:
        await client.send("hello")
        assert await client.receive() == Closed(1013, "full")
    assert not served.errors


async def test_websocket_accept_after_a_response_is_an_error(nursery: trio.Nursery) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            message: Message = await receive()
            assert (message["body"], message["more_body"]) == (b"", False)
            await answer(send)
            await scope["extensions"]["websocket"].accept(None, (), LIMITS, len)

    served = await start(nursery, app)
    assert (await served.ask(VALID)).startswith(b"HTTP/1.1 200 ")
    assert [str(error) for error in served.errors] == ["the response has started"]
