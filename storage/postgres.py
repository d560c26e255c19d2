"""PostgreSQL: a fixed number of workers, each owning one asyncpg connection.

A connection is never shared, so there is no pool to leak from: a worker that finds its connection broken
drops it and connects again, for as long as the unit at hand may wait. Statements, idle transactions and
connecting are limited by the server's clock and by ours. A worker that ends before the queue is closed ends
the store.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources.abc import Traversable
from typing import Any, LiteralString, TypeVar, Unpack, cast

import asyncpg

from storage.base import (
    BadValue,
    Connection,
    Engine,
    IntegrityError,
    Row,
    StorageBroken,
    StorageError,
    StorageUnavailable,
    Ts,
)
from storage.migrate import CREATE_TABLE, INSERT_APPLIED, SELECT_APPLIED, Migration, load, pending
from storage.placeholders import translate
from storage.work import Job, Queue

T = TypeVar("T")

CONNECT_TIMEOUT = 5.0  # seconds, for one attempt
MIGRATION_LOCK = 0x626D_6967  # any number that other users of the database are unlikely to lock
MIGRATION_LOCK_TIMEOUT = 60.0  # seconds, while another instance migrates
_LAST_NUMBER = re.compile(r"(\d+)$")
_log = logging.getLogger("bluesminds.storage")

# SQLSTATE classes that another attempt may cure: connection, rollback (serialization, deadlock),
# resources, operator intervention (cancel, shutdown, starting up), system error; then lock not available.
_RETRYABLE = ("08", "40", "53", "57", "58", "55P03")
_VIOLATIONS = ("23505", "23503")
_BROKEN = ("42501", "XX001", "XX002")  # permission taken away, damaged table, damaged index
# Messages of these classes quote the values that were refused.
_PRIVATE = ("22", "23")


class PostgresStore:
    """The queue and the workers behind it. `open` and `serve` run on the asyncio side."""

    def __init__(
        self,
        url: str,
        loop: asyncio.AbstractEventLoop,
        statement_timeout: float,
        connections: int,
        schema: Traversable,
    ) -> None:
        self._url = url
        self._timeout = statement_timeout
        self._workers = connections
        self._schema = schema
        self._queue = Queue(loop, statement_timeout)
        self.chain_key = b""

    @property
    def engine(self) -> Engine:
        return "postgres"

    async def read(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._queue.submit(fn, args, write=False))

    async def write(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._queue.submit(fn, args, write=True))

    async def open(self) -> None:
        """Migrate, under a lock that all instances of the product take."""
        try:
            connection = await self._connect(statement_timeout=0)
            try:
                await _migrate(connection, load(self._schema, "postgres"))
            finally:
                await _disconnect(connection)
        except DRIVER_ERRORS as exc:
            raise described(exc) from None

    async def ping(self) -> None:
        """Connect and disconnect."""
        try:
            await _disconnect(await self._connect(self._timeout))
        except DRIVER_ERRORS as exc:
            raise described(exc) from None

    async def serve(self) -> None:
        """Work until the queue is closed and empty, then disconnect."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(self._workers):
                workers.create_task(self._work())

    def close(self) -> None:
        self._queue.close()

    def abandon(self) -> None:
        self._queue.abandon()

    async def _work(self) -> None:
        raw: Any = None
        try:
            while (job := await self._queue.take()) is not None:
                with job.answered():
                    try:
                        raw = await self._connected(raw, job.deadline)
                    except StorageError as exc:
                        job.fail(exc)
                        continue
                    await self._run(raw, job)
        except BaseException as exc:
            _log.error("a database worker has ended: %s", type(exc).__name__)
            self.abandon()
            raise
        finally:
            if raw is not None:
                await _disconnect(raw)

    async def _run(self, raw: Any, job: Job) -> None:  # noqa: ANN401
        transaction = Transaction(raw, WRITE if job.write else READ, self.chain_key)
        try:
            result = await job.run(transaction)
            await transaction.commit()
        except Exception as exc:
            await transaction.undo()
            job.fail(exc)
        else:
            job.succeed(result)

    async def _connected(self, raw: Any, deadline: float) -> Any:  # noqa: ANN401
        """The connection at hand if it lives, else a new one. Raises StorageUnavailable at the deadline."""
        if raw is not None and not raw.is_closed():
            return raw
        pause = 0.05
        while True:
            try:
                return await self._connect(statement_timeout=self._timeout)
            except DRIVER_ERRORS as exc:
                error = described(exc)
                if not isinstance(error, StorageUnavailable) or time.monotonic() + pause > deadline:
                    raise error from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def _connect(self, statement_timeout: float) -> Any:  # noqa: ANN401
        milliseconds = str(round(statement_timeout * 1000))
        return await asyncpg.connect(
            self._url,
            timeout=min(CONNECT_TIMEOUT, statement_timeout or CONNECT_TIMEOUT),
            # The server ends a slow statement by itself; this is for a server that has gone silent.
            command_timeout=statement_timeout + 2 if statement_timeout else None,
            server_settings={
                "application_name": "bluesminds",
                "statement_timeout": milliseconds,
                "idle_in_transaction_session_timeout": milliseconds,
            },
        )


WRITE = "BEGIN"
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
    OverflowError,
    UnicodeError,
)


