"""A gateway process with a configuration of its own, and a steady load whose delays are measured.

async with served(home, [entry("m", models.url)], server={"header_timeout": 5.0}) as gateway:
    async with steady(gateway) as load:
        calm = await load.p99s(5)

Other work on the machine lengthens delays for a moment: so a load is looked at in rounds, and what counts is
the median of the rounds, next to that of the same load at rest.
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

LINES = 4
EVERY = 0.02  # seconds from one request of a line to its next
ROUND = 1.0  # seconds; LINES / EVERY requests


@asynccontextmanager
async def served(
    home: Path, servers: list[dict[str, Any]], **sections: dict[str, Any]
) -> AsyncIterator[Serving]:
    """`bluesminds serve`, with the default of every setting that is not in `sections`."""
    path = home / "gateway.toml"
    path.write_text(tomli_w.dumps(sections | {"servers": servers}))
    path.chmod(0o600)
    start = partial(User(home).start, "serve", "--config", str(path), "--port", "0")
    # In a thread, because the gateway's start asks model servers that live in this one.
    gateway = await trio.to_thread.run_sync(start)
    try:
        yield gateway
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
            gateway.process.wait(SECONDS)


async def ended(gateway: Serving, seconds: float) -> int:
    """The exit code. Raises TooSlowError."""
    with trio.fail_after(seconds):
        return await trio.to_thread.run_sync(gateway.process.wait, abandon_on_cancel=True)


async def metric(gateway: Serving, name: str) -> float:
    async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as client:
        text = (await client.get(f"{gateway.url}/metrics")).text
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
    return float(line.rpartition(" ")[2])


def chat(gateway: Serving, body: dict[str, Any], *, sent: int | None = None) -> bytes:
    """A chat request's bytes, with only the first `sent` ones of its body."""
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
    """One answered request: when it was sent on Trio's clock, how long its answer took, and what it was."""

    at: float
    seconds: float
    status: int
    body: bytes


class Line:
    """One kept-alive connection that sends the same request again and again."""

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
        assert data, "a healthy connection was closed"
        self._buffer += data


class Load:
    def __init__(self, gateway: Serving) -> None:
        self._gateway = gateway
        self._over = False
        self.samples: list[Sample] = []

    async def run(self, number: int) -> None:
        """A request every EVERY seconds, until `end`. One that comes late leaves out those it was too late
        for: lines that were held up together must not go on together.
        """
        async with await trio.open_tcp_stream("127.0.0.1", port(self._gateway)) as stream:
            line = Line(stream, chat(self._gateway, ASK))
            due = trio.current_time() + EVERY * number / LINES
            while not self._over:
                await trio.sleep_until(due)
                self.samples.append(await line.ask())
                due += EVERY * max(1, math.ceil((trio.current_time() - due) / EVERY))

    def end(self) -> None:
        """What is under way comes to its end; no more is asked."""
        self._over = True

    async def p99s(self, rounds: int) -> list[float]:
        """The 99th percentile of the delay in each of the coming rounds, in seconds."""
        found = []
        for _ in range(rounds):
            seen = len(self.samples)
            await trio.sleep(ROUND)
            # On a machine that stood still there is none yet.
            await eventually(lambda seen=seen: len(self.samples) > seen, SECONDS)  # type: ignore[misc]
            delays = sorted(sample.seconds for sample in self.samples[seen:])
            found.append(delays[math.ceil(len(delays) * 0.99) - 1])
        return found


@asynccontextmanager
async def steady(gateway: Serving) -> AsyncIterator[Load]:
    """The load, for as long as the block lasts; afterwards every request has its answer."""
    load = Load(gateway)
    with _unpaused():
        async with trio.open_nursery() as nursery:
            for number in range(LINES):
                nursery.start_soon(load.run, number)
            yield load
            load.end()


@contextmanager
def _unpaused() -> Iterator[None]:
    """Without this process's own full collections, which would stop its clients for 100 ms."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
