"""One connection to a SQLite file, and the functions that run its statements.

After a failed sync the kernel may have dropped pages, so nothing is written until the file is opened again.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, LiteralString, TypeVar

from storage.base import BadValue, IntegrityError, Row, StorageBroken, StorageError, StorageUnavailable

T = TypeVar("T")

PROGRESS_STEPS = 20_000  # virtual machine instructions between checks of the deadline

_RETRYABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_VIOLATIONS = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    }
)
_SYNC_FAILED = frozenset({sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC})
_BAD_VALUES = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class _SyncFailed(sqlite3.OperationalError):
    sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC


class SqliteConnection:
    """Opens the file at its first use, and is used by one thread at a time."""

    def __init__(self, path: Path, role: Literal["writer", "reader"], timeout: float) -> None:
        self._path = path
        self._role = role
        self._timeout = timeout
        self._deadline = math.inf
        self._sync_failed = False
        self._raw: sqlite3.Connection | None = None

    def run(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Raises StorageError."""
        try:
            return fn(self._open())
        except sqlite3.Error as exc:
            raise to_storage_error(exc) from exc

    def step(
        self,
        begin: LiteralString | None,
        do: Callable[[sqlite3.Connection, str, Any], T],
        sql: str,
        values: object,
        *,
        final: bool,
    ) -> T:
        """Run a statement, with BEGIN before it if `begin` is set, and COMMIT after it if `final`."""
        if self._sync_failed:
            raise _SyncFailed
        raw = self._open()
        try:
            if begin is not None:
                self._deadline = math.inf
                roll_back(raw)  # in case the rollback of the unit before failed
                raw.execute(begin)
                self._deadline = time.monotonic() + self._timeout
            result = do(raw, sql, values)
            if final:
                raw.execute("COMMIT")
        except sqlite3.Error as exc:
            self._sync_failed = getattr(exc, "sqlite_errorcode", 0) in _SYNC_FAILED
            raise
        return result

    def roll_back(self) -> None:
        """Raises StorageError."""
        if self._raw is not None:
            self.run(roll_back)

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline

    def _open(self) -> sqlite3.Connection:
        if self._raw is None:
            raw = sqlite3.connect(
                self._path, isolation_level=None, timeout=self._timeout, check_same_thread=False
            )
            try:
                self._set_up(raw)
            except BaseException:
                raw.close()
                raise
            self._raw = raw
        return self._raw

    def _set_up(self, raw: sqlite3.Connection) -> None:
        raw.execute("PRAGMA journal_mode = WAL")
        raw.execute("PRAGMA synchronous = FULL")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.execute("PRAGMA mmap_size = 0")
        raw.execute("PRAGMA journal_size_limit = 67108864")
        if self._role == "reader":
            raw.execute("PRAGMA wal_autocheckpoint = 0")
            raw.execute("PRAGMA query_only = ON")
        raw.set_progress_handler(self._is_late, PROGRESS_STEPS)


def execute(raw: sqlite3.Connection, sql: str, values: Sequence[Any]) -> int:
    return max(raw.execute(sql, values).rowcount, 0)


def execute_many(raw: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    raw.executemany(sql, rows)


def execute_all(
    raw: sqlite3.Connection, sql: str, statements: Sequence[tuple[str, Sequence[Sequence[Any]]]]
) -> None:
    for statement, rows in statements:
        raw.executemany(statement, rows)


def fetch_one(raw: sqlite3.Connection, sql: str, values: Sequence[Any]) -> Row | None:
    cursor = raw.execute(sql, values)
    row: Row | None = cursor.fetchone()
    cursor.close()
    return row


def fetch_all(raw: sqlite3.Connection, sql: str, values: Sequence[Any]) -> Sequence[Row]:
    return raw.execute(sql, values).fetchall()


def do_nothing(raw: sqlite3.Connection, sql: str, values: object) -> None:
    pass


def roll_back(raw: sqlite3.Connection) -> None:
    if raw.in_transaction:
        raw.execute("ROLLBACK")


def to_storage_error(exc: Exception) -> StorageError:
    """Convert an error of the driver. SQLite's messages name tables and columns, never values."""
    code = getattr(exc, "sqlite_errorcode", None)
    if code is None:
        if not isinstance(exc, sqlite3.Error):
            return BadValue(f"a value cannot be stored: {type(exc).__name__}")
        kind = StorageUnavailable if isinstance(exc, sqlite3.OperationalError) else StorageError
        return kind(str(exc))
    if code in _VIOLATIONS:
        return IntegrityError(str(exc))
    if code in _SYNC_FAILED:
        return StorageBroken("a write could not be synced to disk; check the disk, then restart")
    if code & 0xFF in _DAMAGED:
        return StorageBroken(f"the database file is damaged: {exc}")
    if code & 0xFF in _BAD_VALUES:
        return BadValue(str(exc))
    if code & 0xFF in _RETRYABLE:
        return StorageUnavailable(f"the database is not available: {exc}")
    return StorageError(str(exc))
