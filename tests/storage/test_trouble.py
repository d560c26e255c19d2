"""Locks, slow statements, full queues, and a PostgreSQL server that is killed or stops answering."""

import asyncio  # noqa: TID251 - to end a worker the way its own loop would
import contextlib
import os
import resource
import shutil
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
import trio
import trio.testing

from storage import Connection, StorageBroken, StorageError, StorageUnavailable, Store
from storage.settings import put_setting, select_setting
from storage.store import open_store
from storage.usage import insert_batch
from storage.work import QUEUE_LIMIT
from tests.gateways import eventually
from tests.storage.locks import exclusive
from tests.storage.postgres_server import PostgresServer
from tests.storage.samples import NOON, all_usage, names, usage

T = TypeVar("T")
KILLS = 5


async def insist(unit: Callable[[], Awaitable[T]]) -> T:
    """The result of a unit, repeated while the store is unavailable."""
    results: list[T] = []

    async def attempt() -> bool:
        with contextlib.suppress(StorageUnavailable):
            results.append(await unit())
        return bool(results)

    await eventually(attempt, 60)
    return results[0]


async def test_writes_database_is_locked_wait_and_are_written(sqlite_url: str, sqlite_path: Path) -> None:
    async with open_store(sqlite_url) as store, trio.open_nursery() as nursery, exclusive(sqlite_path):
        for serial in range(20):
            nursery.start_soon(store.write, put_setting, f"{serial:02}", "x")
        await trio.testing.wait_all_tasks_blocked()
        assert await store.read(names) == []
    async with open_store(sqlite_url) as store:
        assert await store.read(names) == [f"{serial:02}" for serial in range(20)]


async def test_write_lock_outlasts_the_timeout_is_refused(sqlite_url: str, sqlite_path: Path) -> None:
    refused = []

    async def attempt(store: Store, name: str) -> None:
        with pytest.raises(StorageUnavailable):
            await store.write(put_setting, name, "x")
        refused.append(name)

    async with open_store(sqlite_url, statement_timeout=0.5) as store:
        async with exclusive(sqlite_path):
            with trio.fail_after(120):
                async with trio.open_nursery() as nursery:
                    for name in "abcdef":
                        nursery.start_soon(attempt, store, name)
        assert sorted(refused) == list("abcdef")
        await insist(lambda: store.write(put_setting, "g", "x"))
        assert await insist(lambda: store.read(names)) == ["g"]


async def test_close_database_is_locked_refuses_waiting_writes(sqlite_url: str, sqlite_path: Path) -> None:
    async def attempt(store: Store, name: str, outcomes: list[str]) -> None:
        with pytest.raises(StorageUnavailable) as caught:
            await store.write(put_setting, name, "x")
        outcomes.append(str(caught.value))

    async with open_store(sqlite_url):
        pass
    async with exclusive(sqlite_path):
        for _ in range(5):  # on a slow machine the waiting writes may expire before the store closes
            outcomes: list[str] = []
            async with trio.open_nursery() as nursery:
                with trio.fail_after(120):
                    async with open_store(sqlite_url, statement_timeout=1, close_timeout=0.1) as store:
                        for name in "abc":
                            nursery.start_soon(attempt, store, name, outcomes)
                        await trio.testing.wait_all_tasks_blocked(0.05)
            if sum("closed before" in outcome for outcome in outcomes) == 2:
                break
        else:
            raise AssertionError(outcomes)


async def endless(connection: Connection) -> object:
    return await connection.value(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )


async def stops(connection: Connection) -> None:
    await put_setting(connection, "a", "1")
    raise asyncio.CancelledError


async def breaks(connection: Connection) -> None:
    await put_setting(connection, "a", "1")
    raise Torn


class Torn(BaseException):
    """An exception that no unit raises."""


