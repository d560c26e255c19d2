"""Persistent data in SQLite or PostgreSQL. Does not import bluesminds."""

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
