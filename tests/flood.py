"""Strangers who sign in again and again, sooner than they are told to, in a process of their own.

async with flooding(port, 50) as flood:
    ...
    report = await flood.end()
"""

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median

import msgspec
import trio

from tests.beside import beside, rest
from tests.pressure import Line

EVERY = 1.0  # seconds between the attempts of one of them, which is sooner than the answer asks for


class Order(msgspec.Struct, frozen=True):
    port: int
    count: int


class Report(msgspec.Struct, frozen=True):
    """How many answers had which status, and the median of the seconds that a 429 took."""

    statuses: dict[int, int]
    refused_in: float


@dataclass
class Flood:
    """The other process."""

    _process: trio.Process

    async def end(self) -> Report:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        return msgspec.json.decode(await rest(self._process), type=Report)


@asynccontextmanager
async def flooding(port: int, count: int) -> AsyncIterator[Flood]:
    """All of them have begun at once. Needs all of 127.0.0.0/8: each comes from an address of its own."""
    async with beside("tests.flood", Order(port, count)) as process:
        yield Flood(process)


# In the other process


@dataclass
class Strangers:
    """Each for an account of its own. The first attempts are all at once, those that follow are spread."""

    order: Order
    statuses: Counter[int] = field(default_factory=Counter)
    refused_in: list[float] = field(default_factory=list)
    over: bool = False

    async def one(self, number: int) -> None:
        body = msgspec.json.encode({"email": f"{number}@example.com", "password": "wrong password"})
        head = f"POST /api/auth/login HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
        sock = trio.socket.socket()
        await sock.bind((f"127.1.0.{number + 1}", 0))
        await sock.connect(("127.0.0.1", self.order.port))
        async with trio.SocketStream(sock) as stream:
            line = Line(stream, head.encode() + body)
            due = trio.current_time() + EVERY * number / self.order.count
            while not self.over:
                answer = await line.ask()
                self.statuses[answer.status] += 1
                if answer.status == 429:
                    self.refused_in.append(answer.seconds)
                due = max(due + EVERY, trio.current_time())
                await trio.sleep_until(due)


async def main() -> None:
    order = msgspec.json.decode(await trio.to_thread.run_sync(sys.stdin.buffer.readline), type=Order)
    strangers = Strangers(order)
    async with trio.open_nursery() as nursery:
        for number in range(order.count):
            nursery.start_soon(strangers.one, number)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        await trio.to_thread.run_sync(sys.stdin.buffer.read)
        strangers.over = True
    report = Report(dict(strangers.statuses), median(strangers.refused_in))
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    trio.run(main)
