"""SQLite: one connection that writes and a few that read. Each runs one unit of work at a time in a thread.

A file is locked by one store. Only the writer checkpoints: before SQLite 3.51.3, two connections that
checkpoint at the same time can corrupt the WAL. Each commit is synced to disk before the unit returns. If a
unit fails in a way that no unit should, the store closes.
"""

import fcntl
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
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
from storage.migrate import Migration, load
from storage.placeholders import translate
from storage.sqlite_connection import (
    SqliteConnection,
    do_nothing,
    execute,
    execute_all,
    execute_many,
    fetch_all,
    fetch_one,
    to_storage_error,
)
from storage.sqlite_schema import RolledBack, migrate, roll_back_file, upgrade_file
from storage.work import Job, JobQueue

T = TypeVar("T")

_log = logging.getLogger("bluesminds.storage")

READERS = 3


@asynccontextmanager
async def open_sqlite(
    path: Path, *, statement_timeout: float, close_timeout: float, schema: Traversable
) -> AsyncIterator["SqliteStore"]:
    """Create the file if it does not exist (mode 0600), upgrade or migrate it, connect.

    Raises StorageError.
    """
    lock = _create_private(path)
    try:
        _lock(lock, path)
        store = SqliteStore(path, statement_timeout)
        try:
            await _run_in_thread(store.open, load(schema, "sqlite"))
            try:
                yield store
            finally:
                await store.finish(close_timeout)
        finally:
            await _run_in_thread(store.disconnect)
    finally:
        os.close(lock)


