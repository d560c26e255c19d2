"""Many slow clients in a separate process. Each sends some bytes and then one byte per second.

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

BYTE_INTERVAL = 1.0
ARRIVAL_SECONDS = 1.0  # all clients connect within this time


class ClientEnd(msgspec.Struct, frozen=True):
    """How long a client was connected, the bytes it received, and whether all other clients had connected
    before its end.
    """

    seconds: float
    received: bytes
    together: bool


class TrickleOrder(msgspec.Struct, frozen=True):
    port: int
    count: int
    beginning: bytes


@dataclass
class SlowClients:
    """The separate process, after all clients have connected."""

    _process: trio.Process

    async def ends(self) -> list[ClientEnd]:
        """Wait until all clients have ended; how each of them ended."""
        return msgspec.json.decode(await rest(self._process), type=list[ClientEnd])


@asynccontextmanager
async def trickling(port: int, count: int, beginning: bytes) -> AsyncIterator[SlowClients]:
    async with beside("tests.trickle", TrickleOrder(port, count, beginning)) as process:
        yield SlowClients(process)


# The following code runs in the other process.


@dataclass
class ClientRunner:
    order: TrickleOrder
    connected: int = 0
    all_connected: trio.Event = field(default_factory=trio.Event)
    ends: list[ClientEnd] = field(default_factory=list)

    async def one(self, number: int) -> None:
        await trio.sleep(ARRIVAL_SECONDS * number / self.order.count)
        began = trio.current_time()
        async with await trio.open_tcp_stream("127.0.0.1", self.order.port) as stream:
            self.connected += 1
            if self.connected == self.order.count:
                self.all_connected.set()
            received = await self._trickle(stream)
            self.ends.append(ClientEnd(trio.current_time() - began, received, self.all_connected.is_set()))

    async def _trickle(self, stream: trio.SocketStream) -> bytes:
        received = b""
        try:
            await stream.send_all(self.order.beginning)
            while True:
                with trio.move_on_after(BYTE_INTERVAL):
                    while data := await stream.receive_some():
                        received += data
                    return received
                await stream.send_all(b"a")
        except trio.BrokenResourceError:  # it sent after the server had closed
            return received


async def main() -> None:
    order = msgspec.json.decode(await trio.to_thread.run_sync(sys.stdin.buffer.readline), type=TrickleOrder)
    clients = ClientRunner(order)
    async with trio.open_nursery() as nursery:
        for number in range(order.count):
            nursery.start_soon(clients.one, number)
        await clients.all_connected.wait()
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
    sys.stdout.buffer.write(msgspec.json.encode(clients.ends))


if __name__ == "__main__":
    trio.run(main)
