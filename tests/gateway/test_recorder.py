"""The recorder: group commits, rows that cannot be written, and the end of its task."""

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bluesminds.common.clock import SystemClock
from bluesminds.common.errors import Unavailable
from bluesminds.common.log import Log
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import MAX_BATCH, Recorder
from storage.base import BadValue, IntegrityError, StorageBroken, StorageError, StorageUnavailable, Store
from storage.store import open_store
from storage.usage import UsageRow
from tests.gateways import eventually
from tests.storage.samples import NOON, all_usage, usage

BAD_MODEL = "bad"


class FakeStore:
    """A store whose writes the test controls."""

    def __init__(self) -> None:
        self.gate: trio.Event | None = None
        self.failing = 0  # writes that will fail
        self.failure: type[Exception] = StorageUnavailable
        self.refusal: type[Exception] = BadValue
        self.commits: list[list[str]] = []

    async def write(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        rows: list[UsageRow] = list(args[0])
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            self.failing -= 1
            raise self.failure("no")
        if any(row.model == BAD_MODEL for row in rows):
            raise self.refusal("a value this row holds")
        self.commits.append([row.id for row in rows])


class Harness:
    def __init__(self, store: FakeStore, *, max_rows: int = 10_000, timeout: float = 1.0) -> None:
        self.metrics = Metrics()
        self.lines: list[bytes] = []
        log = Log(SystemClock(), write=self.lines.append)
        self.recorder = Recorder(
            cast(Store, store), max_rows=max_rows, timeout=timeout, log=log, metrics=self.metrics
        )

    def is_failing(self) -> bool:
        return self.recorder.failing

    def record(self, serial: int, **fields: Any) -> Any:
        self.recorder.check_capacity()
        self.recorder.reserve()
        return self.recorder.record(usage(serial, **fields))

    async def durable(self, batch: Any, serial: int = 0) -> None:
        await self.recorder.wait_durable(batch, usage(serial).id)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for line in self.lines if (event := json.loads(line))["event"] == name]


def ids(serials: range | list[int]) -> list[str]:
    return [usage(serial).id for serial in serials]


