"""The one writer: group commits, rows that cannot be written, and how it ends."""

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
from storage import open_store
from storage.base import BadValue, IntegrityError, StorageBroken, StorageError, StorageUnavailable, Store
from storage.usage import LATEST, UsageRow, select_page
from tests.gateways import eventually
from tests.storage.samples import NOON, usage

POISON = "poison"


class Ledge:
    """A store whose every write is under the test's control."""

    def __init__(self) -> None:
        self.gate: trio.Event | None = None
        self.failing = 0  # writes still to be refused
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
        if any(row.model == POISON for row in rows):
            raise self.refusal("a value this row holds")
        self.commits.append([row.id for row in rows])


class Desk:
    def __init__(self, store: Ledge, *, max_rows: int = 10_000, timeout: float = 1.0) -> None:
        self.metrics = Metrics()
        self.lines: list[bytes] = []
        log = Log(SystemClock(), write=self.lines.append)
        self.recorder = Recorder(
            cast(Store, store), max_rows=max_rows, timeout=timeout, log=log, metrics=self.metrics
        )

    def is_failing(self) -> bool:
        return self.recorder.failing

    def take(self, serial: int, **fields: Any) -> Any:
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
    """In whichever batch they are, and through refused commits."""
    store = Ledge()
    store.failing = 3
    handlers = Desk(store)
    assert handlers.recorder.oldest_waiting == math.inf
    first = trio.current_time()
    for serial in range(MAX_BATCH + 1):
        handlers.take(serial)
    mock_clock.jump(5)
    handlers.take(MAX_BATCH + 1)
    assert handlers.recorder.oldest_waiting == first
    nursery.start_soon(handlers.recorder.run)
    mock_clock.autojump_threshold = 0
    while len(store.commits) < 1:
        assert handlers.recorder.oldest_waiting == first
        await trio.sleep(0.05)
    await eventually(lambda: len(store.commits) == 2)
    assert handlers.recorder.oldest_waiting == math.inf


async def test_waiting_rows_share_one_commit(nursery: trio.Nursery) -> None:
    store = Ledge()
    store.gate = trio.Event()
    handlers = Desk(store)
    nursery.start_soon(handlers.recorder.run)
    first = handlers.take(0)
    await wait_all_tasks_blocked()
    rest = [handlers.take(serial) for serial in range(1, MAX_BATCH + 11)]
    assert handlers.recorder.held == MAX_BATCH + 11
    store.gate.set()
    for batch in [first, *rest]:
        await handlers.durable(batch)
    assert store.commits == [
        ids([0]),
        ids(range(1, MAX_BATCH + 1)),
        ids(range(MAX_BATCH + 1, MAX_BATCH + 11)),
    ]
    assert handlers.recorder.held == 0
    assert (handlers.metrics.commits, handlers.metrics.rows_committed) == (3, MAX_BATCH + 11)


async def test_full_queue_counts_reserved_and_waiting_rows(nursery: trio.Nursery) -> None:
    store = Ledge()
    handlers = Desk(store, max_rows=2)
    handlers.recorder.check_capacity()
    handlers.recorder.reserve()
    handlers.take(1)
    with pytest.raises(Unavailable) as caught:
        handlers.recorder.check_capacity()
    assert caught.value.code == "usage_queue_full"
    nursery.start_soon(handlers.recorder.run)
    await wait_all_tasks_blocked()
    handlers.recorder.check_capacity()
    await handlers.durable(handlers.recorder.record(usage(2)))
    assert store.commits == [ids([1]), ids([2])]


async def test_failing_store_fails_waiters_and_keeps_rows(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    store = Ledge()
    store.gate = trio.Event()
    handlers = Desk(store)
    nursery.start_soon(handlers.recorder.run)
    refused = []

    async def wait(batch: Any) -> None:
        with pytest.raises(Unavailable) as caught:
            await handlers.durable(batch)
        refused.append(caught.value.code)

    store.failing = 6
    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait, handlers.take(0))
        await wait_all_tasks_blocked()
        waiting.start_soon(wait, handlers.take(1))
        waiting.start_soon(wait, handlers.take(2))
        store.gate.set()
    assert refused == ["storage_unavailable"] * 3
    assert handlers.is_failing()
    with pytest.raises(Unavailable):
        handlers.recorder.check_capacity()
    with pytest.raises(Unavailable):
        await handlers.durable(handlers.recorder.record(usage(3)))
    await trio.sleep(5)
    assert not handlers.is_failing()
    assert sorted(row for commit in store.commits for row in commit) == ids(range(4))
    assert handlers.metrics.commit_failures == 6
    assert len(handlers.events("usage_commit_failed")) == 1
    await handlers.durable(handlers.take(4))


