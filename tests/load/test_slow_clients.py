"""Delays, lateness of timeouts and memory with many slow clients."""

from pathlib import Path
from statistics import median

import psutil  # type: ignore[import-untyped]
import trio

from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, entry, eventually
from tests.load.figures import figure
from tests.pressure import SteadyLoad, chat, port, served, steady
from tests.process.test_slow_clients import LargeAnswer, begin_reading
from tests.terminal import SECONDS, Serving
from tests.trickle import ClientEnd, trickling

SLOW_HEADS = 1000
HEADER_SECONDS = 10.0  # the default of header_timeout
SLOW_BODIES = 200
BODY_SECONDS = 3.0
IDLE_ROUNDS = 8
READERS = 100
STALL_SECONDS = 0.5  # without progress, a reader counts as stalled


async def beside_slow_heads(gateway: Serving, load: SteadyLoad) -> tuple[list[float], list[ClientEnd]]:
    """The p99s while a thousand heads are sent, and how these clients ended."""
    async with trickling(
        port(gateway), SLOW_HEADS, b"GET /v1/models HTTP/1.1\r\nHost: t\r\nX-Slow: "
    ) as slow:
        during = await load.p99s(round(HEADER_SECONDS) - 4)
        return during, await slow.ends()


async def test_slow_heads_p99_of_other_clients_is_printed(home: Path, models: ModelServer) -> None:
    async with served(home, [entry("one", models.url)]) as gateway:
        async with steady(gateway) as load:
            await load.p99s(1)
            before = await load.p99s(IDLE_ROUNDS)
            during, ends = await beside_slow_heads(gateway, load)
            after = await load.p99s(IDLE_ROUNDS)
        assert {sample.status for sample in load.samples} == {200}
        assert gateway.stop() == 0
    ratio = median(during) / median(before + after)
    figure(f"p99 beside {SLOW_HEADS} slow heads, divided by idle p99", ratio, "", "2")
    figure("slow heads connected at the same time", sum(end.together for end in ends), "", f"{SLOW_HEADS}")
    late = max(end.seconds for end in ends) - HEADER_SECONDS
    figure("latest end of a slow head after header_timeout", late, "s", "1 s")


async def test_slow_bodies_lateness_of_timeout_is_printed(home: Path, models: ModelServer) -> None:
    server = {"body_timeout": BODY_SECONDS}
    async with served(home, [entry("one", models.url)], server=server) as gateway:
        async with trickling(port(gateway), SLOW_BODIES, chat(gateway, ASK, sent=1)) as slow:
            ends = await slow.ends()
        assert gateway.stop() == 0
    late = max(end.seconds for end in ends) - BODY_SECONDS
    figure("latest end of a slow body after body_timeout", late, "s", "1 s")


async def test_stalled_readers_memory_is_printed(home: Path, models: ModelServer) -> None:
    answer = LargeAnswer()
    models.plan(*[answer.play] * READERS)
    async with served(home, [entry("one", models.url)], server={"drain_timeout": 1.0}) as gateway:
        process = psutil.Process(gateway.process.pid)
        before = process.memory_info().rss
        readers = [await begin_reading(gateway) for _ in range(READERS)]
        await wait_for_stall(answer)
        grown = process.memory_info().rss - before
        for reader in readers:
            await trio.aclose_forcefully(reader)
        assert gateway.stop() == 0
    figure(f"memory of each of {READERS} stalled readers", grown / READERS / 2**20, "MiB", "1 MiB")


async def wait_for_stall(answer: LargeAnswer) -> None:
    """Wait until no reader has taken a byte for STALL_SECONDS."""
    last: dict[int, int] = {}

    async def has_stalled() -> bool:
        nonlocal last
        last = dict(answer.sent)
        await trio.sleep(STALL_SECONDS)
        return len(last) == READERS and last == answer.sent

    await eventually(has_stalled, SECONDS)
