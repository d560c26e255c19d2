"""Database URLs, and the check whether a database is reachable."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage import StorageUnavailable, sqlite_path
from storage.store import ping
from tests.storage.postgres_server import PostgresServer

TABLES = "SELECT 'tables: ' || count(*) FROM information_schema.tables WHERE table_schema = 'public';"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/x.db", Path("/var/lib/x.db")),
        ("sqlite:////var/a%20b.db", Path("/var/a b.db")),
        ("postgres://u:p@host/name", None),
        ("postgresql://u:p%2F@one:5432,two:5433/name", None),
        ("postgresql:///name?host=/run/postgresql", None),
        ("postgresql://host/?dbname=name", None),
    ],
)
def test_url_valid_names_engine_and_path(url: str, path: Path | None) -> None:
    assert sqlite_path(url) == path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "canary",
        "mysql://u:canary@host/name",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://canary/x.db",
        "sqlite:///x.db?mode=canary",
        "postgres://u:canary@host",
        "postgres://u:canary/x@host/name",
        "postgres://u:canary@[::1/name",
    ],
)
def test_url_invalid_is_refused_without_its_text(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        sqlite_path(url)
    assert "canary" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_database_ping_changes_nothing(postgres: PostgresServer) -> None:
    url = postgres.create_empty_database()
    await ping(url, seconds=5)
    assert "tables: 0" in postgres.psql(f"\\connect {urlsplit(url).path[1:]}\n{TABLES}")
    with pytest.raises(StorageUnavailable):
        await ping("postgresql://u@127.0.0.1:9/x", seconds=5)
