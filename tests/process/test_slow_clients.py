"""Clients that send or read as slowly as they can, in numbers: they are cut in time, cost little, and healthy
ones do not notice.
"""

import contextlib
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]
import pytest
import trio

from tests.fakes.model_server import DONE, EVENT_STREAM, Asked, ModelServer, chunk
from tests.fakes.raw_upstream import Peer
from tests.gateways import ASK, STREAM, entry, eventually
from tests.pressure import Load, chat, ended, port, served, steady
from tests.terminal import SECONDS, Serving, User
from tests.trickle import trickling

SLOWLORIS = 1000
HEADER_SECONDS = 10.0  # the default
SLOW_BODIES = 200
BODY_SECONDS = 3.0
LATE = 1.0  # seconds that a deadline may be passed by: its own coarseness, and the machine's other work
REST_ROUNDS = 8

READERS = 100
EVENT = chunk("x" * 16_000)
ANSWER = 20_000_000  # bytes
BUFFERS = ANSWER // 2  # more than the kernel holds of an answer on its two ways
GROWTH = 2**20  # bytes of memory for each reader


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """Enough of them for the processes started here, the gateway with a thousand clients among them."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


slow_readers = pytest.mark.parametrize(
    ("count", "seconds"), [(5, 2.0), pytest.param(READERS, 10.0, marks=pytest.mark.process)]
)


def memory_of(gateway: Serving) -> int:
    return int(psutil.Process(gateway.process.pid).memory_info().rss)


def descriptors_of(gateway: Serving) -> int:
    return int(psutil.Process(gateway.process.pid).num_fds())


async def p99_under_slow_heads(gateway: Serving, load: Load) -> float:
    """The p99 of healthy requests' delay beside slow heads, as a multiple of that before and after."""
    before = await load.p99s(REST_ROUNDS)
    during = [*await beside_slow_heads(gateway, load), *await beside_slow_heads(gateway, load)]
    return median(during) / median(before + await load.p99s(REST_ROUNDS))


async def beside_slow_heads(gateway: Serving, load: Load) -> list[float]:
    """The p99s meanwhile; a thousand heads live for ten seconds."""
    descriptors = descriptors_of(gateway)
    async with trickling(port(gateway), SLOWLORIS, b"GET /v1/models HTTP/1.1\r\nHost: t\r\nX-Slow: ") as slow:
        during = await load.p99s(round(HEADER_SECONDS) - 4)
        ends = await slow.ends()
    assert len(ends) == SLOWLORIS
    assert all(end.together for end in ends), "all were there at the same time"
    assert min(end.seconds for end in ends) >= HEADER_SECONDS - 0.1, "each has had its time"
    assert max(end.seconds for end in ends) <= HEADER_SECONDS + LATE
    await eventually(lambda: descriptors_of(gateway) <= descriptors + 5, SECONDS)
    return during


@pytest.mark.load
async def test_a_thousand_slow_heads(home: Path, models: ModelServer) -> None:
    async with served(home, [entry("one", models.url)]) as gateway:
        async with steady(gateway) as load:
            await load.p99s(1)
            found = [await p99_under_slow_heads(gateway, load)]
            while found[-1] > 2 and len(found) < 3:
                found.append(await p99_under_slow_heads(gateway, load))
        assert {sample.status for sample in load.samples} == {200}
        assert gateway.stop() == 0
    assert min(found) <= 2, found


async def slow_bodies(home: Path, models: ModelServer, count: int, body_timeout: float) -> None:
    server = {"body_timeout": body_timeout}
    async with served(home, [entry("one", models.url)], server=server) as gateway:
        async with steady(gateway) as load:
            await eventually(lambda: len(load.samples) >= 20, SECONDS)
            descriptors = descriptors_of(gateway)
            async with trickling(port(gateway), count, chat(gateway, ASK, sent=1)) as slow:
                ends = await slow.ends()
            await eventually(lambda: descriptors_of(gateway) <= descriptors + 5, SECONDS)
        assert {sample.status for sample in load.samples} == {200}
        assert gateway.stop() == 0
    assert len(ends) == count
    assert {end.received.split(b"\r\n")[0] for end in ends} == {b"HTTP/1.1 408 Request Timeout"}
    assert max(end.seconds for end in ends) <= body_timeout + LATE
    assert len(models.asked) == len(load.samples), "no server hears of an unfinished request"


