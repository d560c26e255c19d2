"""Memory of a gateway process that passes large uploads on. Prints figures and judges none."""

from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import trio

from tests.fakes import raw_upstream
from tests.fakes.model_server import JSON
from tests.fakes.raw_upstream import Peer
from tests.forms import CONTENT_TYPE, END, field, file
from tests.gateways import entry
from tests.load.figures import figure
from tests.load.test_body_memory import highest, resident
from tests.pressure import port, served

pytestmark = pytest.mark.load
MIB = 2**20
SIZE = 200 * MIB
PIECE = bytes(65_536)
BOUND = "32 MiB for one upload"


async def transcribe(peer: Peer) -> None:
    """Drop every upload."""
    while True:
        head = await peer.head()
        if head.startswith(b"GET "):
            await peer.answer(b'{"data":[{"id":"m"}]}', JSON)
            continue
        (length,) = [
            int(line[16:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"
        ]
        while length:
            length -= len(await peer.take(min(length, 65_536)))
        await peer.answer(b'{"text":"Hello."}', JSON)


@pytest.mark.parametrize(("count", "model_first"), [(1, True), (1, False), (8, True)])
async def test_upload_memory_is_printed(
    nursery: trio.Nursery, home: Path, count: int, model_first: bool
) -> None:
    upstream = await nursery.start(raw_upstream.serve, transcribe)
    server = entry("one", f"http://127.0.0.1:{upstream.port}/v1")
    limits = {"max_spooled_bytes": 2 * SIZE}
    async with served(home, [server], server=limits) as gateway:
        await upload(port(gateway), gateway.key, MIB, model_first=True)  # what the first request loads stays
        idle = resident(gateway)
        began, before = trio.current_time(), processor_seconds(gateway.process.pid)
        async with trio.open_nursery() as clients:
            for _ in range(count):
                clients.start_soon(send, port(gateway), gateway.key, model_first)
        elapsed = trio.current_time() - began
        used = processor_seconds(gateway.process.pid) - before
        name = f"{count} x 200 MiB, model {'first' if model_first else 'last'}"
        figure(f"{name}: peak above idle", highest(gateway) - idle, "MiB", BOUND)
        figure(f"{name}: processor time for each", used / count, "s", "none")
        figure(f"{name}: time for all", elapsed, "s", "none")


async def send(port: int, key: str, model_first: bool) -> None:
    await upload(port, key, SIZE, model_first=model_first)


async def upload(port: int, key: str, size: int, *, model_first: bool) -> None:
    model, head = field("model", "m"), file(b"")
    before = (model + head if model_first else head).removeprefix(b"\r\n")
    after = END if model_first else model + END
    length = len(before) + size + len(after)
    lines = (
        b"POST /v1/audio/transcriptions HTTP/1.1",
        b"Host: t",
        b"Authorization: Bearer " + key.encode(),
        b"Content-Type: " + CONTENT_TYPE,
        b"Content-Length: %d" % length,
    )
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"\r\n".join(lines) + b"\r\n\r\n" + before)
        for _ in range(size // len(PIECE)):
            await stream.send_all(PIECE)
        await stream.send_all(after)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


def processor_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