async def test_oldest_waiting_is_time_of_first_unwritten_row(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    store = FakeStore()
    store.failing = 3
    harness = Harness(store)
    assert harness.recorder.oldest_waiting == math.inf
    first = trio.current_time()
    for serial in range(MAX_BATCH + 1):
        harness.record(serial)
    mock_clock.jump(5)
    harness.record(MAX_BATCH + 1)
    assert harness.recorder.oldest_waiting == first
    nursery.start_soon(harness.recorder.run)
    mock_clock.autojump_threshold = 0
    while len(store.commits) < 1:
        assert harness.recorder.oldest_waiting == first
        await trio.sleep(0.05)
    await eventually(lambda: len(store.commits) == 2)
    assert harness.recorder.oldest_waiting == math.inf


async def test_waiting_rows_share_one_commit(nursery: trio.Nursery) -> None:
    store = FakeStore()
    store.gate = trio.Event()
    harness = Harness(store)
    nursery.start_soon(harness.recorder.run)
    first = harness.record(0)
    await wait_all_tasks_blocked()
    rest = [harness.record(serial) for serial in range(1, MAX_BATCH + 11)]
    assert harness.recorder.held == MAX_BATCH + 11
    store.gate.set()
    for batch in [first, *rest]:
        await harness.durable(batch)
    assert store.commits == [
        ids([0]),
        ids(range(1, MAX_BATCH + 1)),
        ids(range(MAX_BATCH + 1, MAX_BATCH + 11)),
    ]
    assert harness.recorder.held == 0
    assert (harness.metrics.commits, harness.metrics.rows_committed) == (3, MAX_BATCH + 11)


async def test_full_queue_counts_reserved_and_waiting_rows(nursery: trio.Nursery) -> None:
    store = FakeStore()
    harness = Harness(store, max_rows=2)
    harness.recorder.check_capacity()
    harness.recorder.reserve()
    harness.record(1)
    with pytest.raises(Unavailable) as caught:
        harness.recorder.check_capacity()
    assert caught.value.code == "usage_queue_full"
    nursery.start_soon(harness.recorder.run)
    await wait_all_tasks_blocked()
    harness.recorder.check_capacity()
    await harness.durable(harness.recorder.record(usage(2)))
    assert store.commits == [ids([1]), ids([2])]


async def test_failing_store_fails_waiters_and_keeps_rows(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store = FakeStore()
    store.gate = trio.Event()
    harness = Harness(store)
    nursery.start_soon(harness.recorder.run)
    refused = []

    async def wait(batch: Any) -> None:
        with pytest.raises(Unavailable) as caught:
            await harness.durable(batch)
        refused.append(caught.value.code)

    store.failing = 6
    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait, harness.record(0))
        await wait_all_tasks_blocked()
        waiting.start_soon(wait, harness.record(1))
        waiting.start_soon(wait, harness.record(2))
        store.gate.set()
    assert refused == ["storage_unavailable"] * 3
    assert harness.is_failing()
    with pytest.raises(Unavailable):
        harness.recorder.check_capacity()
    with pytest.raises(Unavailable):
        await harness.durable(harness.recorder.record(usage(3)))
    await trio.sleep(5)
    assert not harness.is_failing()
    assert sorted(row for commit in store.commits for row in commit) == ids(range(4))
    assert harness.metrics.commit_failures == 6
    assert len(harness.events("usage_commit_failed")) == 1
    await harness.durable(harness.record(4))


async def test_hanging_store_fails_after_timeout(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    store = FakeStore()
    store.gate = trio.Event()
    harness = Harness(store)
    started = trio.current_time()
    nursery.start_soon(harness.recorder.run)
    with pytest.raises(Unavailable):
        await harness.durable(harness.record(0))
    assert trio.current_time() - started == 1.0
    store.gate.set()
    await trio.sleep(1)
    assert store.commits == [ids([0])]


@pytest.mark.parametrize(
    "failure", [StorageError, StorageBroken, StorageUnavailable, ValueError, trio.TooSlowError]
)
async def test_store_failure_rejects_no_row(
    nursery: trio.Nursery, autojump_clock: MockClock, failure: type[Exception]
) -> None:
    store = FakeStore()
    store.failure, store.failing = failure, 3
    harness = Harness(store)
    batches = [harness.record(serial) for serial in range(3)]
    nursery.start_soon(harness.recorder.run)
    for serial, batch in enumerate(batches):
        with pytest.raises(Unavailable) as caught:
            await harness.durable(batch, serial)
        assert caught.value.headers == {"x-should-retry": "false"}
    assert harness.is_failing()
    with pytest.raises(Unavailable):
        harness.recorder.check_capacity()
    await trio.sleep(5)
    assert store.commits == [ids(range(3))]
    assert not harness.is_failing()
    assert harness.events("usage_row_rejected") == []
    (event,) = harness.events("usage_commit_failed")
    assert (event["reason"], event["rows"]) == (failure.__name__, 3)
    assert ("frames" in event) == (failure is ValueError)


async def test_rejected_row_is_logged_once_when_batch_is_retried(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class Late(FakeStore):
        """Fails after it rejected the row."""

        async def write(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
            alone = len(args[0]) == 1
            try:
                await super().write(fn, *args)
            except BadValue:
                self.failing = 2 if alone else 0
                raise

    store = Late()
    harness = Harness(store)
    batch = harness.record(0, model=BAD_MODEL)
    for serial in (1, 2, 3):
        harness.record(serial)
    nursery.start_soon(harness.recorder.run)
    await trio.sleep(5)
    assert sorted(row for commit in store.commits for row in commit) == ids([1, 2, 3])
    assert len(harness.events("usage_row_rejected")) == harness.metrics.rows_rejected == 1
    assert harness.metrics.rows_committed == 3
    assert harness.recorder.held == 0
    for serial in (1, 2, 3):
        await harness.durable(batch, serial)
    with pytest.raises(Unavailable):
        await harness.durable(batch, 0)


@pytest.mark.parametrize("refusal", [BadValue, IntegrityError])
@pytest.mark.parametrize("position", [0, 3, 6])
async def test_rejected_row_does_not_block_other_rows(
    nursery: trio.Nursery, position: int, refusal: type[Exception]
) -> None:
    store = FakeStore()
    store.refusal = refusal
    harness = Harness(store)
    batches = [harness.record(serial, model=BAD_MODEL if serial == position else "m") for serial in range(7)]
    nursery.start_soon(harness.recorder.run)
    for serial, batch in enumerate(batches):
        if serial == position:
            with pytest.raises(Unavailable):
                await harness.durable(batch, serial)
        else:
            await harness.durable(batch, serial)
    assert sorted(row for commit in store.commits for row in commit) == [
        row for row in ids(range(7)) if row != ids([position])[0]
    ]
    (event,) = harness.events("usage_row_rejected")
    assert msgspec.convert(event["row"], UsageRow) == usage(position, model=BAD_MODEL)
    assert "a value" not in harness.lines[0].decode()
    assert harness.metrics.rows_rejected == 1
    assert harness.recorder.held == 0


async def test_finish_commits_remaining_rows() -> None:
    store = FakeStore()
    harness = Harness(store)
    for serial in range(5):
        harness.record(serial)
    harness.recorder.finish()
    await harness.recorder.run()
    assert store.commits == [ids(range(5))]


async def test_finish_while_idle_returns(nursery: trio.Nursery) -> None:
    harness = Harness(FakeStore())
    async with trio.open_nursery() as running:
        running.start_soon(harness.recorder.run)
        await wait_all_tasks_blocked()
        harness.recorder.finish()


async def test_cancelled_recorder_logs_remaining_rows(nursery: trio.Nursery) -> None:
    store = FakeStore()
    store.gate = trio.Event()
    harness = Harness(store)
    async with trio.open_nursery() as running:
        running.start_soon(harness.recorder.run)
        harness.record(0)
        await wait_all_tasks_blocked()
        harness.record(1)
        harness.record(2)
        running.cancel_scope.cancel()
    logged = [msgspec.convert(event["row"], UsageRow) for event in harness.events("usage_row_unrecorded")]
    assert logged == [usage(0), usage(1), usage(2)]


async def test_repeated_batch_is_stored_once(nursery: trio.Nursery, sqlite_url: str) -> None:
    class Doubtful(FakeStore):
        """Commits and then reports a failure."""

        async def write(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
            await real.write(fn, *args)
            if self.failing:
                self.failing -= 1
                raise StorageUnavailable("the connection was lost after the commit")

    async with open_store(sqlite_url) as real:
        doubtful = Doubtful()
        doubtful.failing = 2
        harness = Harness(doubtful, timeout=30)
        batch = harness.record(1)
        async with trio.open_nursery() as running:
            running.start_soon(harness.recorder.run)
            await eventually(lambda: bool(batch.durable))
            running.cancel_scope.cancel()
        assert await real.read(all_usage) == [usage(1, at=NOON)]
