"""What becomes of units whose caller has left."""

import pytest
import trio
import trio.testing

from storage import Connection, Store
from storage.settings import put_setting
from tests.storage.samples import names

EVERY_READER = 4


async def test_a_read_that_nobody_waits_for_does_not_begin(store: Store) -> None:
    release = trio.Event()
    began = []

    async def occupy(connection: Connection) -> None:
        while not release.is_set():
            await connection.value("SELECT 1")

    async def late(connection: Connection) -> None:
        began.append(await connection.value("SELECT 1"))

    async with trio.open_nursery() as nursery:
        for _ in range(EVERY_READER):
            nursery.start_soon(store.read, occupy)
        await trio.sleep(0.05)
        with trio.move_on_after(0.01):
            await store.read(late)
        release.set()
    await store.read(names)
    assert began == []


async def test_a_write_that_fails_after_its_caller_has_left_is_logged(
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
    with trio.fail_after(30):  # on PostgreSQL these may have been other workers'
        while not caplog.records:  # noqa: ASYNC110 a log tells nothing by itself
            await trio.sleep(0.01)
    (record,) = caplog.records
    assert "LookupError" in record.message
    assert "hunter2" not in caplog.text
    assert await store.read(names) == ["a"]
