"""SQLite: one writer connection, a few readers, each aiosqlite's thread with one worker task.

The writer alone checkpoints: two connections doing so at once can corrupt the WAL before SQLite 3.51.3.
Every commit is synced to disk before the unit returns. A step (BEGIN and a statement, or a statement and
COMMIT) is one hop to the thread, because the hop costs more than most statements.

Once a sync has failed the kernel may have dropped the pages, so nothing is written after it until the
store is opened again.
"""

import asyncio
import logging
import math
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, LiteralString, TypeVar, Unpack, cast

import aiosqlite

from storage.base import Conflict, Connection, Engine, Row, StorageError, StorageUnavailable, Ts
from storage.migrate import load
from storage.placeholders import translate
from storage.sqlite_schema import migrate
from storage.work import Job, Queue

T = TypeVar("T")

_log = logging.getLogger("bluesminds.storage")

READERS = 3
PROGRESS_STEPS = 20_000  # virtual machine instructions between looks at the clock

_RETRYABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_CONFLICTS = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    }
)
_SYNC_FAILED = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})


class SqliteStore:
    """Both queues and the workers behind them. `open`, `serve` and `aclose` run on the asyncio side."""

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
        self._reads = Queue(loop, statement_timeout)
        self._writes = Queue(loop, statement_timeout)
        self._threads = AsyncExitStack()
        self._writer: Thread
        self._readers: list[Thread] = []

    @property
    def engine(self) -> Engine:
        return "sqlite"

    async def read(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._reads.submit(fn, args, write=False))

    async def write(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._writes.submit(fn, args, write=True))

    async def open(self) -> None:
        """Create the file (for its owner alone) if need be, migrate it, connect."""
        try:
            await self._connect()
        except BaseException:
            await self._threads.aclose()
            raise

    async def _connect(self) -> None:
        _create_private(self._path)
        self._writer = await self._thread("writer")
        await self._writer.run(partial(migrate, path=self._path, migrations=load(self._schema, "sqlite")))
        for _ in range(READERS):
            self._readers.append(await self._thread("reader"))

    async def _thread(self, role: Literal["writer", "reader"]) -> "Thread":
        # The stack closes in reverse: the writer last, so that it also does the last checkpoint.
        thread = Thread(self._path, role, self._timeout)
        try:
            await thread
        except sqlite3.Error as exc:
            raise described(exc) from exc
        self._threads.push_async_callback(thread.close)
        return thread

    async def serve(self) -> None:
        """Work until the queues are closed and empty, then disconnect."""
        async with self._threads, asyncio.TaskGroup() as workers:
            workers.create_task(self._write_all())
            for reader in self._readers:
                workers.create_task(self._read_all(reader))

    def close(self) -> None:
        self._reads.close()
        self._writes.close()

    def abandon(self) -> None:
        self._reads.abandon()
        self._writes.abandon()

    async def _write_all(self) -> None:
        while (job := await self._writes.take()) is not None:
            await self._write(job)

    async def _write(self, job: Job) -> None:
        transaction = Transaction(self._writer, "BEGIN IMMEDIATE")
        try:
            result = await job.run(transaction)
            await transaction.commit()
        except Exception as exc:
            await transaction.undo()
            job.fail(exc)
        else:
            job.succeed(result)

    async def _read_all(self, reader: "Thread") -> None:
        while (job := await self._reads.take()) is not None:
            transaction = Transaction(reader, "BEGIN")
            try:
                job.succeed(await job.run(transaction))
            except Exception as exc:
                job.fail(exc)
            await transaction.undo()


class Transaction:
    """The Connection that a unit sees. Begins with the first statement."""

    def __init__(self, thread: "Thread", begin: Literal["BEGIN", "BEGIN IMMEDIATE"]) -> None:
        self._thread = thread
        self._begin = begin
        self._begun = False
        self._finished = False
        self._error: StorageError | None = None

    @property
    def engine(self) -> Engine:
        return "sqlite"

    async def execute(self, sql: LiteralString, *, final: bool = False, **params: object) -> int:
        statement = translate(sql, "?")
        return await self._step(_execute, statement.sql, statement.bind(params), final=final)

    async def many(self, sql: LiteralString, rows: Sequence[object], *, final: bool = False) -> None:
        statement = translate(sql, "?")
        await self._step(_execute_many, statement.sql, statement.bind_rows(rows), final=final)

    async def one(self, sql: LiteralString, **params: object) -> Row | None:
        statement = translate(sql, "?")
        return await self._step(_fetch_one, statement.sql, statement.bind(params))

    async def all(self, sql: LiteralString, **params: object) -> Sequence[Row]:
        statement = translate(sql, "?")
        return await self._step(_fetch_all, statement.sql, statement.bind(params))

    async def value(self, sql: LiteralString, **params: object) -> object:
        row = await self.one(sql, **params)
        return None if row is None else row[0]

    async def commit(self) -> None:
        """End the unit. Raises the error that doomed it, if one did, even if the unit hid it."""
        if self._error is not None:
            raise self._error
        if self._begun and not self._finished:
            await self._step(_nothing, "", (), final=True)

    async def undo(self) -> None:
        """Roll back what has not been committed."""
        if self._begun and not self._finished:
            try:
                await self._thread.run(_roll_back)
            except StorageError as exc:
                _log.warning("rolling back failed, to be repeated: %s", exc)

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
        if self._error is not None:
            raise self._error
        begin = None if self._begun else self._begin
        self._begun = True
        try:
            result = await self._thread.step(begin, do, sql, values, final=final)
        except (sqlite3.Error, OverflowError, UnicodeError) as exc:
            self._error = described(exc)
            raise self._error from exc
        self._finished = final
        return result


