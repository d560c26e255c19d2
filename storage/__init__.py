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
from storage.url import sqlite_path

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
    "sqlite_path",
]
