"""PostgreSQL: a fixed number of workers, each with its own asyncpg connection.

A worker whose connection is broken connects again, for as long as the unit may wait. Server and client both
limit the time of statements, idle transactions and connecting. If a worker fails, the store closes.
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
    Repeated,
    Row,
    StorageBroken,
    StorageError,
    StorageUnavailable,
    Ts,
)
from storage.migrate import (
    CREATE_TABLE,
    INSERT_APPLIED,
    SELECT_APPLIED,
    Migration,
    SchemaPlan,
    load,
    pending,
)
from storage.placeholders import translate
from storage.work import Job, JobQueue

T = TypeVar("T")

CONNECT_TIMEOUT = 5.0  # seconds, for one attempt
MIGRATION_LOCK = 0x626D_6967  # advisory lock; a number that other applications are unlikely to use
MIGRATION_LOCK_TIMEOUT = 60.0  # seconds to wait for another instance that migrates
_LAST_NUMBER = re.compile(r"(\d+)$")
_log = logging.getLogger("bluesminds.storage")

# SQLSTATE classes for which a repetition may help: connection, rollback (serialization, deadlock), resources,
# operator intervention (cancel, shutdown, starting up), system error; and lock not available.
_RETRYABLE = ("08", "40", "53", "57", "58", "55P03")
_VIOLATIONS = ("23505", "23503")
_BROKEN = ("42501", "XX001", "XX002")  # insufficient privilege, damaged table, damaged index
# Messages of these classes quote values.
_BAD_VALUES = ("22", "23")


class PostgresStore:
    """A queue and its workers. `open` and `serve` run in the asyncio event loop."""

    def __init__(
        self,
        url: str,
        loop: asyncio.AbstractEventLoop,
        statement_timeout: float,
        connections: int,
        schema: Traversable,
    ) -> None:
        self._url = url
        self._loop = loop
        self._timeout = statement_timeout
        self._workers = connections
        self._schema = schema
        self._queue = JobQueue(statement_timeout, self._wake_worker)
        self._idle: list[asyncio.Future[None]] = []
        self.chain_key = b""
        self.on_events: Callable[[], None] = lambda: None

    @property
    def engine(self) -> Engine:
        return "postgres"

    async def read(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._queue.submit(fn, args, write=False))

    async def write(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return cast("T", await self._queue.submit(fn, args, write=True))

    async def open(self) -> None:
        """Migrate, under a lock that all instances use."""
        try:
            connection = await self._connect(statement_timeout=0)
            try:
                await _migrate(connection, load(self._schema, "postgres"))
            finally:
                await _disconnect(connection)
        except DRIVER_ERRORS as exc:
            raise to_storage_error(exc) from None

    async def plan(self) -> SchemaPlan:
        """What `open` would do. Changes nothing."""
        try:
            connection = await self._connect(self._timeout)
            try:
                known = await connection.fetchval("SELECT to_regclass('schema_migrations')")
                applied = await connection.fetch(SELECT_APPLIED) if known else []
            finally:
                await _disconnect(connection)
        except DRIVER_ERRORS as exc:
            raise to_storage_error(exc) from None
        waiting = pending(load(self._schema, "postgres"), applied, "postgres")
        return SchemaPlan("postgres", len(applied), tuple(waiting))

    async def ping(self) -> None:
        """Connect and disconnect."""
        try:
            await _disconnect(await self._connect(self._timeout))
        except DRIVER_ERRORS as exc:
            raise to_storage_error(exc) from None

    async def serve(self) -> None:
        """Run jobs until the queue is closed and empty, then disconnect."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(self._workers):
                workers.create_task(self._work())

    def close(self) -> None:
        self._queue.close()

    def abandon(self) -> None:
        self._queue.abandon()

    def _wake_worker(self) -> None:
        """The one that worked last: its connection has what it needs in its cache. All of them at the end."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                if not self._queue.closed:
                    return

    async def _take(self) -> Job | None:
        """The next job, or None if the queue is closed and empty."""
        while (job := self._queue.next_job()) is None and not self._queue.closed:
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle
        return job

    async def _work(self) -> None:
        raw: Any = None
        job: Job | None = None
        try:
            while (job := await self._take()) is not None:
                try:
                    raw = await self._connected(raw, job.deadline)
                except StorageError as exc:
                    job.fail(exc)
                    continue
                await self._run(raw, job)
        except BaseException as exc:
            if job is not None:
                job.fail_with_worker()
            _log.error("a database worker failed: %s", type(exc).__name__)
            self.abandon()
            raise
        finally:
            if raw is not None:
                await _disconnect(raw)

    async def _run(self, raw: Any, job: Job) -> None:  # noqa: ANN401
        transaction = PostgresTransaction(raw, WRITE if job.write else READ, self.chain_key)
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

    async def _connected(self, raw: Any, deadline: float) -> Any:  # noqa: ANN401
        """The connection if it is open, otherwise a new one. Raises StorageUnavailable at the deadline."""
        if raw is not None and not raw.is_closed():
            return raw
        pause = 0.05
        while True:
            try:
                return await self._connect(statement_timeout=self._timeout)
            except DRIVER_ERRORS as exc:
                error = to_storage_error(exc)
                if not isinstance(error, StorageUnavailable) or time.monotonic() + pause > deadline:
                    raise error from None
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def _connect(self, statement_timeout: float) -> Any:  # noqa: ANN401
        milliseconds = str(round(statement_timeout * 1000))
        return await asyncpg.connect(
            self._url,
            timeout=min(CONNECT_TIMEOUT, statement_timeout or CONNECT_TIMEOUT),
            # The server ends slow statements; this limit is for a server that does not respond.
            command_timeout=statement_timeout + 2 if statement_timeout else None,
            server_settings={
                "application_name": "bluesminds",
                # Reads take milliseconds with an index. For large tables, the planner would choose parallel
                # scans of the whole table, and compile queries for longer than they run.
                "jit": "off",
                "max_parallel_workers_per_gather": "0",
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


class PostgresTransaction:
    """The Connection of a unit. Begins with the first statement."""

    def __init__(self, raw: Any, begin: LiteralString, chain_key: bytes) -> None:  # noqa: ANN401
        self.chain_key = chain_key
        self.has_events = False
        self._raw = raw
        self._begin = begin
        self._started = False
        self._finished = False
        self._error: StorageError | None = None

    @property
    def engine(self) -> Engine:
        return "postgres"

    async def execute(self, sql: LiteralString, *, final: bool = False, **params: object) -> int:
        statement = translate(sql, "$")
        # If a unit is one statement, that is a transaction without BEGIN and COMMIT.
        alone = final and not self._started
        status = await self._step(self._raw.execute, statement.sql, *statement.bind(params), begin=not alone)
        await self._end(final, alone)
        number = _LAST_NUMBER.search(status)
        return int(number[1]) if number else 0

    async def many(
        self,
        sql: LiteralString,
        rows: Sequence[object],
        *,
        also: Repeated | None = None,
        final: bool = False,
    ) -> None:
        if also is not None:
            await self.many(*also)
        statement = translate(sql, "$")
        alone = final and not self._started
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
        """End the unit. Raises the error of the first statement that failed, even if the unit caught it."""
        if self._error is not None:
            raise self._error
        if self._started and not self._finished:
            await self._step(self._raw.execute, "COMMIT")
            self._finished = True

    async def roll_back(self) -> None:
        """Roll back unless committed. Closes the connection if that fails."""
        if not self._started or self._finished or self._raw.is_closed():
            return
        try:
            await self._raw.execute("ROLLBACK")
        except DRIVER_ERRORS as exc:
            _log.warning("a rollback failed: %s", type(exc).__name__)
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
            if begin and not self._started:
                self._started = True
                await self._raw.execute(self._begin)
            return await do(*args)
        except DRIVER_ERRORS as exc:
            self._error = to_storage_error(exc)
            if isinstance(self._error, StorageUnavailable) and not isinstance(exc, asyncpg.PostgresError):
                # Not a response of the server, so the state of the connection is unknown.
                self._raw.terminate()
        # Raised outside of `except`, so that the error has no context: the driver's error may quote the row.
        raise self._error


def to_storage_error(exc: Exception) -> StorageError:
    """Convert an error of the driver, without any text that may quote a stored value."""
    if isinstance(exc, asyncpg.exceptions.ClientConfigurationError):
        return StorageError("the database URL is invalid")
    if isinstance(exc, (OverflowError, ValueError)):  # asyncpg raises ValueError for a bad value
        return BadValue(f"a value cannot be stored: {type(exc).__name__}")
    state = getattr(exc, "sqlstate", None)
    if not isinstance(exc, asyncpg.PostgresError) or state is None:
        return StorageUnavailable(f"the database is not reachable ({type(exc).__name__})")
    if state in _VIOLATIONS:
        return IntegrityError(f"violates {exc.constraint_name}")
    # A migration of another instance made a cached plan invalid; asyncpg has dropped the plan.
    if state.startswith(_RETRYABLE) or isinstance(exc, asyncpg.InvalidCachedStatementError):
        return StorageUnavailable(f"the database is not available ({type(exc).__name__})")
    if state in _BROKEN:
        return StorageBroken(f"the database is damaged or denies access ({type(exc).__name__})")
    if state.startswith(_BAD_VALUES):
        return BadValue(
            f"a value cannot be stored: {type(exc).__name__} {exc.constraint_name or ''}".rstrip()
        )
    return StorageError(f"{type(exc).__name__}: {exc.message}")


async def _migrate(raw: Any, migrations: Sequence[Migration]) -> None:  # noqa: ANN401
    async with asyncio.timeout(MIGRATION_LOCK_TIMEOUT):
        await raw.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    await raw.execute(CREATE_TABLE)
    record = translate(INSERT_APPLIED, "$")
    # All of them or none: a process that is killed leaves the earlier schema.
    async with raw.transaction():
        for migration in pending(migrations, await raw.fetch(SELECT_APPLIED), "postgres"):
            await raw.execute(migration.sql)
            await raw.execute(record.sql, migration.version, migration.name, migration.checksum)


async def _disconnect(raw: Any) -> None:  # noqa: ANN401
    with contextlib.suppress(*DRIVER_ERRORS):
        await raw.close(timeout=2)