class Thread(aiosqlite.Connection):
    """aiosqlite's connection and thread, able to run several calls in one hop."""

    def __init__(self, path: Path, role: Literal["writer", "reader"], timeout: float) -> None:
        super().__init__(self._open, iter_chunk_size=64)
        self._path = path
        self._role = role
        self._timeout = timeout
        self._deadline = math.inf
        self._damaged = False

    async def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return cast("T", await self._execute(fn, self._conn))  # type: ignore[no-untyped-call]
        except sqlite3.Error as exc:
            raise described(exc) from exc

    async def step(
        self,
        begin: LiteralString | None,
        do: Callable[[sqlite3.Connection, str, Any], T],
        sql: str,
        values: object,
        *,
        final: bool,
    ) -> T:
        return cast(
            "T",
            await self._execute(self._step, self._conn, begin, do, sql, values, final),  # type: ignore[no-untyped-call]
        )

    def _step(
        self,
        raw: sqlite3.Connection,
        begin: LiteralString | None,
        do: Callable[[sqlite3.Connection, str, Any], T],
        sql: str,
        values: object,
        final: bool,
    ) -> T:
        if self._damaged:
            raise sqlite3.OperationalError("an earlier write could not be synced to disk")
        if begin is not None:
            self._deadline = math.inf
            _roll_back(raw)  # nothing to do unless the unit before could not
            raw.execute(begin)
            self._deadline = time.monotonic() + self._timeout
        try:
            result = do(raw, sql, values)
            if final:
                raw.execute("COMMIT")
        except sqlite3.Error as exc:
            self._damaged = getattr(exc, "sqlite_errorcode", 0) in _SYNC_FAILED
            raise
        return result

    def _late(self) -> bool:
        return time.monotonic() > self._deadline

    def _open(self) -> sqlite3.Connection:
        raw = sqlite3.connect(self._path, isolation_level=None, timeout=self._timeout)
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.execute("PRAGMA mmap_size = 0")
        if self._role == "writer":
            raw.execute("PRAGMA journal_size_limit = 67108864")
        else:
            raw.execute("PRAGMA wal_autocheckpoint = 0")
            raw.execute("PRAGMA query_only = ON")
        raw.set_progress_handler(self._late, PROGRESS_STEPS)
        return raw


def _execute(raw: sqlite3.Connection, sql: str, values: Sequence[Any]) -> int:
    return max(raw.execute(sql, values).rowcount, 0)


def _execute_many(raw: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    raw.executemany(sql, rows)


def _fetch_one(raw: sqlite3.Connection, sql: str, values: Sequence[Any]) -> Row | None:
    cursor = raw.execute(sql, values)
    row: Row | None = cursor.fetchone()
    cursor.close()
    return row


def _fetch_all(raw: sqlite3.Connection, sql: str, values: Sequence[Any]) -> Sequence[Row]:
    return raw.execute(sql, values).fetchall()


def _nothing(raw: sqlite3.Connection, sql: str, values: object) -> None:
    pass


def _roll_back(raw: sqlite3.Connection) -> None:
    if raw.in_transaction:
        raw.execute("ROLLBACK")


def _create_private(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise StorageUnavailable(f"cannot open the database file {path}: {exc.strerror}") from exc


def described(exc: Exception) -> StorageError:
    """A driver's error as one of ours. SQLite's texts name tables and columns, never values."""
    code = getattr(exc, "sqlite_errorcode", None)
    if code is None:
        kind = StorageUnavailable if isinstance(exc, sqlite3.OperationalError) else StorageError
        return kind(
            str(exc) if isinstance(exc, sqlite3.Error) else f"a value cannot be stored: {type(exc).__name__}"
        )
    if code in _CONFLICTS:
        return Conflict(str(exc))
    if code & 0xFF in _RETRYABLE:
        return StorageUnavailable(f"the database cannot be used now: {exc}")
    return StorageError(str(exc))
