"""Which migrations a database still needs.

Migrations are files `NNNN_name.sql`, or `NNNN_name.sqlite.sql` and `NNNN_name.postgres.sql` where the
engines must differ. Each is applied once, in order, in a transaction that also records its checksum. An
applied file never changes; a database that is ahead of the files is refused. Applying is the engine's work.
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
    """One file; the checksum is the SHA-256 of its bytes, in hex."""

    version: int
    name: str
    checksum: str
    sql: str


def shipped() -> Traversable:
    """The directory of migrations inside this package, also when it is frozen."""
    return files("storage") / "schema"


def load(directory: Traversable, engine: Engine) -> tuple[Migration, ...]:
    """The migrations for an engine, numbered from 1 without a gap."""
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
        raise ValueError("migrations must be numbered 0001, 0002, ... without gap or double")
    return tuple(found)


_WAY_BACK = {
    "sqlite": "restore the snapshot taken before the upgrade, beside the database file as .schema-<number>",
    "postgres": "restore the dump made before the upgrade (pg_dump)",
}


def pending(migrations: Sequence[Migration], applied: Sequence[Row], engine: Engine) -> Sequence[Migration]:
    """What is left to apply, given the rows of SELECT_APPLIED.

    Raises SchemaTooNew or MigrationChanged.
    """
    if len(applied) > len(migrations):
        version = applied[-1][0]
        raise SchemaTooNew(
            f"this database was written by a newer version (schema {version}, this one knows"
            f" {len(migrations)}); install that version, or {_WAY_BACK[engine]}"
        )
    for migration, (version, name, checksum) in zip(migrations, applied, strict=False):
        if (migration.version, migration.checksum) != (version, checksum):
            raise MigrationChanged(
                f"migration {version:04} ({name}) differs from the one applied to this database;"
                f" install the version that wrote it, or {_WAY_BACK[engine]}"
            )
    return migrations[len(applied) :]