@pytest.mark.parametrize("unit", [stops, breaks])
async def test_failed_worker_rejects_all_waiting_callers(
    url: str, unit: Callable[[Connection], Awaitable[None]]
) -> None:
    """Waiting and later callers get an error, and the unit is rolled back."""
    outcomes = []

    async def attempt(store: Store, name: str) -> None:
        try:
            await store.write(put_setting, name, "x")
            outcomes.append("written")
        except StorageUnavailable:
            outcomes.append("refused")

    with trio.fail_after(120), contextlib.suppress(StorageError):
        async with open_store(url, connections=1) as store, trio.open_nursery() as nursery:
            nursery.start_soon(refused, store, unit)
            await trio.testing.wait_all_tasks_blocked()
            for name in "bcd":
                nursery.start_soon(attempt, store, name)
    assert outcomes == ["refused"] * 3
    async with open_store(url) as store:
        assert await store.read(names) == []


async def refused(store: Store, unit: Callable[[Connection], Awaitable[None]]) -> None:
    with pytest.raises(StorageUnavailable, match="worker failed"):
        await store.write(unit)
    with pytest.raises(StorageUnavailable):
        await store.write(put_setting, "late", "x")


async def test_unit_of_many_statements_timeout_expires_is_refused(url: str) -> None:
    """Each statement is within the limit; all of them together are not."""
    given_up = trio.Event()

    async def long(connection: Connection) -> None:
        while not given_up.is_set():
            await connection.value("SELECT 1")

    async with open_store(url, statement_timeout=0.5) as store:
        try:
            with trio.fail_after(120), pytest.raises(StorageUnavailable):
                await store.read(long)
        finally:
            given_up.set()


async def test_statement_timeout_expires_is_cancelled(url: str) -> None:
    async with open_store(url, statement_timeout=0.6) as store:
        for unit in (store.read, store.write):
            with trio.fail_after(120), pytest.raises(StorageUnavailable):
                await unit(endless)
        await insist(lambda: store.write(put_setting, "a", "1"))
        assert await insist(lambda: store.read(names)) == ["a"]


async def test_writes_queue_is_full_are_refused(url: str) -> None:
    refused = []

    async def attempt(store: Store, serial: int) -> None:
        try:
            await store.write(put_setting, f"{serial:05}", "x")
        except StorageUnavailable:
            refused.append(serial)

    async with open_store(url, statement_timeout=600) as store:  # nothing else is refused
        async with trio.open_nursery() as nursery:
            for serial in range(QUEUE_LIMIT + 100):
                nursery.start_soon(attempt, store, serial)
        assert 0 < len(refused) <= 100
        assert len(await store.read(names)) == QUEUE_LIMIT + 100 - len(refused)


