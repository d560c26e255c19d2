"""Migrates a SQLite file: the migrations run on a copy, which is checked and then replaces the file.

Each step can be interrupted. Until the copy replaces the file, the file is the earlier one, complete; the
next start removes what is left and begins again. The earlier file is kept as the snapshot
`<file>.schema-<n>`, from which `roll_back_file` goes back. Foreign keys are checked at the end of each
migration, so that a migration may rebuild a table.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from storage.base import Row, SnapshotMissing, StorageError, StorageUnavailable, WouldLoseRows
from storage.migrate import CREATE_TABLE, INSERT_APPLIED, SELECT_APPLIED, Migration, SchemaPlan, pending

RECORDS: Final[Mapping[str, str]] = {"usage": "at, id", "ledger": "seq", "audit": "seq"}
"""The tables that get rows with every request, amount and change, with their keys. Their rows are never
changed. Old ones may be deleted, so that their number says nothing.
"""
_REST: Final = ("-wal", "-shm", "-journal")


class RolledBack(NamedTuple):
    """`schema`: the number of migrations of the snapshot. `kept`: the file that it has replaced. `lost`: rows
    by table that the snapshot does not have.
    """

    schema: int
    kept: Path
    lost: dict[str, int]


def upgrade_file(path: Path, migrations: Sequence[Migration]) -> None:
    """Bring an existing database to the newest schema. Does nothing to an empty one. The file must not be
    open.

    Raises SchemaTooNew, MigrationChanged, StorageError, sqlite3.Error, OSError.
    """
    path = path.resolve()  # a link stays, and the WAL is beside the file
    trial = Path(f"{path}.upgrade")
    _remove(trial)
    plan = plan_file(path, migrations)  # a connection that may write would do a checkpoint when it closes
    if not plan.schema or not plan.pending:
        return
    with closing(_open(path)) as raw:
        _empty_log(raw)
        _copy(raw, trial)
    with closing(_open(trial)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        migrate(copy, migrations)
        _check(copy, migrations)
    _sync(trial)
    _require_closed(path)
    _keep(path, snapshot_path(path, plan.schema))
    trial.replace(path)
    _sync(path.parent)


def plan_file(path: Path, migrations: Sequence[Migration]) -> SchemaPlan:
    """Reads the file, which may be in use. Raises SchemaTooNew, MigrationChanged, sqlite3.Error."""
    path = path.resolve()
    if not path.exists():
        return SchemaPlan("sqlite", 0, tuple(migrations))
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as raw:
        applied = applied_migrations(raw)
    waiting = tuple(pending(migrations, applied, "sqlite"))
    if not waiting or not applied:
        return SchemaPlan("sqlite", len(applied), waiting)
    kept = str(snapshot_path(path, len(applied)))
    return SchemaPlan("sqlite", len(applied), waiting, path.stat().st_size, kept)


def snapshot_path(path: Path, schema: int) -> Path:
    """Where the file is kept before the schema with this number is upgraded."""
    return Path(f"{path}.schema-{schema}")


def migrate(raw: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Apply the pending migrations. Raises SchemaTooNew, MigrationChanged, StorageError, sqlite3.Error."""
    waiting = pending(migrations, applied_migrations(raw), "sqlite")
    raw.execute("PRAGMA foreign_keys = OFF")
    for migration in waiting:
        _apply(raw, migration)
    raw.execute("PRAGMA foreign_keys = ON")


def applied_migrations(raw: sqlite3.Connection) -> Sequence[Row]:
    """The rows of SELECT_APPLIED; none for an empty database."""
    known = raw.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_migrations'").fetchone()
    return raw.execute(SELECT_APPLIED).fetchall() if known else []