class Transaction:
    """The Connection that a unit sees. Begins with the first statement."""

    def __init__(self, raw: Any, begin: LiteralString, chain_key: bytes) -> None:  # noqa: ANN401
        self.chain_key = chain_key
        self._raw = raw
        self._begin = begin
        self._begun = False
        self._finished = False
        self._error: StorageError | None = None

    @property
    def engine(self) -> Engine:
        return "postgres"

    async def execute(self, sql: LiteralString, *, final: bool = False, **params: object) -> int:
        statement = translate(sql, "$")
        # A statement that is the whole unit is a transaction by itself.
        alone = final and not self._begun
        status = await self._step(self._raw.execute, statement.sql, *statement.bind(params), begin=not alone)
        await self._end(final, alone)
        number = _LAST_NUMBER.search(status)
        return int(number[1]) if number else 0

    async def many(self, sql: LiteralString, rows: Sequence[object], *, final: bool = False) -> None:
        statement = translate(sql, "$")
        alone = final and not self._begun
        await self._step(self._raw.executemany, statement.sql, statement.bind_rows(rows), begin=not alone)
        await self._end(final, alone)

    async def one(self, sql: LiteralString, **params: object) -> Row | None:
        statement = translate(sql, "$")
        row: Row | None = await self._step(self._raw.fetchrow, statement.sql, *statement.bind(params))
        return row

    async def all(self, sql: LiteralString, **params: object) -> Sequence[Row]:
        statement = translate(sql, "$")
        rows: Sequence[Row] = await self._step(self._raw.fetch, statement.sql, *statement.bind(params))
        return rows

    async def value(self, sql: LiteralString, **params: object) -> object:
        row = await self.one(sql, **params)
        return None if row is None else row[0]

    async def commit(self) -> None:
        """End the unit. Raises the error that doomed it, if one did, even if the unit hid it."""
        if self._error is not None:
            raise self._error
        if self._begun and not self._finished:
            await self._step(self._raw.execute, "COMMIT")
            self._finished = True

    async def undo(self) -> None:
        """Roll back what has not been committed; give up a connection that cannot even do that."""
        if not self._begun or self._finished or self._raw.is_closed():
            return
        try:
            await self._raw.execute("ROLLBACK")
        except DRIVER_ERRORS as exc:
            _log.warning("rolling back failed: %s", type(exc).__name__)
            self._raw.terminate()

    async def _end(self, final: bool, alone: bool) -> None:
        if final and not alone:
            await self.commit()
        self._finished = final

    async def _step(self, do: Callable[..., Awaitable[Any]], *args: object, begin: bool = True) -> Any:  # noqa: ANN401
        if self._finished:
            raise RuntimeError("the unit of work has already committed")
        if self._error is not None:
            raise self._error
        try:
            if begin and not self._begun:
                self._begun = True
                await self._raw.execute(self._begin)
            return await do(*args)
        except DRIVER_ERRORS as exc:
            self._error = described(exc)
            if isinstance(self._error, StorageUnavailable) and not isinstance(exc, asyncpg.PostgresError):
                # Not the server's answer, so its state is unknown; a new connection's is known.
                self._raw.terminate()
        # Out here the error has no context: the driver's may quote the row.
        raise self._error


def described(exc: Exception) -> StorageError:
    """A driver's error as one of ours, without any text that may quote a stored value."""
    if isinstance(exc, asyncpg.exceptions.ClientConfigurationError):
        return StorageError("the database URL cannot be used")
    if isinstance(exc, (OverflowError, ValueError)):  # asyncpg's own refusals of a value are ValueErrors
        return BadValue(f"a value cannot be stored: {type(exc).__name__}")
    state = getattr(exc, "sqlstate", None)
    if not isinstance(exc, asyncpg.PostgresError) or state is None:
        return StorageUnavailable(f"the database cannot be reached now ({type(exc).__name__})")
    if state in _VIOLATIONS:
        return IntegrityError(f"violates {exc.constraint_name}")
    # A plan that another instance's migration made invalid: asyncpg has forgotten it by now.
    if state.startswith(_RETRYABLE) or isinstance(exc, asyncpg.InvalidCachedStatementError):
        return StorageUnavailable(f"the database cannot be used now ({type(exc).__name__})")
    if state in _BROKEN:
        return StorageBroken(f"the database must be looked at ({type(exc).__name__})")
    if state.startswith(_PRIVATE):
        return BadValue(
            f"a value cannot be stored: {type(exc).__name__} {exc.constraint_name or ''}".rstrip()
        )
    return StorageError(f"{type(exc).__name__}: {exc.message}")


async def _migrate(raw: Any, migrations: Sequence[Migration]) -> None:  # noqa: ANN401
    async with asyncio.timeout(MIGRATION_LOCK_TIMEOUT):
        await raw.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    await raw.execute(CREATE_TABLE)
    record = translate(INSERT_APPLIED, "$")
    for migration in pending(migrations, await raw.fetch(SELECT_APPLIED), "postgres"):
        async with raw.transaction():
            await raw.execute(migration.sql)
            await raw.execute(record.sql, migration.version, migration.name, migration.checksum)


async def _disconnect(raw: Any) -> None:  # noqa: ANN401
    with contextlib.suppress(*DRIVER_ERRORS):
        await raw.close(timeout=2)
