from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage import Connection, Store
from storage.store import open_store
from tests.databases import create_sqlite
from tests.storage.postgres_server import PostgresServer
from tests.storage.store_thread import StoreThread


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[str]:
    """A database with the schema. Tests with a `store` share one, because creating and dropping one takes
    longer than most of them.
    """
    if "store" in request.fixturenames:
        yield postgres.shared_database()
        return
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def empty_postgres_url(postgres: PostgresServer) -> Iterator[str]:
    url = postgres.create_empty_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def sqlite_url(sqlite_path: Path) -> str:
    return f"sqlite://{sqlite_path}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A database on each engine in turn, without rows. The file of SQLite does not exist yet."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def store(url: str, sqlite_path: Path) -> AsyncIterator[Store]:
    if url.startswith("sqlite"):
        create_sqlite(sqlite_path)
    async with open_store(url) as store:
        if store.engine == "postgres":
            await store.write(clear)
        yield store


async def clear(connection: Connection) -> None:
    """Delete the rows that other tests left. Only tables that were written have pages."""
    await connection.execute("""
        DO $$ DECLARE written name; BEGIN
            SET LOCAL session_replication_role = replica; -- in any order, without following foreign keys
            FOR written IN SELECT relname FROM pg_class
                WHERE relnamespace = to_regnamespace('public') AND relkind = 'r'
                    AND relname <> 'schema_migrations' AND pg_relation_size(oid) > 0
            LOOP
                EXECUTE format('DELETE FROM %I', written);
            END LOOP;
            INSERT INTO chain_heads (chain, seq, hash) VALUES ('audit', 0, ''), ('ledger', 0, '');
        END $$
    """)


@pytest.fixture
def thread(url: str) -> Iterator[StoreThread]:
    """A store for all examples of a property test."""
    thread = StoreThread(url)
    yield thread
    thread.close()
