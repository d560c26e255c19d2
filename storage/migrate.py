"""Finds the migrations that a database still needs; the engines apply them.

Migrations are files `NNNN_name.sql`, or `NNNN_name.sqlite.sql` and `NNNN_name.postgres.sql` if the engines
differ. Each is applied once, in order, in a transaction that also stores its checksum. A file must not change
after it was released. A database with more migrations than there are files is refused.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from storage.base import Engine, MigrationChanged, Row, SchemaTooNew

_FILE = re.compile(r"(?P<version>\d{4})_(?P<name>[a-z0-9_]+)(?:\.(?P<engine>sqlite|postgres))?\.sql")

CREATE_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version INTEGER NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        checksum TEXT NOT NULL
    )
"""
SELECT_APPLIED = "SELECT version, name, checksum FROM schema_migrations ORDER BY version"
INSERT_APPLIED = """
    INSERT INTO schema_migrations (version, name, checksum) VALUES (:version, :name, :checksum)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its bytes in hexadecimal."""

    version: int
    name: str
    checksum: str
    sql: str


def shipped() -> Traversable:
    """The directory of migrations in this package, also in a frozen executable."""
    return files("storage") / "schema"


def load(directory: Traversable, engine: Engine) -> tuple[Migration, ...]:
    """The migrations for an engine. Raises ValueError unless they are numbered from 1 without a gap."""
    found = []
    for file in directory.iterdir():
        match = _FILE.fullmatch(file.name)
        if match is None or match["engine"] not in (None, engine):
            continue
        text = file.read_bytes()
        found.append(
            Migration(int(match["version"]), match["name"], hashlib.sha256(text).hexdigest(), text.decode())
        )
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError("migrations must be numbered 0001, 0002, ... without gap or duplicate")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SchemaPlan:
    """What opening a database would do. `schema`: its number of migrations, 0 for a new one. `bytes`: the
    disk space that the copy of a SQLite file needs, and `snapshot` where the earlier file is kept.
    """

    engine: Engine
    schema: int
    pending: tuple[Migration, ...]
    bytes: int = 0
    snapshot: str | None = None


_HOW_TO_GO_BACK = {
    "sqlite": "go back to the snapshot taken before the upgrade with `bluesminds rollback`",
    "postgres": "restore the dump made before the upgrade (pg_dump)",
}


def pending(migrations: Sequence[Migration], applied: Sequence[Row], engine: Engine) -> Sequence[Migration]:
    """The migrations to apply. `applied` are the rows of SELECT_APPLIED.

    Raises SchemaTooNew or MigrationChanged.
    """
    if len(applied) > len(migrations):
        version = applied[-1][0]
        raise SchemaTooNew(
            f"a newer version wrote this database (schema {version}, this version has"
            f" {len(migrations)}); install that version, or {_HOW_TO_GO_BACK[engine]}"
        )
    for migration, (version, name, checksum) in zip(migrations, applied, strict=False):
        if (migration.version, migration.checksum) != (version, checksum):
            raise MigrationChanged(
                f"migration {version:04} ({name}) differs from the one applied to this database;"
                f" install the version that wrote it, or {_HOW_TO_GO_BACK[engine]}"
            )
    return migrations[len(applied) :]
