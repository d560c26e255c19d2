"""Memory of a gateway process that holds many request bodies. Prints figures and judges none."""

import contextlib
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import trio

from tests.fakes import model_server
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, entry, eventually
from tests.pressure import chat, metric, port, served
from tests.terminal import Serving

pytestmark = pytest.mark.load
MIB = 2**20
TOTAL = 500 * MIB


@pytest.mark.parametrize("count", [16, 500])
async def test_body_memory_is_printed(nursery: trio.Nursery, home: Path, count: int) -> None:
    models: ModelServer = await nursery.start(model_server.serve)
    ask = ASK | {"messages": [{"role": "user", "content": "x" * (TOTAL // count)}]}
    bounds = {"max_buffered_bytes": 2 * TOTAL, "max_body_bytes": TOTAL}
    async with served(home, [entry("one", models.url)], server=bounds) as gateway:
        request = chat(gateway, ask)
        idle = resident(gateway)
        streams = [await trio.open_tcp_stream("127.0.0.1", port(gateway)) for _ in range(count)]
        async with trio.open_nursery() as senders:
            for stream in streams:
                senders.start_soon(stream.send_all, request[:-1])
        while await metric(gateway, "bluesminds_body_bytes_held") < TOTAL:
            await trio.lowlevel.checkpoint()
        held = resident(gateway)
        async with trio.open_nursery() as finishers:
            for stream in streams:
                finishers.start_soon(finish, stream)
        began, peak = trio.current_time(), highest(gateway)
        with contextlib.suppress(trio.TooSlowError):
            await eventually(lambda: resident(gateway) <= 1.5 * idle)
        end, seconds = resident(gateway), trio.current_time() - began
    bodies = TOTAL / MIB
    print(  # noqa: T201
        f"\n{count} bodies of {bodies / count:.2f} MiB: idle {idle:.0f} MiB, held {held:.0f} MiB, peak"
        f" {peak:.0f} MiB ({(peak - idle) / bodies:.2f} x bodies above idle), end {end:.0f} MiB"
        f" ({end / idle:.2f} x idle) after {seconds:.1f} s"
    )


async def finish(stream: trio.SocketStream) -> None:
    """Send the last byte, and read the response."""
    async with stream:
        await stream.send_all(b"}")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")


def resident(gateway: Serving) -> float:
    """MiB."""
    return float(psutil.Process(gateway.process.pid).memory_info().rss) / MIB


def highest(gateway: Serving) -> float:
    """MiB; the largest resident size so far."""
    for line in Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    raise AssertionError("the kernel does not tell")