async def test_slow_bodies(home: Path, models: ModelServer) -> None:
    await slow_bodies(home, models, 20, 1.5)


@pytest.mark.process
async def test_two_hundred_slow_bodies(home: Path, models: ModelServer) -> None:
    await slow_bodies(home, models, SLOW_BODIES, BODY_SECONDS)


@dataclass
class Spring:
    """A plan that sends ANSWER bytes to everyone. `sent`: how much of it each connection has taken."""

    sent: dict[int, int] = field(default_factory=dict)

    async def play(self, _: ModelServer, peer: Peer, __: Asked) -> None:
        await peer.begin_chunked(EVENT_STREAM)
        self.sent[peer.number] = 0
        while self.sent[peer.number] < ANSWER:
            await peer.chunk(EVENT)
            self.sent[peer.number] += len(EVENT)
        await peer.chunk(DONE)
        await peer.send(b"0\r\n\r\n")

    async def dried_up(self, count: int) -> None:
        """Wait until nobody has taken anything for half a second."""
        last: dict[int, int] = {}
        with trio.fail_after(SECONDS):
            while len(self.sent) < count or last != self.sent:
                last = dict(self.sent)
                await trio.sleep(0.5)


async def begin_reading(gateway: Serving) -> trio.SocketStream:
    """Ask for a stream, read its beginning, and no more."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    await sock.connect(("127.0.0.1", port(gateway)))
    stream = trio.SocketStream(sock)
    await stream.send_all(chat(gateway, STREAM))
    assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200 OK")
    return stream


async def end_of(stream: trio.SocketStream) -> bytes:
    """The last of what was sent before the connection was closed."""
    end = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65536):
            end = (end + data)[-100:]
    return end


async def stalled_readers(
    stack: AsyncExitStack, gateway: Serving, models: ModelServer, count: int
) -> list[trio.SocketStream]:
    """Readers that have stopped, and with each of them the gateway and the model server behind it. Next to
    nothing of the answers is in the gateway.
    """
    spring = Spring()
    models.plan(*[spring.play] * count)
    before = memory_of(gateway)
    readers = []
    for _ in range(count):
        readers.append(await begin_reading(gateway))
        stack.push_async_callback(readers[-1].aclose)
    await spring.dried_up(count)
    assert max(spring.sent.values()) <= BUFFERS, "the model server is held up"
    assert memory_of(gateway) - before <= count * GROWTH
    return readers


def outcomes(user: User) -> list[tuple[str, str, int]]:
    return user.rows("SELECT outcome, usage_source, count(*) FROM usage GROUP BY 1, 2")


@slow_readers
async def test_readers_that_stop_are_cut(home: Path, models: ModelServer, count: int, seconds: float) -> None:
    user = User(home)
    server = {"write_timeout": seconds}
    async with served(home, [entry("one", models.url)], server=server) as gateway, AsyncExitStack() as stack:
        readers = await stalled_readers(stack, gateway, models, count)
        await eventually(lambda: outcomes(user) == [("client_gone", "estimated", count)], seconds + LATE)
        ((shortest,),) = user.rows("SELECT min(duration_ms) FROM usage")
        assert shortest >= seconds * 1000, "each has had its time"
        await eventually(lambda: models.upstream.open <= 1, SECONDS)
        ends = [await end_of(reader) for reader in readers]
        assert not any(end.endswith(b"0\r\n\r\n") or DONE in end for end in ends), "no proper end"
        assert gateway.stop() == 0


@slow_readers
async def test_readers_that_stop_do_not_hold_up_a_stop(
    home: Path, models: ModelServer, count: int, seconds: float
) -> None:
    user = User(home)
    server = {"drain_timeout": seconds}
    async with served(home, [entry("one", models.url)], server=server) as gateway, AsyncExitStack() as stack:
        readers = await stalled_readers(stack, gateway, models, count)
        gateway.tell(signal.SIGTERM)
        assert await ended(gateway, seconds + 2 * LATE) == 0
        for reader in readers:
            assert DONE not in await end_of(reader)
    assert outcomes(user) == [("interrupted", "estimated", count)]
