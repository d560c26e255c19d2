"""Holds the write lock of a SQLite database."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import trio

BUSY_SECONDS = 120.0


@asynccontextmanager
async def exclusive(path: Path) -> AsyncIterator[None]:
    """A second connection holds the write lock. To others it is the same as a lock of another process."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    with closing(connection):
        await trio.to_thread.run_sync(connection.execute, "BEGIN EXCLUSIVE")
        yield
