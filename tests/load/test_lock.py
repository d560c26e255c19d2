"""Delays while another process keeps the write lock of the database."""

from pathlib import Path
from statistics import median

import trio

from tests.fakes.model_server import ModelServer
from tests.gateways import entry, eventually
from tests.load.figures import figure
from tests.pressure import served, steady
from tests.storage.locks import exclusive
from tests.terminal import SECONDS, User

HELD_SECONDS = 10
IDLE_ROUNDS = 5
SETTLE_SECONDS = 2.0


async def test_relaxed_requests_database_is_locked_p99_is_printed(home: Path, models: ModelServer) -> None:
    user = User(home)
    async with served(home, [entry("one", models.url)], storage={"durability": "relaxed"}) as gateway:
        async with steady(gateway) as load:
            await load.p99s(1)
            before = await load.p99s(IDLE_ROUNDS)
            async with exclusive(user.database):
                locked = await load.p99s(HELD_SECONDS)
            released = len(load.samples)
            await eventually(lambda: user.rows("SELECT count(*) FROM usage")[0][0] >= released, SECONDS)
            after = await load.p99s(IDLE_ROUNDS)
        assert {sample.status for sample in load.samples} == {200}
        assert gateway.stop() == 0
    figure(
        "p99 with a locked database, divided by p99 without",
        median(locked) / median(before + after),
        "",
        "1.1",
    )


async def test_strict_requests_database_is_locked_delays_are_printed(home: Path, models: ModelServer) -> None:
    storage = {"durability": "strict", "settle_timeout": SETTLE_SECONDS}
    async with served(home, [entry("one", models.url)], storage=storage) as gateway:
        async with steady(gateway) as load:
            await load.p99s(1)
            async with exclusive(User(home).database):
                await trio.sleep(HELD_SECONDS)
            await eventually(lambda: load.samples[-1].status == 200, SECONDS)
        assert gateway.stop() == 0
    refused = [sample for sample in load.samples if sample.status == 503]
    longest = max(sample.seconds for sample in load.samples)
    figure("longest delay with a locked database", longest, "s", f"{SETTLE_SECONDS + 1} s")
    if refused:
        figure(
            "median delay of a refusal", median(sample.seconds for sample in refused) * 1000, "ms", "100 ms"
        )
