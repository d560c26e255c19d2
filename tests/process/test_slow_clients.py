"""Clients that send or read too slowly are cut; other clients are answered all the time."""

import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import trio

from tests.fakes.model_server import DONE, EVENT_STREAM, Asked, ModelServer, chunk
from tests.fakes.raw_upstream import Peer
from tests.gateways import ASK, STREAM, entry, eventually
from tests.pressure import chat, port, served, steady, wait_for_exit
from tests.terminal import SECONDS, Serving, User
from tests.trickle import trickling

SLOW_SENDERS = 100
READERS = 20
TIMEOUT = 2.0  # seconds
EVENT = chunk("x" * 16_000)
ANSWER = 20_000_000  # bytes
BUFFERS = ANSWER // 2  # more than the kernel buffers of one response


def descriptors_of(gateway: Serving) -> int:
    return int(psutil.Process(gateway.process.pid).num_fds())


async def test_slow_bodies_timeout_expires_are_cut(home: Path, models: ModelServer) -> None:
    server = {"body_timeout": TIMEOUT}
    async with served(home, [entry("one", models.url)], server=server) as gateway:
        async with steady(gateway) as load:
            await eventually(lambda: len(load.samples) >= 20, SECONDS)
            descriptors = descriptors_of(gateway)
            async with trickling(port(gateway), SLOW_SENDERS, chat(gateway, ASK, sent=1)) as slow:
                ends = await slow.ends()
            await eventually(lambda: descriptors_of(gateway) <= descriptors + 5, SECONDS)
        assert {sample.status for sample in load.samples} == {200}
        assert gateway.stop() == 0
    assert len(ends) == SLOW_SENDERS
    assert {end.received.split(b"\r\n")[0] for end in ends} == {b"HTTP/1.1 408 Request Timeout"}
    assert min(end.seconds for end in ends) >= TIMEOUT * 0.9
    assert len(models.asked) == len(load.samples), "no server receives an incomplete request"


class LargeAnswer:
    """A plan that sends ANSWER bytes. `sent`: bytes that each connection has taken."""

    def __init__(self) -> None:
        self.sent: dict[int, int] = {}

    async def play(self, _: ModelServer, peer: Peer, __: Asked) -> None:
        await peer.begin_chunked(EVENT_STREAM)
        self.sent[peer.number] = 0
        while self.sent[peer.number] < ANSWER:
            await peer.chunk(EVENT)
            self.sent[peer.number] += len(EVENT)
        await peer.chunk(DONE)
        await peer.send(b"0\r\n\r\n")


async def begin_reading(gateway: Serving) -> trio.SocketStream:
    """Request a stream, read its beginning, and nothing more."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    await sock.connect(("127.0.0.1", port(gateway)))
    stream = trio.SocketStream(sock)
    await stream.send_all(chat(gateway, STREAM))
    assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200 OK")
    return stream


async def end_of(stream: trio.SocketStream) -> bytes:
    """The last bytes before the connection was closed."""
    end = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            end = (end + data)[-100:]
    return end


@asynccontextmanager
async def stalled_readers(gateway: Serving, models: ModelServer) -> AsyncIterator[list[trio.SocketStream]]:
    """READERS clients that have stopped reading, so that the model server cannot send its whole answer."""
    answer = LargeAnswer()
    models.plan(*[answer.play] * READERS)
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(READERS):
            readers.append(await begin_reading(gateway))
            stack.push_async_callback(readers[-1].aclose)
        yield readers
    assert len(answer.sent) == READERS
    assert max(answer.sent.values()) <= BUFFERS


def outcomes(user: User) -> list[tuple[str, str, int]]:
    return user.rows("SELECT outcome, usage_source, count(*) FROM usage GROUP BY 1, 2")


async def test_stalled_readers_write_timeout_expires_are_cut(home: Path, models: ModelServer) -> None:
    user = User(home)
    server = {"write_timeout": TIMEOUT}
    async with (
        served(home, [entry("one", models.url)], server=server) as gateway,
        stalled_readers(gateway, models) as readers,
    ):
        await eventually(lambda: outcomes(user) == [("client_gone", "estimated", READERS)], SECONDS)
        ((shortest,),) = user.rows("SELECT min(duration_ms) FROM usage")
        assert shortest >= TIMEOUT * 1000
        await eventually(lambda: models.upstream.open <= 1, SECONDS)
        ends = [await end_of(reader) for reader in readers]
        assert not any(end.endswith(b"0\r\n\r\n") or DONE in end for end in ends), "no proper end"
        assert gateway.stop() == 0


async def test_stalled_readers_gateway_is_stopped_are_cut(home: Path, models: ModelServer) -> None:
    server = {"drain_timeout": TIMEOUT, "write_timeout": 10 * SECONDS}
    async with (
        served(home, [entry("one", models.url)], server=server) as gateway,
        stalled_readers(gateway, models) as readers,
    ):
        gateway.send_signal(signal.SIGTERM)
        assert await wait_for_exit(gateway) == 0
        for reader in readers:
            assert DONE not in await end_of(reader)
    assert outcomes(User(home)) == [("interrupted", "estimated", READERS)]
