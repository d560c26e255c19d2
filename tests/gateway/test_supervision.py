"""What the watchdog asks: a recorder that turns is alive, however badly its database does."""

from collections.abc import Awaitable, Callable
from typing import cast

import trio
import trio.testing

from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.supervision import Watchdog
from storage import StorageUnavailable, Store
from tests.storage.samples import NOON, usage

LIMIT = 40.0


class Database:
    """Its one method does what it is told."""

    def __init__(self, write: Callable[[], Awaitable[None]]) -> None:
        self._write = write

    async def write(self, *_: object) -> None:
        await self._write()


def recorder_on(write: Callable[[], Awaitable[None]]) -> Recorder:
    log = Log(SystemClock(), write=lambda line: None)
    store = cast("Store", Database(write))
    return Recorder(store, max_rows=10, timeout=5.0, log=log, metrics=Metrics())


def record(recorder: Recorder) -> None:
    recorder.reserve()
    recorder.record(usage(1, at=NOON))


async def beats_for(watchdog: Watchdog, seconds: float) -> bool:
    """Whether it did all the time, asked twice a minute as a watchdog would."""
    always = True
    for _ in range(int(seconds / 30)):
        await trio.sleep(30)
        always = always and watchdog.healthy()
    return always


async def refuse() -> None:
    raise StorageUnavailable("locked")


async def hang() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(3600)


async def test_idle_and_failing_recorders_are_alive(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    recorder = recorder_on(refuse)
    nursery.start_soon(recorder.run)
    watchdog = Watchdog(recorder, limit=LIMIT)
    assert await beats_for(watchdog, 600)
    record(recorder)
    assert await beats_for(watchdog, 600)
    assert recorder.failing
    nursery.cancel_scope.cancel()


async def test_a_recorder_that_hangs_is_not(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    recorder = recorder_on(hang)
    nursery.start_soon(recorder.run)
    watchdog = Watchdog(recorder, limit=LIMIT)
    record(recorder)
    assert await beats_for(watchdog, 30)
    assert not await beats_for(watchdog, 90)
    nursery.cancel_scope.cancel()


async def test_nor_is_one_whose_task_has_gone(autojump_clock: trio.testing.MockClock) -> None:
    recorder = recorder_on(refuse)
    watchdog = Watchdog(recorder, limit=LIMIT)
    assert await beats_for(watchdog, 600), "without rows nothing is lost"
    record(recorder)
    assert not await beats_for(watchdog, 120)