async def _run_in_thread(fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:
    """Not cancelled, because each step has its own limit and a migration is one transaction."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(fn, *args)


class SqliteStore:
    def __init__(self, path: Path, statement_timeout: float) -> None:
        self._path = path
        self._writer = SqliteConnection(path, "writer", statement_timeout)
        self._readers = [SqliteConnection(path, "reader", statement_timeout) for _ in range(READERS)]
        self._writes = _Workers(self, [self._writer], "BEGIN IMMEDIATE", statement_timeout)
        self._reads = _Workers(self, self._readers, "BEGIN", statement_timeout)
        self.chain_key = b""
        self.on_events: Callable[[], None] = lambda: None

    @property
    def engine(self) -> Engine:
        return "sqlite"

    async def read(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._reads.jobs.submit(fn, args, write=False))

    async def write(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._writes.jobs.submit(fn, args, write=True))

    def open(self, migrations: Sequence[Migration]) -> None:
        """Called in a thread. Raises StorageError."""
        try:
            upgrade_file(self._path, migrations)
        except sqlite3.Error as exc:
            raise to_storage_error(exc) from exc
        except OSError as exc:
            raise StorageUnavailable(f"the database cannot be upgraded: {exc.strerror}") from exc
        self._writer.run(partial(migrate, migrations=migrations))

    def disconnect(self) -> None:
        """Called in a thread. The writer is closed last, so that it does the last checkpoint."""
        for connection in (*self._readers, self._writer):
            connection.close()

    async def finish(self, close_timeout: float) -> None:
        """Finish the waiting units; after the limit only those that have started (they have their own
        limits).
        """
        self._reads.jobs.close()
        self._writes.jobs.close()
        with trio.move_on_after(close_timeout, shield=True):
            await self._wait_ended()
        self.abandon()
        with trio.CancelScope(shield=True):
            await self._wait_ended()
        failure = self._reads.failure or self._writes.failure
        if failure is not None:
            raise StorageError("a database worker failed") from failure

    async def _wait_ended(self) -> None:
        await self._reads.ended.wait()
        await self._writes.ended.wait()

    def abandon(self) -> None:
        self._reads.jobs.abandon()
        self._writes.jobs.abandon()


class _Workers:
    """Runs the jobs of a queue in threads, one at a time on each connection. `ended` is set when the queue is
    closed and all jobs are done. `failure` is an exception that no unit should raise.
    """

    def __init__(
        self,
        store: SqliteStore,
        connections: Sequence[SqliteConnection],
        begin: Literal["BEGIN", "BEGIN IMMEDIATE"],
        start_timeout: float,
    ) -> None:
        self.jobs = JobQueue(start_timeout, self._start_jobs)
        self.ended = trio.Event()
        self.failure: BaseException | None = None
        self._store = store
        self._begin = begin
        self._connections = len(connections)
        self._idle = list(connections)
        self._token = trio.lowlevel.current_trio_token()

    @trio.lowlevel.enable_ki_protection  # an interrupt must not lose a connection
    def _start_jobs(self) -> None:
        while self._idle and (job := self.jobs.next_job()) is not None:
            self._start(self._idle.pop(), job)  # the one that worked last: it has what it needs in its cache
        if self.jobs.closed and len(self._idle) == self._connections:
            self.ended.set()

    def _start(self, connection: SqliteConnection, job: Job) -> None:
        transaction = SqliteTransaction(connection, self._begin, self._store.chain_key)

        def deliver(outcome: Any) -> None:  # noqa: ANN401 - the result of `_run`
            self._token.run_sync_soon(self._end, connection, transaction, job, outcome)

        try:
            trio.lowlevel.start_thread_soon(partial(_run, transaction, job), deliver)
        except RuntimeError as exc:
            self._idle.append(connection)
            job.fail(StorageUnavailable(f"the database has no thread: {exc}"))

    def _end(
        self,
        connection: SqliteConnection,
        transaction: "SqliteTransaction",
        job: Job,
        outcome: Any,  # noqa: ANN401
    ) -> None:
        self._idle.append(connection)
        try:
            result = outcome.unwrap()
        except Exception as exc:
            job.fail(exc)
        except BaseException as exc:
            _log.error("a database worker failed: %s", type(exc).__name__)
            self.failure = exc
            job.fail_with_worker()
            self._store.abandon()
        else:
            job.succeed(result)
            if transaction.has_events:
                self._store.on_events()
        self._start_jobs()


def _run(transaction: "SqliteTransaction", job: Job) -> object:
    """Called in a thread."""
    try:
        result = _complete(job.run(transaction))
        transaction.commit()
    finally:
        transaction.roll_back()
    return result


def _complete(unit: Coroutine[Any, Any, T]) -> T:
    """The result of a unit. It never waits, because it awaits only its connection."""
    try:
        unit.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    unit.close()
    raise RuntimeError("a unit of work must await only its connection")


class SqliteTransaction:
    """The Connection of a unit. Begins with the first statement."""

    def __init__(
        self, connection: SqliteConnection, begin: Literal["BEGIN", "BEGIN IMMEDIATE"], chain_key: bytes
    ) -> None:
        self.chain_key = chain_key
        self.has_events = False
        self._connection = connection
        self._begin = begin
        self._started = False
        self._finished = False
        self._error: StorageError | None = None

    @property
    def engine(self) -> Engine:
        return "sqlite"

    async def execute(self, sql: LiteralString, *, final: bool = False, **params: object) -> int:
        statement = translate(sql, "?")
        return self._step(execute, statement.sql, statement.bind(params), final=final)

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
            self._step(execute_many, statement.sql, bound, final=final)
            return
        first = translate(also[0], "?")
        both = ((first.sql, first.bind_rows(also[1])), (statement.sql, bound))
        self._step(execute_all, "", both, final=final)

    async def one(self, sql: LiteralString, **params: object) -> Row | None:
        statement = translate(sql, "?")
        return self._step(fetch_one, statement.sql, statement.bind(params))

    async def all(self, sql: LiteralString, **params: object) -> Sequence[Row]:
        statement = translate(sql, "?")
        return self._step(fetch_all, statement.sql, statement.bind(params))

    async def value(self, sql: LiteralString, **params: object) -> object:
        row = await self.one(sql, **params)
        return None if row is None else row[0]

    def commit(self) -> None:
        """End the unit. Raises the error of the first statement that failed, even if the unit caught it."""
        if self._error is not None:
            raise self._error
        if self._started and not self._finished:
            self._step(do_nothing, "", (), final=True)

    def roll_back(self) -> None:
        """Roll back unless committed. A failed rollback is repeated before the next unit."""
        if self._started and not self._finished:
            try:
                self._connection.roll_back()
            except StorageError as exc:
                _log.warning("a rollback failed and will be repeated: %s", exc)

    def _step(
        self,
        do: Callable[[sqlite3.Connection, str, Any], T],
        sql: str,
        values: object,
        *,
        final: bool = False,
    ) -> T:
        if self._finished:
            raise RuntimeError("the unit of work has already committed")
        if self._error is not None:
            raise self._error
        begin = None if self._started else self._begin
        self._started = True
        try:
            result = self._connection.step(begin, do, sql, values, final=final)
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
