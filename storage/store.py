"""Opens a database by its URL.

Runs the asyncio event loop that the drivers need; callers use Trio only. Closing a store first finishes the
units in its queue, within a time limit.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any, TypeVar

import trio
import trio_asyncio

from storage.base import StorageError, Store
from storage.migrate import SchemaPlan, load, shipped
from storage.sqlite import SqliteStore
from storage.sqlite_schema import plan_file
from storage.sqlite_thread import to_storage_error
from storage.url import sqlite_path

if TYPE_CHECKING:  # loaded when it is used: most gateways have SQLite
    from storage.postgres import PostgresStore

T = TypeVar("T")

_log = logging.getLogger("bluesminds.storage")


@asynccontextmanager
async def open_store(
    url: str,
    *,
    statement_timeout: float = 10.0,
    close_timeout: float = 10.0,
    connections: int = 4,
    schema: Traversable | None = None,
) -> AsyncIterator[Store]:
    """The database at `sqlite:///absolute/path` or `postgres[ql]://...`, migrated and ready.

    Times are in seconds: `statement_timeout` limits each statement and each wait for a lock, `close_timeout`
    the units that still wait when the store is closed. `connections` is for PostgreSQL. `schema` is a
    directory of migrations, by default that of this package.

    Raises StorageUnavailable, SchemaTooNew, MigrationChanged, StorageError, and ValueError for an invalid
    URL.
    """
    failure: Exception | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_callback_error)
        # at DEBUG aiosqlite logs the parameters of statements
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)
        try:
            store = _new_store(url, loop, statement_timeout, connections, schema or shipped())
            await _open(loop, store)
            serving = loop.create_task(store.serve())
            serving.add_done_callback(lambda _: store.abandon())
            try:
                yield store
            finally:
                await _close(store, serving, close_timeout)
        except Exception as exc:
            failure = exc
    # raised here, because open_loop would wrap it in an exception group
    if failure is not None:
        raise failure


async def ping(url: str, *, seconds: float) -> None:
    """Connect to a PostgreSQL database and disconnect. Does nothing for SQLite.

    Raises StorageError, and ValueError for an invalid URL.
    """
    if sqlite_path(url) is None:
        await _with_postgres(url, seconds, shipped(), lambda store: store.ping())


async def plan_schema(url: str, *, seconds: float, schema: Traversable | None = None) -> SchemaPlan:
    """What `open_store` would do to the schema. Changes nothing.

    Raises SchemaTooNew, MigrationChanged, StorageError, and ValueError for an invalid URL.
    """
    directory, path = schema or shipped(), sqlite_path(url)
    if path is None:
        return await _with_postgres(url, seconds, directory, lambda store: store.plan())
    try:
        return await trio.to_thread.run_sync(plan_file, path, load(directory, "sqlite"))
    except sqlite3.Error as exc:
        raise to_storage_error(exc) from exc


async def _with_postgres(
    url: str, seconds: float, schema: Traversable, work: "Callable[[PostgresStore], Awaitable[T]]"
) -> T:
    outcome: T | StorageError
    async with trio_asyncio.open_loop() as loop:
        try:
            outcome = await loop.run_aio_coroutine(work(_new_postgres(url, loop, seconds, 0, schema)))
        except StorageError as exc:
            outcome = exc
    # raised here, because open_loop would wrap it in an exception group
    if isinstance(outcome, StorageError):
        raise outcome
    return outcome


def _new_store(
    url: str, loop: asyncio.AbstractEventLoop, timeout: float, connections: int, schema: Traversable
) -> "SqliteStore | PostgresStore":
    path = sqlite_path(url)
    if path is not None:
        return SqliteStore(path, loop, timeout, schema)
    return _new_postgres(url, loop, timeout, connections, schema)


def _new_postgres(
    url: str, loop: asyncio.AbstractEventLoop, timeout: float, connections: int, schema: Traversable
) -> "PostgresStore":
    from storage.postgres import PostgresStore

    return PostgresStore(url, loop, timeout, connections, schema)


async def _open(loop: Any, store: "SqliteStore | PostgresStore") -> None:  # noqa: ANN401
    # not cancelled, because each step has its own limit and a migration is one transaction
    with trio.CancelScope(shield=True):
        await loop.run_aio_coroutine(store.open())


async def _close(
    store: "SqliteStore | PostgresStore", serving: asyncio.Task[None], close_timeout: float
) -> None:
    """Finish the waiting units; after the limit only those that have started (they have their own limits)."""
    ended = trio.Event()
    serving.add_done_callback(lambda _: ended.set())
    store.close()
    with trio.move_on_after(close_timeout, shield=True):
        await ended.wait()
    store.abandon()
    with trio.CancelScope(shield=True):
        await ended.wait()
    try:
        serving.result()
    except BaseException as exc:
        raise StorageError("a database worker failed") from exc


def _log_callback_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception from a driver's callback. The default handler would end the process."""
    _log.error("database driver: %s (%s)", context.get("message"), type(context.get("exception")).__name__)