def roll_back_file(path: Path, *, discard: bool) -> RolledBack:
    """Replace the database by the newest snapshot of an earlier schema. The file must not be open.

    Raises SnapshotMissing; WouldLoseRows if there are records that the snapshot does not have, unless
    `discard`; StorageError, sqlite3.Error, OSError.
    """
    path = path.resolve()
    partial = Path(f"{path}.rollback")
    _remove(partial)
    with closing(_open(path)) as raw:
        schema = len(applied_migrations(raw))
        snapshot = _snapshot_before(path, schema)
        with closing(_open(snapshot)) as earlier:
            _check(earlier)
            lost = {
                table: count
                for table, key in RECORDS.items()
                if (count := _missing(raw, earlier, table, key))
            }
            if lost and not discard:
                raise WouldLoseRows(lost)
            _copy(earlier, partial)
            found = len(applied_migrations(earlier))
        _empty_log(raw)
    _require_closed(path)
    kept = _unused(Path(f"{path}.rolled-back-{schema}"))
    _keep(path, kept)
    partial.replace(path)
    _sync(path.parent)
    return RolledBack(found, kept, lost)


def _unused(path: Path) -> Path:
    """The path, with a number if a file has it: an earlier rollback kept rows there."""
    names = (path, *(Path(f"{path}.{number}") for number in range(2, 10_000)))
    return next(name for name in names if not name.exists())


def _snapshot_before(path: Path, schema: int) -> Path:
    for number in range(schema - 1, 0, -1):
        found = snapshot_path(path, number)
        if found.exists() and not found.samefile(path):
            return found
    raise SnapshotMissing(f"there is no snapshot of an earlier schema next to {path}")


def _missing(raw: sqlite3.Connection, earlier: sqlite3.Connection, table: str, key: str) -> int:
    """The number of rows that the earlier database does not have."""
    if not _has_table(raw, table):
        return 0
    now = raw.execute(f"SELECT {key} FROM {table} ORDER BY {key}")  # noqa: S608
    before: Iterator[Row] = iter(())
    if _has_table(earlier, table):
        before = earlier.execute(f"SELECT {key} FROM {table} ORDER BY {key}")  # noqa: S608
    count, last = 0, next(before, None)
    for row in now:
        while last is not None and last < row:
            last = next(before, None)
        count += row != last
    return count


def _has_table(raw: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
    return raw.execute(query, (table,)).fetchone() is not None


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


def _open(path: Path) -> sqlite3.Connection:
    raw = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, isolation_level=None)
    raw.execute("PRAGMA synchronous = FULL")
    return raw


def _check(raw: sqlite3.Connection, migrations: Sequence[Migration] | None = None) -> None:
    """The self-test of a copy. Raises StorageError."""
    (found,) = raw.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise StorageError(f"the database is damaged: {found}")
    if migrations is not None and len(applied_migrations(raw)) != len(migrations):
        raise StorageError("the migrations are not complete")


def _copy(source: sqlite3.Connection, target: Path) -> None:
    """Page by page, so that row ids stay the same. The file gets mode 600 and is on disk at the end."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    _sync(target)


def _empty_log(raw: sqlite3.Connection) -> None:
    """Move everything from the WAL into the file. Raises StorageUnavailable."""
    (busy, *_) = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise StorageUnavailable("the database is in use by another process")


def _require_closed(path: Path) -> None:
    """A WAL of the file would be applied to its replacement. Raises StorageUnavailable."""
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        raise StorageUnavailable("the database is in use by another process")
    for suffix in _REST:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _keep(path: Path, target: Path) -> None:
    """The file under a second name. It is replaced and not changed afterwards, so that a link is enough."""
    if target.exists() and target.samefile(path):
        return  # from an interrupted upgrade; to rename one link onto the other would do nothing
    partial = Path(f"{target}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # a file system without links
        shutil.copy2(path, partial)
        _sync(partial)
    partial.replace(target)
    _sync(target.parent)


def _remove(path: Path) -> None:
    """What an interrupted upgrade has left."""
    for suffix in ("", *_REST):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """A file or a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
