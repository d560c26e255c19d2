"""Opening a database by its URL.

Owns the asyncio event loop that the drivers need; nothing of it is visible outside. A store that closes
first finishes the units that were handed over, within a time limit.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trio
import trio_asyncio

from storage.base import StorageError, Store
from storage.migrate import shipped
from storage.postgres import PostgresStore
from storage.sqlite import SqliteStore

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

    Times are in seconds: `statement_timeout` bounds each wait for a lock and each statement,
    `close_timeout` the units still waiting at the end. `connections` is for PostgreSQL. `schema` is a
    directory of migrations, the shipped one by default.

    Raises StorageUnavailable, SchemaTooNew, MigrationChanged, StorageError, and ValueError for a URL that
    is none of ours.
    """
    failure: Exception | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_report)
        # aiosqlite would log every parameter at DEBUG, asyncio every slow callback with its arguments.
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)
        try:
            store = _store(url, loop, statement_timeout, connections, schema or shipped())
            await _opened(loop, store)
            serving = loop.create_task(store.serve())
            serving.add_done_callback(lambda _: store.abandon())
            try:
                yield store
            finally:
                await _closed(store, serving, close_timeout)
        except Exception as exc:
            failure = exc
    # Raised here so that it does not reach the caller inside the loop's exception groups.
    if failure is not None:
        raise failure


async def ping(url: str, *, seconds: float) -> None:
    """Connect to a PostgreSQL database and leave again, without a change; of SQLite nobody has to be asked.

    Raises StorageError, and ValueError for a URL that is none of ours.
    """
    if sqlite_path(url) is not None:
        return
    failure: StorageError | None = None
    async with trio_asyncio.open_loop() as loop:
        try:
            await loop.run_aio_coroutine(PostgresStore(url, loop, seconds, 0, shipped()).ping())
        except StorageError as exc:
            failure = exc
    if failure is not None:
        raise failure


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for a PostgreSQL one. Raises ValueError for a URL that is none of ours;
    nothing of the URL is in its message.
    """
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:  # PostgreSQL takes several hosts, each with its port
            _ = parts.port
    except ValueError:
        # The cause quotes what it could not read, and that may be half of a password.
        raise ValueError("it cannot be read: write special characters in a password as %XX") from None
    if parts.scheme == "sqlite":
        path = Path("/" + unquote(parts.path).lstrip("/"))
        if path.name == ":memory:":
            raise ValueError("a database in memory would be gone at the end; name a file")
        if parts.netloc or parts.query or parts.fragment or not path.name:
            raise ValueError("a SQLite URL looks like sqlite:///absolute/path/to/file.db")
        return path
    if parts.scheme in ("postgres", "postgresql"):
        query = parse_qs(parts.query)
        if not parts.path.strip("/") and not {"dbname", "database"} & query.keys():
            raise ValueError("a PostgreSQL URL names its database: postgresql://user:password@host/name")
        return None
    raise ValueError("a database URL begins with sqlite:// or postgresql://")


def _store(
    url: str, loop: asyncio.AbstractEventLoop, timeout: float, connections: int, schema: Traversable
) -> SqliteStore | PostgresStore:
    path = sqlite_path(url)
    if path is not None:
        return SqliteStore(path, loop, timeout, schema)
    return PostgresStore(url, loop, timeout, connections, schema)


async def _opened(loop: Any, store: SqliteStore | PostgresStore) -> None:  # noqa: ANN401
    # Not interrupted half way: every step has its own limit, and a migration is one transaction.
    with trio.CancelScope(shield=True):
        await loop.run_aio_coroutine(store.open())


async def _closed(
    store: SqliteStore | PostgresStore, serving: asyncio.Task[None], close_timeout: float
) -> None:
    """Finish the waiting units; past the limit only the ones begun, which are limited themselves."""
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
        raise StorageError("a database worker ended by itself") from exc


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a driver let fall in a callback; by default it would end the process."""
    _log.error("database driver: %s (%s)", context.get("message"), type(context.get("exception")).__name__)
