"""Random input: the server stays up, reports no error, leaks no connection and never switches to HTTP/2."""

import random
import socket

import h2.config
import h2.connection
import pytest
import trio

from bluesminds.http.asgi import Receive, Scope, Send
from tests.http.server.test_serve import connect_tls, server_tls
from tests.http.server.test_smuggling import CORPUS
from tests.http.server.test_websocket import Parrot
from tests.http.serving import Client, Served, answer, body_of, patient, start
from tests.http.sockets import HANDSHAKE, frame

WEBSOCKET = HANDSHAKE % (b"/ws", b"")
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def http2_bytes(
    path: str, *, body: int = 0, reset: bool = False, method: str = "POST", streams: int = 3
) -> bytes:
    """All bytes that a client of one HTTP/2 connection sends."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
    client.initiate_connection()
    for number in range(1, 2 * streams, 2):
        fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        if method == "CONNECT":
            fields = [*fields, (":protocol", "websocket")] if path else [fields[0], fields[3]]
        client.send_headers(number, fields, end_stream=not body)
        for _ in range(body):
            client.send_data(number, bytes(1000))
        if reset:
            client.reset_stream(number)
        elif body:
            client.end_stream(number)
    client.ping(b"12345678")
    return client.data_to_send()


HTTP2_SEEDS = [
    HTTP2_PREFACE,
    http2_bytes("/", method="GET"),
    http2_bytes("/x", body=5),
    http2_bytes("/early", body=20, streams=1),
    http2_bytes("/early", body=2),
    http2_bytes("/stream", method="GET", streams=20),
    http2_bytes("/stream", body=1, reset=True),
    http2_bytes("/ws", method="CONNECT"),
    http2_bytes("", method="CONNECT"),
    http2_bytes("/\u00e9"),
    HTTP2_PREFACE + b"\x00\x00\x05\x02\x00\x00\x00\x00\x01\x00\x00\x00\x03\x10",
]
SEEDS = [
    *(data for data, _, _ in CORPUS.values()),
    b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n",
    b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000),
    b"HEAD /x?y HTTP/1.1\r\nHost: \xff\xfe\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    WEBSOCKET,
    WEBSOCKET + b"\x81",
    WEBSOCKET + b"\x81\x85\x00\x00\x00\x00hello\x88\x80\x00\x00\x00\x00",
    WEBSOCKET + bytes(range(256)),
    WEBSOCKET + frame(b"a", fin=False) + frame(b"", 9) + frame(b"b", 0) + frame(b"\x03\xe8", 8),
    WEBSOCKET + frame(b"stop") + frame(b"x" * 3000) * 3,
    HTTP2_PREFACE,
    HTTP2_SEEDS[1],
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    b"\0" * 100,
]
RESET = b"\1\0\0\0\0\0\0\0"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and "websocket" in scope["extensions"]:
        await Parrot()(scope, receive, send)
    elif scope["path"] == "/early":
        await answer(send, b"no", 401)
    elif scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5):
            await send({"type": "http.response.body", "body": bytes(1000), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    elif await body_of(receive) is not None:
        await answer(send)


def mutate(data: bytes, chance: random.Random) -> bytes:
    mutant = bytearray(data[:100_000])
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        at = (
            chance.randrange(len(mutant) + 1)
            if chance.random() < 0.3
            else chance.randrange(min(len(mutant), 200) + 1)
        )
        match chance.randrange(5):
            case 0:
                mutant[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del mutant[at : at + chance.randrange(1, 20)]
            case 2:
                mutant[at:at] = chance.choice(
                    (b"\r\n", b"\n", b"\0", b" ", b":", b"\r", b"\xff", b"%", b"\t", b";")
                )
            case 3:
                mutant[at:at] = mutant[max(0, at - chance.randrange(60)) : at]
            case 4:
                mutant[at:at] = chance.choice(SEEDS)[: chance.randrange(400)]
    return bytes(mutant)


async def one_client(served: Served, chance: random.Random, tls: bool, received: bytearray) -> None:
    try:
        stream: trio.abc.Stream
        raw = stream = await served.connect()
        if tls and chance.random() < 0.7:
            await raw.aclose()
            stream = await connect_tls(
                served, *chance.choice(((), ("http/1.1",), ("h2",), ("h2", "http/1.1")))
            )
            raw = stream.transport_stream
    except (OSError, trio.BrokenResourceError):
        return
    try:
        http2 = isinstance(stream, trio.SSLStream) and stream.selected_alpn_protocol() == "h2"
        data = mutate(chance.choice(HTTP2_SEEDS if http2 else SEEDS), chance)
        cut = chance.randrange(len(data) + 1) if chance.random() < 0.3 else len(data)
        with trio.move_on_after(0.5):
            await stream.send_all(data[:cut])
            if cut < len(data):
                await stream.send_all(data[cut:])
        end = chance.randrange(4)
        if end == 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif end == 1:
            raw.socket.shutdown(socket.SHUT_WR)
        if end:
            with trio.move_on_after(chance.choice((0.002, 0.02))):
                while piece := await stream.receive_some(65536):
                    received += piece
    except (OSError, trio.BrokenResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def survive(nursery: trio.Nursery, connections: int, tls: bool) -> None:
    limits = patient(
        header_timeout=0.3,
        body_timeout=0.3,
        idle_timeout=0.3,
        handshake_timeout=10,  # 32 at once may take long, and who stalls in one soon leaves
        drain_timeout=5,
    )
    served = await start(nursery, app, limits, tls=server_tls() if tls else None, http2=tls)
    left = iter(range(connections))

    async def work() -> None:
        for seed in left:
            received = bytearray()
            await one_client(served, random.Random(seed), tls, received)  # noqa: S311 not a secret
            assert b"Upgrade: h2c" not in received
            assert b"upgrade: h2c" not in received

    async with trio.open_nursery() as workers:
        for _ in range(32):
            workers.start_soon(work)
    status = 0
    with trio.fail_after(60):
        while status in (0, 408):  # a head that arrives after the deadline
            stream = await connect_tls(served) if tls else await served.connect()
            async with stream:
                status = (await Client(stream).ask(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")).status
    assert status == 200
    served.shutdown.set()
    with trio.fail_after(60):
        await served.ended.wait()
    assert served.errors == []
    assert served.stats.open == 0
    assert served.stats.requests > connections // 20


@pytest.mark.parametrize("tls", [False, True])
async def test_mutated_input_never_breaks_the_server(tls: bool, nursery: trio.Nursery) -> None:
    await survive(nursery, 600 if tls else 1500, tls)


@pytest.mark.process
@pytest.mark.parametrize("tls", [False, True])
async def test_mutated_input_in_large_numbers_never_breaks_the_server(
    tls: bool, nursery: trio.Nursery
) -> None:
    await survive(nursery, 3_000 if tls else 15_000, tls)
