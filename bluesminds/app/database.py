"""Where the database of a configuration is."""

from collections.abc import Mapping

from bluesminds.app.errors import BadDatabaseURL, NoDatabase
from bluesminds.app.state_dir import MASTER_KEY
from bluesminds.config import Settings
from storage import (
    MigrationChanged,
    SchemaTooNew,
    StorageBroken,
    StorageError,
    StorageUnavailable,
    sqlite_path,
)


def database_url(settings: Settings) -> str:
    """Raises BadDatabaseURL."""
    url = settings.database_url.reveal()
    try:
        sqlite_path(url)
    except ValueError as exc:
        raise BadDatabaseURL(f"url in [storage] cannot be used: {exc}") from exc
    return url


def storage_remedy(error: StorageError) -> str:
    """What to do about an error of the database, for the operator."""
    match error:
        case SchemaTooNew() | MigrationChanged():
            return "see Backup in docs/operate.md for how to restore"
        case StorageBroken() if "file is damaged" in str(error):
            return "restore a backup: bluesminds restore --replace FILE"
        case StorageUnavailable() if "disk is full" in str(error):
            return "free space on the disk of the database"
    return "check storage.url and that the database runs"


def database_files(settings: Settings) -> Mapping[str, int]:
    """The sizes of the files of the database in bytes, by name; empty for PostgreSQL."""
    path = sqlite_path(database_url(settings))
    if path is None:
        return {}
    files = {"Database": path, "Write-ahead log": path.with_name(f"{path.name}-wal")}
    return {name: file.stat().st_size for name, file in files.items() if file.exists()}


def require_database(settings: Settings) -> None:
    """Raises NoDatabase, BadDatabaseURL."""
    path = sqlite_path(database_url(settings))
    # A PostgreSQL database that a gateway has used belongs to the secrets in its state directory.
    if not (settings.state_dir / MASTER_KEY if path is None else path).exists():
        raise NoDatabase(settings.state_dir)
