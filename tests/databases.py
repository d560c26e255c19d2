"""Databases with the schema and nothing else. The migrations make one per engine, and the tests copy it."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path

import trio

from storage.migrate import load, shipped
from storage.sqlite_schema import migrate
from storage.store import open_store


def create_sqlite(path: Path) -> None:
    """Create the file, readable only by its owner."""
    path.touch(mode=0o600)
    path.write_bytes(_sqlite())


@cache
def _sqlite() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as raw:
        migrate(raw, load(shipped(), "sqlite"))
        return raw.serialize()


def add_schema(url: str) -> None:
    """Add the schema to an empty database. In a thread: the caller may be inside of Trio."""

    async def migrate_by_opening() -> None:
        async with open_store(url):
            pass

    with ThreadPoolExecutor(1) as thread:
        thread.submit(trio.run, migrate_by_opening).result()
