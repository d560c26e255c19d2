"""SQLite: one writer connection and a few readers, each with a thread and a worker task.

A file is locked by one store. Only the writer checkpoints: before SQLite 3.51.3, two connections that
checkpoint at the same time can corrupt the WAL. Each commit is synced to disk before the unit returns. If a
worker fails, the store closes.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, LiteralString, TypeVar, Unpack, cast

import trio

from storage.base import (
    Connection,
    DatabaseInUse,
    Engine,
    Repeated,
    Row,
    StorageError,
    StorageUnavailable,
    Ts,
)
from storage.migrate import load
from storage.placeholders import translate
from storage.sqlite_schema import RolledBack, migrate, roll_back_file, upgrade_file
from storage.sqlite_thread import (
    SqliteThread,
    do_nothing,
    execute,
    execute_all,
    execute_many,
    fetch_all,
    fetch_one,
    roll_back,
    to_storage_error,
)
from storage.work import Job, JobQueue

T = TypeVar("T")

_log = logging.getLogger("bluesminds.storage")

READERS = 3


class SqliteStore:
    """Two queues and their workers. `open` and `serve` run in the asyncio event loop."""

    def __init__(
        self,
        path: Path,
        loop: asyncio.AbstractEventLoop,
        statement_timeout: float,
        schema: Traversable,
    ) -> None:
        self._path = path
        self._timeout = statement_timeout
        self._schema = schema
        self._reads = JobQueue(loop, statement_timeout)
        self._writes = JobQueue(loop, statement_timeout)
        self._threads = AsyncExitStack()
        self._writer: SqliteThread
        self.chain_key = b""
        self.on_events: Callable[[], None] = lambda: None

    @property
    def engine(self) -> Engine:
        return "sqlite"

    async def read(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._reads.submit(fn, args, write=False))

    async def write(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._writes.submit(fn, args, write=True))

    async def open(self) -> None:
        """Create the file if it does not exist (mode 0600), upgrade or migrate it, connect."""
        try:
            await self._connect()
        except BaseException:
            await self._threads.aclose()
            raise

    async def _connect(self) -> None:
        lock = _create_private(self._path)
        self._threads.callback(os.close, lock)
        _lock(lock, self._path)
        migrations = load(self._schema, "sqlite")
        try:
            await asyncio.to_thread(upgrade_file, self._path, migrations)
        except sqlite3.Error as exc:
            raise to_storage_error(exc) from exc
        except OSError as exc:
            raise StorageUnavailable(f"the database cannot be upgraded: {exc.strerror}") from exc
        self._writer = await self._start_thread("writer")
        await self._writer.run(partial(migrate, migrations=migrations))

    async def _start_thread(self, role: Literal["writer", "reader"]) -> SqliteThread:
        # The stack closes in reverse order: the writer last, so that it does the last checkpoint.
        thread = SqliteThread(self._path, role, self._timeout)
        await thread.start()
        self._threads.push_async_callback(thread.close)
        return thread

    async def serve(self) -> None:
        """Run jobs until the queues are closed and empty, then disconnect."""
        async with self._threads, asyncio.TaskGroup() as workers:
            workers.create_task(self._work(self._writes, partial(self._run_write, self._writer)))
            for _ in range(READERS):
                workers.create_task(self._work(self._reads, self._new_reader()))

    def close(self) -> None:
        self._reads.close()
        self._writes.close()

    def abandon(self) -> None:
        self._reads.abandon()
        self._writes.abandon()

    def _new_reader(self) -> Callable[[Job], Awaitable[None]]:
        """Runs reads on a separate thread, which starts with the first read."""
        thread: SqliteThread | None = None

        async def run(job: Job) -> None:
            nonlocal thread
            try:
                thread = thread or await self._start_thread("reader")
            except StorageError as exc:
                job.fail(exc)
            else:
                await self._run_read(thread, job)

        return run

    async def _work(self, jobs: JobQueue, do: Callable[[Job], Awaitable[None]]) -> None:
        try:
            while (job := await jobs.take()) is not None:
                with job.failing_with_worker():
                    await do(job)
        except BaseException as exc:
            _log.error("a database worker failed: %s", type(exc).__name__)
            self.abandon()
            raise

    async def _run_write(self, writer: SqliteThread, job: Job) -> None:
        transaction = SqliteTransaction(writer, "BEGIN IMMEDIATE", self.chain_key)
        try:
            result = await job.run(transaction)
            await transaction.commit()
        except Exception as exc:
            await transaction.roll_back()
            job.fail(exc)
        else:
            job.succeed(result)
            if transaction.has_events:
                self.on_events()

    async def _run_read(self, reader: SqliteThread, job: Job) -> None:
        transaction = SqliteTransaction(reader, "BEGIN", self.chain_key)
        try:
            result = await job.run(transaction)
            transaction.raise_failure()
        except Exception as exc:
            job.fail(exc)
        else:
            job.succeed(result)
        await transaction.roll_back()


class SqliteTransaction:
    """The Connection of a unit. Begins with the first statement."""

    def __init__(
        self, thread: SqliteThread, begin: Literal["BEGIN", "BEGIN IMMEDIATE"], chain_key: bytes
    ) -> None:
        self.chain_key = chain_key
        self.has_events = False
        self._thread = thread
        self._begin = begin
        self._started = False
        self._finished = False
        self._error: StorageError | None = None

    @property
    def engine(self) -> Engine:
        return "sqlite"

    async def execute(self, sql: LiteralString, *, final: bool = False, **params: object) -> int:
        statement = translate(sql, "?")
        return await self._step(execute, statement.sql, statement.bind(params), final=final)

    async def many(
        self,
        sql: LiteralString,
        rows: Sequence[object],
        *,
        also: Repeated | None = None,
        final: bool = False,
    ) -> None:
        statement = translate(sql, "?")
        bound = statement.bind_rows(rows)
        if also is None or not also[1]:
            await self._step(execute_many, statement.sql, bound, final=final)
            return
        first = translate(also[0], "?")
        both = ((first.sql, first.bind_rows(also[1])), (statement.sql, bound))
        await self._step(execute_all, "", both, final=final)

    async def one(self, sql: LiteralString, **params: object) -> Row | None:
        statement = translate(sql, "?")
        return await self._step(fetch_one, statement.sql, statement.bind(params))

    async def all(self, sql: LiteralString, **params: object) -> Sequence[Row]:
        statement = translate(sql, "?")
        return await self._step(fetch_all, statement.sql, statement.bind(params))

    async def value(self, sql: LiteralString, **params: object) -> object:
        row = await self.one(sql, **params)
        return None if row is None else row[0]

    def raise_failure(self) -> None:
        """Raise the error of the first statement that failed, even if the unit caught it."""
        if self._error is not None:
            raise self._error

    async def commit(self) -> None:
        """End the unit. Raises what `raise_failure` raises."""
        self.raise_failure()
        if self._started and not self._finished:
            await self._step(do_nothing, "", (), final=True)

    async def roll_back(self) -> None:
        """Roll back unless committed. A failed rollback is repeated before the next unit."""
        if self._started and not self._finished:
            try:
                await self._thread.run(roll_back)
            except StorageError as exc:
                _log.warning("a rollback failed and will be repeated: %s", exc)

    async def _step(
        self,
        do: Callable[[sqlite3.Connection, str, Any], T],
        sql: str,
        values: object,
        *,
        final: bool = False,
    ) -> T:
        if self._finished:
            raise RuntimeError("the unit of work has already committed")
        self.raise_failure()
        begin = None if self._started else self._begin
        self._started = True
        try:
            result = await self._thread.step(begin, do, sql, values, final=final)
        except (sqlite3.Error, OverflowError, UnicodeError) as exc:
            self._error = to_storage_error(exc)
            raise self._error from exc
        self._finished = final
        return result


def _create_private(path: Path) -> int:
    """Create the file and its lock file with mode 0600. Returns the open lock file."""
    try:
        # An existing file is not opened, because closing it would drop all locks that this process has on it.
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageUnavailable(f"cannot open the database file {path}: {exc.strerror}") from exc


async def roll_back_sqlite(path: Path, *, discard: bool) -> RolledBack:
    """`roll_back_file` under the lock of the file. Raises StorageError."""
    lock = _create_private(path)
    try:
        _lock(lock, path)
        return await trio.to_thread.run_sync(partial(roll_back_file, path, discard=discard))
    except sqlite3.Error as exc:
        raise to_storage_error(exc) from exc
    except OSError as exc:
        raise StorageUnavailable(f"the database cannot be rolled back: {exc.strerror}") from exc
    finally:
        os.close(lock)


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DatabaseInUse(
            f"the database file {path} is in use: a SQLite file serves one process at a time; stop the other"
            " process, or use another file"
        ) from None
    except OSError as exc:
        raise StorageUnavailable(f"cannot lock {path}.lock: {exc.strerror}") from exc
