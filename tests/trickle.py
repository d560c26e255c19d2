"""Many clients that send a beginning and then a byte a second, in a process of their own.

async with trickling(port, 1000, b"GET / HTTP/1.1") as slow:
    ends = await slow.ends()
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio

from tests.beside import beside, rest

BYTE_EVERY = 1.0
ARRIVAL_SECONDS = 1.0  # the clients come one after the other within it


class End(msgspec.Struct, frozen=True):
    """How many seconds after it began to connect a client was left alone, what it was told, and whether all
    others had come by then.
    """

    seconds: float
    told: bytes
    together: bool


class Order(msgspec.Struct, frozen=True):
    port: int
    count: int
    beginning: bytes


@dataclass
class Trickle:
    """The other process, in which all clients are connected."""

    _process: trio.Process

    async def ends(self) -> list[End]:
        """How each client ended, when all have."""
        return msgspec.json.decode(await rest(self._process), type=list[End])


@asynccontextmanager
async def trickling(port: int, count: int, beginning: bytes) -> AsyncIterator[Trickle]:
    async with beside("tests.trickle", Order(port, count, beginning)) as process:
        yield Trickle(process)


# In the other process


@dataclass
class Clients:
    order: Order
    connected: int = 0
    all_connected: trio.Event = field(default_factory=trio.Event)
    ends: list[End] = field(default_factory=list)

    async def one(self, number: int) -> None:
        await trio.sleep(ARRIVAL_SECONDS * number / self.order.count)
        began = trio.current_time()
        async with await trio.open_tcp_stream("127.0.0.1", self.order.port) as stream:
            self.connected += 1
            if self.connected == self.order.count:
                self.all_connected.set()
            told = await self._trickle(stream)
            self.ends.append(End(trio.current_time() - began, told, self.all_connected.is_set()))

    async def _trickle(self, stream: trio.SocketStream) -> bytes:
        told = b""
        try:
            await stream.send_all(self.order.beginning)
            while True:
                with trio.move_on_after(BYTE_EVERY):
                    while data := await stream.receive_some():
                        told += data
                    return told
                await stream.send_all(b"a")
        except trio.BrokenResourceError:  # it sent once more when the other side had closed
            return told


async def main() -> None:
    order = msgspec.json.decode(await trio.to_thread.run_sync(sys.stdin.buffer.readline), type=Order)
    clients = Clients(order)
    async with trio.open_nursery() as nursery:
        for number in range(order.count):
            nursery.start_soon(clients.one, number)
        await clients.all_connected.wait()
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    sys.stdout.buffer.write(msgspec.json.encode(clients.ends))


if __name__ == "__main__":
    trio.run(main)
