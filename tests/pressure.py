"""A gateway process with a given configuration, and a steady load whose delays are measured.

async with served(home, [entry("m", models.url)], server={"header_timeout": 5.0}) as gateway:
    async with steady(gateway) as load:
        idle = await load.p99s(5)

Other work on the machine lengthens delays for a moment. So delays are measured in rounds, and the figure is
the median of the rounds, beside that of the same load at rest.
"""

import gc
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import tomli_w
import trio

from tests.gateways import ASK, eventually
from tests.terminal import SECONDS, Serving, User

CONNECTIONS = 4
INTERVAL = 0.02  # seconds from one request of a connection to its next
ROUND = 1.0  # seconds; CONNECTIONS / INTERVAL requests


@asynccontextmanager
async def served(
    home: Path, servers: list[dict[str, Any]], **sections: dict[str, Any]
) -> AsyncIterator[Serving]:
    """`bluesminds serve`, with the default of every setting that is not in `sections`."""
    path = home / "gateway.toml"
    path.write_text(tomli_w.dumps(sections | {"servers": servers}))
    path.chmod(0o600)
    start = partial(User(home).start, "serve", "--config", str(path), "--port", "0")
    # In a thread, because the gateway sends requests to model servers in this thread when it starts.
    gateway = await trio.to_thread.run_sync(start)
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait(SECONDS)


async def wait_for_exit(gateway: Serving) -> int:
    """The exit code. Raises TooSlowError."""
    with trio.fail_after(SECONDS):
        return await trio.to_thread.run_sync(gateway.process.wait, abandon_on_cancel=True)


async def wait_until_refused(port: int) -> None:
    """Wait until no process listens on this port. Raises TooSlowError."""

    async def is_refused() -> bool:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            return True
        await stream.aclose()
        return False

    await eventually(is_refused, SECONDS)


async def metric(gateway: Serving, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        text = (await client.get(f"{gateway.url}/metrics")).text
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.rpartition(" ")[2])


def chat(gateway: Serving, body: dict[str, Any], *, sent: int | None = None) -> bytes:
    """The bytes of a chat request, with only the first `sent` bytes of its body."""
    content = msgspec.json.encode(body)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content[:sent]


def port(gateway: Serving) -> int:
    return int(gateway.url.rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request: the time when it was sent, the seconds until its response was complete, the
    status and the body.
    """

    at: float
    seconds: float
    status: int
    body: bytes


class RepeatingClient:
    """A connection that is kept alive and sends the same request again and again."""

    def __init__(self, stream: trio.SocketStream, request: bytes) -> None:
        self._stream = stream
        self._request = request
        self._buffer = b""

    async def ask(self) -> Sample:
        began = trio.current_time()
        await self._stream.send_all(self._request)
        head = await self._head()
        (length,) = (
            int(value)
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
            if name.lower() == b"content-length"
        )
        while len(self._buffer) < length:
            await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Sample(began, trio.current_time() - began, int(head.split(b" ", 2)[1]), body)

    async def _head(self) -> bytes:
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head

    async def _more(self) -> None:
        data = await self._stream.receive_some(65536)
        assert data, "the connection was closed"
        self._buffer += data


class SteadyLoad:
    def __init__(self, gateway: Serving) -> None:
        self._gateway = gateway
        self._over = False
        self.samples: list[Sample] = []

    async def run(self, number: int) -> None:
        """A request every INTERVAL seconds, until `end`. After a long delay the requests that are overdue are
        skipped, so that connections which were delayed together do not continue together.
        """
        async with await trio.open_tcp_stream("127.0.0.1", port(self._gateway)) as stream:
            client = RepeatingClient(stream, chat(self._gateway, ASK))
            due = trio.current_time() + INTERVAL * number / CONNECTIONS
            while not self._over:
                await trio.sleep_until(due)
                self.samples.append(await client.ask())
                due += INTERVAL * max(1, math.ceil((trio.current_time() - due) / INTERVAL))

    def end(self) -> None:
        """Send no more requests. Running requests are finished."""
        self._over = True

    async def p99s(self, rounds: int) -> list[float]:
        """The 99th percentile of the delay in each of the next rounds, in seconds."""
        found = []
        for _ in range(rounds):
            seen = len(self.samples)
            await trio.sleep(ROUND)
            await eventually(lambda seen=seen: len(self.samples) > seen, SECONDS)  # type: ignore[misc]
            delays = sorted(sample.seconds for sample in self.samples[seen:])
            found.append(delays[math.ceil(len(delays) * 0.99) - 1])
        return found


@asynccontextmanager
async def steady(gateway: Serving) -> AsyncIterator[SteadyLoad]:
    """A load until the end of the block; afterwards every request has its response."""
    load = SteadyLoad(gateway)
    with _collected():
        async with trio.open_nursery() as nursery:
            for number in range(CONNECTIONS):
                nursery.start_soon(load.run, number)
            yield load
            load.end()


@contextmanager
def _collected() -> Iterator[None]:
    """Exclude existing objects from garbage collection, which would stop the clients for 100 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
