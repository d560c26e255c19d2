"""Transactions, errors and cancellation on both engines."""

import contextlib
import math
import random
from pathlib import Path

import pytest
import trio
import trio.testing

from storage import Connection, IntegrityError, StorageError, StorageUnavailable, Store
from storage.settings import put_setting, select_setting
from storage.store import open_store
from tests.storage.samples import Pair, names, put_pairs


async def boom(connection: Connection) -> None:
    await put_setting(connection, "a", "1")
    raise LookupError("on purpose")


async def conflict(connection: Connection) -> None:
    for _ in range(2):
        await connection.execute("INSERT INTO settings (name, value) VALUES ('a', '1')")


async def test_write_unit_returns_its_value_and_commits(store: Store) -> None:
    await store.write(put_setting, "a", "1")
    assert await store.read(select_setting, "a") == "1"
    assert await store.read(select_setting, "b") is None


async def test_write_unit_raises_is_rolled_back(store: Store) -> None:
    with pytest.raises(LookupError, match="on purpose"):
        await store.write(boom)
    assert await store.read(names) == []


async def test_write_unique_violation_raises_conflict_without_value(store: Store) -> None:
    with pytest.raises(IntegrityError, match="settings"):
        await store.write(conflict)
    assert await store.read(names) == []


async def test_write_unit_after_error_cannot_continue(store: Store) -> None:
    async def stubborn(connection: Connection) -> str:
        try:
            await conflict(connection)
        except IntegrityError:
            return "all is well"
        return "no error"

    async def mistaken(connection: Connection) -> None:
        with contextlib.suppress(StorageError):
            await connection.all("SELEKT 1")

    with pytest.raises(IntegrityError):
        await store.write(stubborn)
    with pytest.raises(StorageError):
        await store.read(mistaken)
    assert await store.read(names) == []


async def test_write_invalid_statement_is_not_retryable(store: Store) -> None:
    async def mistaken(connection: Connection) -> None:
        await connection.execute("SELEKT 1")

    with pytest.raises(StorageError) as caught:
        await store.write(mistaken)
    assert not isinstance(caught.value, StorageUnavailable)


@pytest.mark.parametrize("value", [2**63, "\ud800", object()])
async def test_write_invalid_value_is_refused_without_value(store: Store, value: object) -> None:
    async def unit(connection: Connection) -> None:
        await connection.execute(
            "UPDATE users SET disabled_at = :at, full_name = :name",
            at=value if isinstance(value, int) else 1,
            name=value if not isinstance(value, int) else "n",
        )

    with pytest.raises(StorageError, match=r"^[ -~]*$") as caught:
        await store.write(unit)
    assert not isinstance(caught.value, StorageUnavailable)
    await store.write(put_setting, "a", "1")


async def test_write_final_commits_and_ends_the_unit(store: Store) -> None:
    async def unit(connection: Connection, *, more: bool) -> None:
        await connection.execute("INSERT INTO settings (name, value) VALUES ('a', '1')")
        await connection.many(
            "INSERT INTO settings (name, value) VALUES (:name, :value)",
            [Pair("b", "2"), Pair("c", "3")],
            final=True,
        )
        if more:
            await connection.execute("DELETE FROM settings")

    async def last(connection: Connection) -> int:
        return await connection.execute("UPDATE settings SET value = 'x'", final=True)

    async def too_much(connection: Connection) -> None:
        await last(connection)
        await connection.execute("DELETE FROM settings")

    async def good(connection: Connection) -> None:
        await unit(connection, more=False)

    await store.write(good)
    assert await store.read(names) == ["a", "b", "c"]
    assert await store.write(last) == 3
    with pytest.raises(RuntimeError, match="already committed"):
        await store.write(too_much)
    assert await store.read(names) == ["a", "b", "c"]


async def test_read_unit_cannot_write(store: Store) -> None:
    with pytest.raises(StorageError):
        await store.read(put_setting, "a", "1")
    assert await store.read(names) == []


