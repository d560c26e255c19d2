"""SQLite: one writer connection, a few readers, each aiosqlite's thread with one worker task.

A file belongs to one store at a time, and the writer alone checkpoints: two connections doing so at once
can corrupt the WAL before SQLite 3.51.3. Every commit is synced to disk before the unit returns. A worker
that ends before its queue is closed ends the store.
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

from storage.base import Connection, Engine, Row, StorageError, StorageUnavailable, Ts
from storage.migrate import load
from storage.placeholders import translate
from storage.sqlite_schema import migrate
from storage.sqlite_thread import (
    Thread,
    described,
    execute,
    execute_many,
    fetch_all,
    fetch_one,
    nothing,
    roll_back,
)
from storage.work import Job, Queue

T = TypeVar("T")

_log = logging.getLogger("bluesminds.storage")

READERS = 3


class SqliteStore:
    """Both queues and the workers behind them. `open` and `serve` run on the asyncio side."""

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
        self.chain_key = b""

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
        lock = _create_private(self._path)
        self._threads.callback(os.close, lock)
        _take(lock, self._path)
        self._writer = await self._thread("writer")
        await self._writer.run(partial(migrate, path=self._path, migrations=load(self._schema, "sqlite")))
        for _ in range(READERS):
            self._readers.append(await self._thread("reader"))

    async def _thread(self, role: Literal["writer", "reader"]) -> Thread:
        # The stack closes in reverse: the writer last, so that it also does the last checkpoint.
        thread = Thread(self._path, role, self._timeout)
        await thread.start()
        self._threads.push_async_callback(thread.close)
        return thread

    async def serve(self) -> None:
        """Work until the queues are closed and empty, then disconnect."""
        async with self._threads, asyncio.TaskGroup() as workers:
            workers.create_task(self._work(self._writes, self._write, self._writer))
            for reader in self._readers:
                workers.create_task(self._work(self._reads, self._read, reader))

    def close(self) -> None:
        self._reads.close()
        self._writes.close()

    def abandon(self) -> None:
        self._reads.abandon()
        self._writes.abandon()

    async def _work(self, jobs: Queue, do: Callable[[Thread, Job], Awaitable[None]], thread: Thread) -> None:
        try:
            while (job := await jobs.take()) is not None:
                with job.answered():
                    await do(thread, job)
        except BaseException as exc:
            _log.error("a database worker has ended: %s", type(exc).__name__)
            self.abandon()
            raise

    async def _write(self, writer: Thread, job: Job) -> None:
        transaction = Transaction(writer, "BEGIN IMMEDIATE", self.chain_key)
        try:
            result = await job.run(transaction)
            await transaction.commit()
        except Exception as exc:
            await transaction.undo()
            job.fail(exc)
        else:
            job.succeed(result)

    async def _read(self, reader: Thread, job: Job) -> None:
        transaction = Transaction(reader, "BEGIN", self.chain_key)
        try:
            result = await job.run(transaction)
            transaction.judge()
        except Exception as exc:
            job.fail(exc)
        else:
            job.succeed(result)
        await transaction.undo()


class Transaction:
    """The Connection that a unit sees. Begins with the first statement."""

    def __init__(self, thread: Thread, begin: Literal["BEGIN", "BEGIN IMMEDIATE"], chain_key: bytes) -> None:
        self.chain_key = chain_key
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
        return await self._step(execute, statement.sql, statement.bind(params), final=final)

    async def many(self, sql: LiteralString, rows: Sequence[object], *, final: bool = False) -> None:
        statement = translate(sql, "?")
        await self._step(execute_many, statement.sql, statement.bind_rows(rows), final=final)

    async def one(self, sql: LiteralString, **params: object) -> Row | None:
        statement = translate(sql, "?")
        return await self._step(fetch_one, statement.sql, statement.bind(params))

    async def all(self, sql: LiteralString, **params: object) -> Sequence[Row]:
        statement = translate(sql, "?")
        return await self._step(fetch_all, statement.sql, statement.bind(params))

    async def value(self, sql: LiteralString, **params: object) -> object:
        row = await self.one(sql, **params)
        return None if row is None else row[0]

    def judge(self) -> None:
        """Raise the error that doomed the unit, if one did, even if the unit hid it."""
        if self._error is not None:
            raise self._error

    async def commit(self) -> None:
        """End the unit. Raises what `judge` raises."""
        self.judge()
        if self._begun and not self._finished:
            await self._step(nothing, "", (), final=True)

    async def undo(self) -> None:
        """Roll back what has not been committed."""
        if self._begun and not self._finished:
            try:
                await self._thread.run(roll_back)
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
        self.judge()
        begin = None if self._begun else self._begin
        self._begun = True
        try:
            result = await self._thread.step(begin, do, sql, values, final=final)
        except (sqlite3.Error, OverflowError, UnicodeError) as exc:
            self._error = described(exc)
            raise self._error from exc
        self._finished = final
        return result


def _create_private(path: Path) -> int:
    """Make the file and the lock file beside it, for their owner alone; the lock file, open."""
    try:
        # A file that exists is not opened: closing it would drop the locks of any connection that this
        # process has to it.
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        return os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StorageUnavailable(f"cannot open the database file {path}: {exc.strerror}") from exc


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageError(
            f"the database file {path} is in use: SQLite serves one process at a time; stop the other one,"
            " or give each a file of its own"
        ) from None
    except OSError as exc:
        raise StorageUnavailable(f"cannot lock {path}.lock: {exc.strerror}") from exc
