"""Units whose caller was cancelled, and units that cannot run."""

import math
import threading
from collections.abc import Iterator
from functools import partial
from types import coroutine

import pytest
import trio
import trio.testing

from storage import Connection, StorageUnavailable, Store
from storage.settings import put_setting
from storage.sqlite import READERS
from storage.store import open_store
from storage.work import JobQueue
from tests.gateways import eventually
from tests.storage.samples import names


async def test_read_cancelled_in_the_queue_does_not_start(store: Store) -> None:
    readers = READERS if store.engine == "sqlite" else 4
    token = trio.lowlevel.current_trio_token()
    busy, release = trio.Event(), trio.Event()
    began = []

    async def occupy(connection: Connection) -> None:
        began.append("reader")
        if len(began) == readers:
            token.run_sync_soon(busy.set)
        while not release.is_set():
            await connection.value("SELECT 1")

    async def late(connection: Connection) -> None:
        began.append("late")

    async with trio.open_nursery() as nursery:
        for _ in range(readers):
            nursery.start_soon(store.read, occupy)
        await busy.wait()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(store.read, late)
            await trio.testing.wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        release.set()
    await store.read(names)
    assert "late" not in began


async def test_write_fails_after_its_caller_was_cancelled_is_logged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    gone = trio.Event()

    async def fail(connection: Connection) -> None:
        await put_setting(connection, "secret", "1")
        while not gone.is_set():
            await connection.value("SELECT 1")
        raise LookupError("hunter2")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, fail)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    gone.set()
    for _ in range(5):
        await store.write(put_setting, "a", "1")
    await eventually(lambda: bool(caplog.records), 60)  # on PostgreSQL other workers may have run them
    (record,) = caplog.records
    assert "LookupError" in record.message
    assert "hunter2" not in caplog.text
    assert await store.read(names) == ["a"]


async def test_sqlite_unit_waits_for_something_else_is_refused(sqlite_url: str) -> None:
    async def unit(connection: Connection) -> None:
        await put_setting(connection, "a", "1")
        await suspend()

    async with open_store(sqlite_url) as store:
        with pytest.raises(RuntimeError, match="only its connection"):
            await store.write(unit)
        assert await store.read(names) == []


@coroutine
def suspend() -> Iterator[None]:
    """What the waits of every event loop do."""
    yield


async def test_sqlite_unit_no_thread_can_start_is_refused(sqlite_url: str) -> None:
    """Stacks that are too large for the memory let every start of a thread fail."""
    done = threading.Event()
    limiter = trio.CapacityLimiter(math.inf)
    async with open_store(sqlite_url) as store, trio.open_nursery() as nursery:
        for _ in range(100):  # more than the threads that Trio has kept
            nursery.start_soon(partial(trio.to_thread.run_sync, done.wait, limiter=limiter))
        await trio.testing.wait_all_tasks_blocked()
        size = threading.stack_size(2**46)
        try:
            with pytest.raises(StorageUnavailable, match="thread"):
                await store.write(put_setting, "a", "1")
        finally:
            threading.stack_size(size)
            done.set()
        await store.write(put_setting, "b", "1")
        assert await store.read(names) == ["b"]


async def test_submit_interrupt_cannot_lose_the_job() -> None:
    protected = []

    def wake() -> None:
        protected.append(trio.lowlevel.currently_ki_protected())
        while (job := queue.next_job()) is not None:
            job.succeed(None)

    queue = JobQueue(60, wake)
    assert not trio.lowlevel.currently_ki_protected()
    await queue.submit(names, (), write=False)
    assert protected == [True]
