"""The watchdog, the task supervisor and the idle sweeper."""

import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import cast

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.supervision import TaskSupervisor, Watchdog
from storage import StorageUnavailable, Store
from tests import gateways
from tests.fakes.model_server import ModelServer
from tests.gateways import entry
from tests.storage.samples import NOON, usage

LIMIT = 40.0


class FakeStore:
    """A store whose writes call the given function."""

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        self._write = write

    async def write(self, *_: object) -> None:
        await self._write()


def recorder_on(write: Callable[[], Awaitable[None]]) -> Recorder:
    log = Log(SystemClock(), write=lambda line: None)
    store = cast("Store", FakeStore(write))
    return Recorder(store, max_rows=10, timeout=5.0, log=log, metrics=Metrics())


def record(recorder: Recorder) -> None:
    recorder.reserve()
    recorder.record(usage(1, at=NOON))


async def healthy_for(watchdog: Watchdog, seconds: float) -> bool:
    """Whether every check succeeds, two per minute."""
    results = []
    for _ in range(int(seconds / 30)):
        await trio.sleep(30)
        results.append(watchdog.healthy())
    return all(results)


async def refuse() -> None:
    raise StorageUnavailable("locked")


async def hang() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(3600)


async def test_watchdog_of_idle_or_failing_recorder_is_healthy(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    recorder = recorder_on(refuse)
    nursery.start_soon(recorder.run)
    watchdog = Watchdog(recorder, limit=LIMIT)
    assert await healthy_for(watchdog, 600)
    record(recorder)
    assert await healthy_for(watchdog, 600)
    assert recorder.failing
    nursery.cancel_scope.cancel()


async def test_watchdog_of_hanging_recorder_is_unhealthy(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    recorder = recorder_on(hang)
    nursery.start_soon(recorder.run)
    watchdog = Watchdog(recorder, limit=LIMIT)
    record(recorder)
    assert await healthy_for(watchdog, 30)
    assert not await healthy_for(watchdog, 90)
    nursery.cancel_scope.cancel()


async def test_watchdog_of_stopped_recorder_with_rows_is_unhealthy(autojump_clock: MockClock) -> None:
    recorder = recorder_on(refuse)
    watchdog = Watchdog(recorder, limit=LIMIT)
    assert await healthy_for(watchdog, 600), "no row is waiting"
    record(recorder)
    assert not await healthy_for(watchdog, 120)


async def test_failed_task_restarts_with_backoff_and_is_reported(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    lines: list[bytes] = []
    tasks = TaskSupervisor(Log(SystemClock(), write=lines.append))
    runs: list[float] = []
    finished = trio.Event()

    async def work() -> None:
        runs.append(trio.current_time())
        if len(runs) < 9:
            raise ValueError("secret")
        assert tasks.down == {}
        finished.set()

    nursery.start_soon(tasks.run, "worker", work)
    await wait_all_tasks_blocked()
    assert tasks.down == {"worker": "ValueError"}
    await finished.wait()
    pauses = [later - earlier for earlier, later in pairwise(runs)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(json.loads(line)["task"] == "worker" for line in lines)
    assert "secret" not in b"".join(lines).decode()


async def test_last_use_of_key_is_stored_at_stop(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    await gateway.chat()
    await gateway.stop()
    again = await gateways.start(nursery, home, servers=[entry("one", models.url)], key=gateway.key)
    async with again.operator() as client:
        (key,) = (await client.get("/api/admin/keys")).json()["data"]
    assert key["last_used_at"] is not None
