"""Opens a database by its URL. Closing it first finishes the units in its queue, within a time limit."""

import sqlite3
from contextlib import AbstractAsyncContextManager
from importlib.resources.abc import Traversable

import trio

from storage.base import Store
from storage.migrate import SchemaPlan, load, shipped
from storage.sqlite import open_sqlite
from storage.sqlite_connection import to_storage_error
from storage.sqlite_schema import plan_file
from storage.url import sqlite_path


def open_store(
    url: str,
    *,
    statement_timeout: float = 10.0,
    close_timeout: float = 10.0,
    connections: int = 4,
    schema: Traversable | None = None,
) -> AbstractAsyncContextManager[Store]:
    """The database at `sqlite:///absolute/path` or `postgres[ql]://...`, migrated and ready.

    Times are in seconds: `statement_timeout` limits each statement and each wait for a lock, `close_timeout`
    the units that still wait when the store is closed. `connections` is for PostgreSQL. `schema` is a
    directory of migrations, by default that of this package.

    Raises StorageUnavailable, SchemaTooNew, MigrationChanged, StorageError, and ValueError for an invalid
    URL.
    """
    directory, path = schema or shipped(), sqlite_path(url)
    if path is not None:
        return open_sqlite(
            path, statement_timeout=statement_timeout, close_timeout=close_timeout, schema=directory
        )
    from storage.postgres_loop import open_postgres  # loaded when it is used: most gateways have SQLite

    return open_postgres(
        url,
        statement_timeout=statement_timeout,
        close_timeout=close_timeout,
        connections=connections,
        schema=directory,
    )


async def ping(url: str, *, seconds: float) -> None:
    """Connect to a PostgreSQL database and disconnect. Does nothing for SQLite.

    Raises StorageError, and ValueError for an invalid URL.
    """
    if sqlite_path(url) is None:
        from storage.postgres_loop import ping_postgres

        await ping_postgres(url, seconds, shipped())


async def plan_schema(url: str, *, seconds: float, schema: Traversable | None = None) -> SchemaPlan:
    """What `open_store` would do to the schema. Changes nothing.

    Raises SchemaTooNew, MigrationChanged, StorageError, and ValueError for an invalid URL.
    """
    directory, path = schema or shipped(), sqlite_path(url)
    if path is None:
        from storage.postgres_loop import plan_postgres

        return await plan_postgres(url, seconds, directory)
    try:
        return await trio.to_thread.run_sync(plan_file, path, load(directory, "sqlite"))
    except sqlite3.Error as exc:
        raise to_storage_error(exc) from exc
