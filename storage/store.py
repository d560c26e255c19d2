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
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import trio
import trio_asyncio

from storage.base import StorageError, Store
from storage.migrate import SchemaPlan, load, shipped
from storage.postgres import PostgresStore
from storage.sqlite import SqliteStore
from storage.sqlite_schema import plan_file
from storage.sqlite_thread import to_storage_error

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
        await _with_postgres(url, seconds, shipped(), PostgresStore.ping)


async def plan_schema(url: str, *, seconds: float, schema: Traversable | None = None) -> SchemaPlan:
    """What `open_store` would do to the schema. Changes nothing.

    Raises SchemaTooNew, MigrationChanged, StorageError, and ValueError for an invalid URL.
    """
    directory, path = schema or shipped(), sqlite_path(url)
    if path is None:
        return await _with_postgres(url, seconds, directory, PostgresStore.plan)
    try:
        return await trio.to_thread.run_sync(plan_file, path, load(directory, "sqlite"))
    except sqlite3.Error as exc:
        raise to_storage_error(exc) from exc


async def _with_postgres(
    url: str, seconds: float, schema: Traversable, work: Callable[[PostgresStore], Awaitable[T]]
) -> T:
    outcome: T | StorageError
    async with trio_asyncio.open_loop() as loop:
        try:
            outcome = await loop.run_aio_coroutine(work(PostgresStore(url, loop, seconds, 0, schema)))
        except StorageError as exc:
            outcome = exc
    # raised here, because open_loop would wrap it in an exception group
    if isinstance(outcome, StorageError):
        raise outcome
    return outcome


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for a PostgreSQL URL. Raises ValueError for an invalid URL; its message
    contains no part of the URL.
    """
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:  # PostgreSQL takes several hosts, each with its port
            _ = parts.port
    except ValueError:
        # the cause quotes a part of the URL, which may be a part of the password
        raise ValueError("the URL is invalid: write special characters in a password as %XX") from None
    if parts.scheme == "sqlite":
        path = Path("/" + unquote(parts.path).lstrip("/"))
        if path.name == ":memory:":
            raise ValueError("a database in memory is not supported; name a file")
        if parts.netloc or parts.query or parts.fragment or not path.name:
            raise ValueError("a SQLite URL looks like sqlite:///absolute/path/to/file.db")
        return path
    if parts.scheme in ("postgres", "postgresql"):
        query = parse_qs(parts.query)
        if not parts.path.strip("/") and not {"dbname", "database"} & query.keys():
            raise ValueError("a PostgreSQL URL must name the database: postgresql://user:password@host/name")
        return None
    raise ValueError("a database URL must begin with sqlite:// or postgresql://")


def _new_store(
    url: str, loop: asyncio.AbstractEventLoop, timeout: float, connections: int, schema: Traversable
) -> SqliteStore | PostgresStore:
    path = sqlite_path(url)
    if path is not None:
        return SqliteStore(path, loop, timeout, schema)
    return PostgresStore(url, loop, timeout, connections, schema)


async def _open(loop: Any, store: SqliteStore | PostgresStore) -> None:  # noqa: ANN401
    # not cancelled, because each step has its own limit and a migration is one transaction
    with trio.CancelScope(shield=True):
        await loop.run_aio_coroutine(store.open())


async def _close(
    store: SqliteStore | PostgresStore, serving: asyncio.Task[None], close_timeout: float
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