async def test_read_unit_sees_one_snapshot(store: Store) -> None:
    """A write that commits between two statements of a read is not visible."""
    before, after = [], []
    token = trio.lowlevel.current_trio_token()
    looked, written = trio.Event(), trio.Event()

    async def look(connection: Connection) -> None:
        before.extend(await names(connection))
        token.run_sync_soon(looked.set)
        while not written.is_set():
            await connection.value("SELECT 1")
        after.extend(await names(connection))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.read, look)
        await looked.wait()
        await store.write(put_setting, "a", "1")
        written.set()
    assert (before, after) == ([], [])
    assert await store.read(names) == ["a"]


async def test_callers_are_cancelled_no_transaction_is_split(store: Store) -> None:
    """Every unit writes three rows. After a cancellation all three are there, or all are missing."""
    rng = random.Random(7)  # noqa: S311
    acknowledged = set()

    async def call(serial: int) -> None:
        pairs = [Pair(f"{serial}.{part}", "x") for part in range(3)]
        with trio.move_on_after(rng.choice([0, 0.0001, 0.001, 0.003, math.inf])):
            await store.write(put_pairs, pairs)
            acknowledged.add(serial)

    async def peek() -> None:
        with trio.move_on_after(rng.choice([0, 0.0001, 0.001])):
            await store.read(names)

    for start in range(0, 1000, 20):
        async with trio.open_nursery() as nursery:
            for serial in range(start, start + 20):
                nursery.start_soon(call, serial)
                if serial % 4 == 0:
                    nursery.start_soon(peek)
    present = [name.split(".")[0] for name in await store.read(names)]
    assert {present.count(serial) for serial in set(present)} == {3}
    assert acknowledged <= {int(serial) for serial in present}
    assert 0 < len(acknowledged) < 1000


async def test_caller_already_cancelled_writes_nothing(store: Store) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.write(put_setting, "a", "1")
    assert scope.cancelled_caught
    await store.write(put_setting, "b", "1")
    assert await store.read(names) == ["b"]


async def test_close_queued_writes_are_finished(url: str) -> None:
    patient = open_store(url, statement_timeout=120, close_timeout=120)
    async with patient as store, trio.open_nursery() as nursery:
        for serial in range(50):
            nursery.start_soon(store.write, put_setting, f"{serial:02}", "x")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with open_store(url) as store:
        assert await store.read(names) == [f"{serial:02}" for serial in range(50)]


async def test_closed_store_refuses_work(url: str) -> None:
    async with open_store(url) as store:
        pass
    with pytest.raises(StorageUnavailable, match="closing"):
        await store.read(names)


async def test_store_block_raises_exception_is_unchanged(url: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_store(url):
            raise ZeroDivisionError


async def test_postgres_second_store_can_be_opened(postgres_url: str) -> None:
    async with open_store(postgres_url) as one, open_store(postgres_url) as two:
        await one.write(put_setting, "a", "1")
        assert await two.read(names) == ["a"]


async def test_store_task_started_before_it_can_use_it(url: str) -> None:
    """Callers may be tasks outside the nursery that opened the store."""
    send, receive = trio.open_memory_channel[Store](0)
    done = trio.Event()

    async def stranger() -> None:
        store = await receive.receive()
        await store.write(put_setting, "a", "1")
        assert await store.read(names) == ["a"]
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stranger)
        await trio.testing.wait_all_tasks_blocked()
        async with open_store(url) as store:
            await send.send(store)
            await done.wait()


@pytest.mark.parametrize(
    "url",
    ["mysql://root:hunter2@localhost/x", "sqlite://relative.db", "sqlite://", "sqlite:///a.db?mode=memory"],
)
async def test_url_invalid_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        async with open_store(url):
            pass
    assert "hunter2" not in str(caught.value)


async def test_database_unreachable_raises_unavailable(tmp_path: Path) -> None:
    urls = [f"sqlite://{tmp_path}/missing/x.db", f"sqlite://{tmp_path}", "postgres://u:hunter2@127.0.0.1:1/x"]
    for url in urls:
        with pytest.raises(StorageUnavailable) as caught:
            async with open_store(url):
                pass
        assert "hunter2" not in str(caught.value)
