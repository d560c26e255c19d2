"""Durable state behind one small protocol, on SQLite or PostgreSQL. Imports nothing from bluesminds."""

from storage.base import (
    Conflict,
    Connection,
    MigrationChanged,
    Row,
    SchemaTooNew,
    StorageError,
    StorageUnavailable,
    Store,
)
from storage.store import open_store

__all__ = [
    "Conflict",
    "Connection",
    "MigrationChanged",
    "Row",
    "SchemaTooNew",
    "StorageError",
    "StorageUnavailable",
    "Store",
    "open_store",
]