async def test_hanging_store_fails_after_timeout(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    store = Ledge()
    store.gate = trio.Event()
    handlers = Desk(store)
    nursery.start_soon(handlers.recorder.run)
    with trio.fail_after(1.01), pytest.raises(Unavailable):
        await handlers.durable(handlers.take(0))
    store.gate.set()
    await trio.sleep(1)
    assert store.commits == [ids([0])]


@pytest.mark.parametrize(
    "failure", [StorageError, StorageBroken, StorageUnavailable, ValueError, trio.TooSlowError]
)
async def test_store_failure_rejects_no_row(
    nursery: trio.Nursery, autojump_clock: MockClock, failure: type[Exception]
) -> None:
    """A table that is gone, a database that is read only, a fault of ours: no reason to lose a row."""
    store = Ledge()
    store.failure, store.failing = failure, 3
    handlers = Desk(store)
    batches = [handlers.take(serial) for serial in range(3)]
    nursery.start_soon(handlers.recorder.run)
    for serial, batch in enumerate(batches):
        with pytest.raises(Unavailable) as caught:
            await handlers.durable(batch, serial)
        assert caught.value.headers == {"x-should-retry": "false"}
    assert handlers.is_failing()
    with pytest.raises(Unavailable):
        handlers.recorder.check_capacity()
    await trio.sleep(5)
    assert store.commits == [ids(range(3))]
    assert not handlers.is_failing()
    assert handlers.events("usage_row_rejected") == []
    (event,) = handlers.events("usage_commit_failed")
    assert (event["reason"], event["rows"]) == (failure.__name__, 3)
    assert ("frames" in event) == (failure is ValueError)


async def test_rejected_row_is_logged_once_when_batch_is_retried(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class Late(Ledge):
        """Fails right after it has refused the row."""

        async def write(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
            alone = len(args[0]) == 1
            try:
                await super().write(fn, *args)
            except BadValue:
                self.failing = 2 if alone else 0
                raise

    store = Late()
    handlers = Desk(store)
    batch = handlers.take(0, model=POISON)
    for serial in (1, 2, 3):
        handlers.take(serial)
    nursery.start_soon(handlers.recorder.run)
    await trio.sleep(5)
    assert sorted(row for commit in store.commits for row in commit) == ids([1, 2, 3])
    assert len(handlers.events("usage_row_rejected")) == handlers.metrics.rows_rejected == 1
    assert handlers.metrics.rows_committed == 3
    assert handlers.recorder.held == 0
    for serial in (1, 2, 3):
        await handlers.durable(batch, serial)
    with pytest.raises(Unavailable):
        await handlers.durable(batch, 0)


@pytest.mark.parametrize("refusal", [BadValue, IntegrityError])
@pytest.mark.parametrize("position", [0, 3, 6])
async def test_rejected_row_does_not_block_other_rows(
    nursery: trio.Nursery, position: int, refusal: type[Exception]
) -> None:
    store = Ledge()
    store.refusal = refusal
    handlers = Desk(store)
    batches = [handlers.take(serial, model=POISON if serial == position else "m") for serial in range(7)]
    nursery.start_soon(handlers.recorder.run)
    for serial, batch in enumerate(batches):
        if serial == position:
            with pytest.raises(Unavailable):
                await handlers.durable(batch, serial)
        else:
            await handlers.durable(batch, serial)
    assert sorted(row for commit in store.commits for row in commit) == [
        row for row in ids(range(7)) if row != ids([position])[0]
    ]
    (event,) = handlers.events("usage_row_rejected")
    assert msgspec.convert(event["row"], UsageRow) == usage(position, model=POISON)
    assert "a value" not in handlers.lines[0].decode()
    assert handlers.metrics.rows_rejected == 1
    assert handlers.recorder.held == 0


async def test_finish_commits_remaining_rows() -> None:
    store = Ledge()
    handlers = Desk(store)
    for serial in range(5):
        handlers.take(serial)
    handlers.recorder.finish()
    with trio.fail_after(2):
        await handlers.recorder.run()
    assert store.commits == [ids(range(5))]


async def test_finish_while_idle_returns(nursery: trio.Nursery) -> None:
    handlers = Desk(Ledge())
    with trio.fail_after(2):
        async with trio.open_nursery() as running:
            running.start_soon(handlers.recorder.run)
            await wait_all_tasks_blocked()
            handlers.recorder.finish()


async def test_cancelled_recorder_logs_remaining_rows(nursery: trio.Nursery) -> None:
    store = Ledge()
    store.gate = trio.Event()
    handlers = Desk(store)
    async with trio.open_nursery() as running:
        running.start_soon(handlers.recorder.run)
        handlers.take(0)
        await wait_all_tasks_blocked()
        handlers.take(1)
        handlers.take(2)
        running.cancel_scope.cancel()
    logged = [msgspec.convert(event["row"], UsageRow) for event in handlers.events("usage_row_unrecorded")]
    assert logged == [usage(0), usage(1), usage(2)]


async def test_repeated_batch_is_stored_once(nursery: trio.Nursery, sqlite_url: str) -> None:
    class Doubtful(Ledge):
        """Commits, and then says it did not."""

        async def write(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> Any:
            await real.write(fn, *args)
            if self.failing:
                self.failing -= 1
                raise StorageUnavailable("the connection was lost after the commit")

    async with open_store(sqlite_url) as real:
        doubtful = Doubtful()
        doubtful.failing = 2
        handlers = Desk(doubtful, timeout=30)
        batch = handlers.take(1)
        async with trio.open_nursery() as running:
            running.start_soon(handlers.recorder.run)
            await eventually(lambda: bool(batch.durable), 60)
            running.cancel_scope.cancel()
        assert await real.read(select_page, LATEST, 10) == [usage(1, at=NOON)]