class InsertLoad:
    """Tasks that insert batches until stopped, and insert a batch again until it is acknowledged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._serials = count()
        self.acknowledged: set[int] = set()
        self.stopped = False
        self._news = trio.Event()

    async def run(self) -> None:
        while not self.stopped:
            batch = [next(self._serials) for _ in range(4)]
            rows = [usage(serial, at=NOON + serial) for serial in batch]
            await insist(lambda rows=rows: self._store.write(insert_batch, rows))  # type: ignore[misc]
            self.acknowledged.update(batch)
            self._news.set()
            self._news = trio.Event()

    async def progress(self) -> None:
        """Wait until ten more batches have been acknowledged."""
        for _ in range(10):
            await self._news.wait()


async def survey(connection: Connection) -> tuple[set[int], object, object]:
    rows = await all_usage(connection)
    return (
        {int(row.request_id.removeprefix("request-")) for row in rows},
        await connection.value("SELECT CAST(sum(requests) AS BIGINT) FROM usage_hourly"),
        await connection.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()"
        ),
    )


@pytest.mark.process
async def test_postgres_is_killed_under_load_each_acknowledged_row_counts_once(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with open_store(postgres_url, statement_timeout=5) as store:
        load = InsertLoad(store)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(load.run)
            for _ in range(KILLS):
                await load.progress()
                await trio.to_thread.run_sync(postgres.kill)
                await trio.to_thread.run_sync(postgres.start)
                await load.progress()
            load.stopped = True
        logged, rolled_up, idle = await store.read(survey)
    assert (logged, rolled_up, idle) == (load.acknowledged, len(logged), 0)


async def test_postgres_schema_was_changed_by_another_instance_needs_one_retry(postgres_url: str) -> None:
    async def widen(connection: Connection) -> None:
        await connection.execute("ALTER TABLE settings ALTER COLUMN value TYPE VARCHAR(100)")

    async with open_store(postgres_url, connections=1) as old, open_store(postgres_url) as new:
        await old.write(put_setting, "a", "1")
        assert await old.read(select_setting, "a") == "1"
        await new.write(widen)
        with pytest.raises(StorageUnavailable):
            await old.read(select_setting, "a")
        assert await old.read(select_setting, "a") == "1"


@pytest.mark.process
async def test_postgres_stops_answering_is_unavailable_until_it_answers(
    postgres: PostgresServer, postgres_url: str
) -> None:
    async with open_store(postgres_url, statement_timeout=0.5, close_timeout=1) as store:
        await store.write(put_setting, "a", "1")
        postgres.freeze()
        try:
            for _ in range(3):
                with trio.fail_after(120), pytest.raises(StorageUnavailable):
                    await store.write(put_setting, "b", "1")
        finally:
            postgres.thaw()
        await insist(lambda: store.write(put_setting, "c", "1"))
        assert set(await store.read(names)) >= {"a", "c"}


async def test_writes_disk_is_full_are_refused_until_space_is_free(
    sqlite_url: str, sqlite_path: Path
) -> None:
    """A limit on file sizes simulates the full disk."""
    serials = count()
    acknowledged = []

    async def write(store: Store) -> None:
        serial = next(serials)
        await store.write(put_setting, f"{serial:05}", "x" * 1000)
        acknowledged.append(f"{serial:05}")

    async with open_store(sqlite_url) as store:
        for _ in range(10):
            await write(store)
        used = sqlite_path.with_name("gateway.db-wal").stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (used + 20_000, before[1]))
        try:
            with pytest.raises(StorageUnavailable):
                for _ in range(100):
                    await write(store)
            with pytest.raises(StorageUnavailable):
                await write(store)
            assert set(acknowledged) <= set(await store.read(names))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await write(store)
        assert await store.read(names) == acknowledged


SYNC_FAILS = """
import sys, trio
from storage import StorageBroken
from storage.store import open_store
from storage.settings import put_setting

async def main():
    async with open_store(sys.argv[1]) as store:
        for serial in range(100):
            try:
                await store.write(put_setting, f"{serial:02}", "x")
                print(f"{serial:02}")
            except StorageBroken as exc:
                assert "restart" in str(exc)
                print("refused")

trio.run(main)
"""


def damage(path: Path, intact: int) -> None:
    """Replace all bytes from a position on with zeros."""
    size = path.stat().st_size
    os.truncate(path, intact)
    os.truncate(path, size)


async def test_database_file_is_damaged_raises_broken(sqlite_url: str, sqlite_path: Path) -> None:
    async with open_store(sqlite_url) as store:
        await store.write(insert_batch, [usage(serial) for serial in range(500)])
    async with open_store(sqlite_url) as store:
        damage(sqlite_path, 4096)
        with pytest.raises(StorageBroken):
            await store.write(insert_batch, [usage(501)])
    damage(sqlite_path, 10)
    with pytest.raises(StorageBroken):
        async with open_store(sqlite_url):
            pass


async def test_postgres_forbids_writing_raises_broken(postgres_url: str) -> None:
    async def forbid(connection: Connection) -> None:
        await connection.execute("CREATE ROLE guest")
        await connection.execute("SET LOCAL ROLE guest")
        await put_setting(connection, "a", "1")

    async with open_store(postgres_url) as store:
        with pytest.raises(StorageBroken):
            await store.write(forbid)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs the strace program")
async def test_writes_sync_has_failed_are_refused(sqlite_url: str) -> None:
    """The kernel reports a lost page once; a later sync that succeeds proves nothing."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]
    inject = ["-e", "inject=fsync,fdatasync:error=EIO:when=50"]
    with trio.fail_after(120):
        done = await trio.run_process(
            [*strace, *inject, sys.executable, "-c", SYNC_FAILS, sqlite_url], capture_stdout=True
        )
    lines = done.stdout.decode().split()
    first = lines.index("refused")
    assert first > 0
    assert set(lines[first:]) == {"refused"}
    async with open_store(sqlite_url) as store:
        assert set(await store.read(names)) >= set(lines[:first])
