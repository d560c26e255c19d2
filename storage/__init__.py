"""Durable state behind one small protocol, on SQLite or PostgreSQL. Imports nothing from bluesminds."""

from storage.base import (
    BadValue,
    Connection,
    IntegrityError,
    MigrationChanged,
    Row,
    SchemaTooNew,
    StorageBroken,
    StorageError,
    StorageUnavailable,
    Store,
)
from storage.store import open_store, ping, sqlite_path

__all__ = [
    "BadValue",
    "Connection",
    "IntegrityError",
    "MigrationChanged",
    "Row",
    "SchemaTooNew",
    "StorageBroken",
    "StorageError",
    "StorageUnavailable",
    "Store",
    "open_store",
    "ping",
    "sqlite_path",
]
