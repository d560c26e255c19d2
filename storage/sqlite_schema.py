"""Migrates a SQLite file, after a snapshot of it.

Runs in the writer's thread before anything else. Foreign keys are checked at the end of each migration, so
that a migration may rebuild a table. The snapshot `<file>.schema-<n>` is complete and on disk before the
first change.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.base import Row, StorageError
from storage.migrate import CREATE_TABLE, INSERT_APPLIED, SELECT_APPLIED, Migration, pending


def migrate(raw: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    """Apply the pending migrations. Raises SchemaTooNew, MigrationChanged, sqlite3.Error."""
    applied = _applied(raw)
    waiting = pending(migrations, applied, "sqlite")
    if waiting and applied:
        _snapshot(raw, path, Path(f"{path}.schema-{len(applied)}"))
    raw.execute("PRAGMA foreign_keys = OFF")
    for migration in waiting:
        _apply(raw, migration)
    raw.execute("PRAGMA foreign_keys = ON")


def _applied(raw: sqlite3.Connection) -> Sequence[Row]:
    known = raw.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'").fetchone()
    return raw.execute(SELECT_APPLIED).fetchall() if known else []


def _apply(raw: sqlite3.Connection, migration: Migration) -> None:
    raw.execute("BEGIN IMMEDIATE")
    try:
        _run(raw, migration)
        raw.execute("COMMIT")
    except BaseException:
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        raise


def _run(raw: sqlite3.Connection, migration: Migration) -> None:
    raw.execute(CREATE_TABLE)
    for statement in statements(migration.sql):
        raw.execute(statement)
    if raw.execute("PRAGMA foreign_key_check").fetchone():
        raise StorageError(f"migration {migration.version:04} leaves references to missing rows")
    raw.execute(
        INSERT_APPLIED,
        {"version": migration.version, "name": migration.name, "checksum": migration.checksum},
    )


def statements(script: str) -> Iterator[str]:
    """Split a script into statements. Semicolons inside a trigger, text or comment do not end a statement."""
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _snapshot(raw: sqlite3.Connection, path: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    file = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        raw.execute("VACUUM INTO ?", (str(partial),))
        os.fsync(file)
    finally:
        os.close(file)
    partial.replace(target)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
