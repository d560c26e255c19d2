import shutil
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio

from storage import Connection, MigrationChanged, SchemaTooNew, StorageError
from storage.base import SnapshotMissing, WouldLoseRows
from storage.keys import insert_key
from storage.migrate import load, shipped
from storage.settings import put_setting
from storage.sqlite import roll_back_sqlite
from storage.sqlite_schema import statements
from storage.store import open_store, plan_schema
from storage.usage import insert_batch
from storage.usage_retention import delete_usage
from storage.users import insert_user
from tests.storage.postgres_server import PostgresServer
from tests.storage.samples import NOON, key, names, usage, user

SECOND = """
    CREATE TABLE extra (id INTEGER NOT NULL PRIMARY KEY);
    INSERT INTO extra (id) VALUES (1);
    INSERT INTO extra (id) VALUES (2)
"""


@pytest.fixture
def postgres_url(empty_postgres_url: str) -> str:
    return empty_postgres_url


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """A copy of the shipped migrations that a test may add to."""
    directory = tmp_path / "schema"
    directory.mkdir()
    for file in shipped().iterdir():
        if file.name.endswith(".sql"):
            (directory / file.name).write_bytes(file.read_bytes())
    return directory


async def extras(connection: Connection) -> list[int]:
    return [row[0] for row in await connection.all("SELECT id FROM extra ORDER BY id")]


def add(schema: Path, name: str, sql: str) -> Path:
    file = schema / f"{len(load(schema, 'sqlite')) + 1:04}_{name}.sql"
    file.write_text(sql)
    return file


def alter(schema: Path) -> None:
    for file in schema.iterdir():
        file.write_text(file.read_text() + "-- harmless\n")


async def test_migration_pending_is_applied_once(url: str, schema: Path) -> None:
    async with open_store(url, schema=schema) as store:
        await store.write(put_setting, "a", "1")
    add(schema, "second", SECOND)
    for _ in range(2):
        async with open_store(url, schema=schema) as store:
            assert await store.read(extras) == [1, 2]
            assert await store.read(names) == ["a"]


async def test_database_of_newer_version_is_refused(url: str, schema: Path) -> None:
    newest = add(schema, "second", SECOND).name[3]
    async with open_store(url, schema=schema):
        pass
    with pytest.raises(
        SchemaTooNew, match=rf"newer version wrote.*\(schema {newest}.*install that version"
    ) as caught:
        async with open_store(url):
            pass
    assert says_the_way_back(url, str(caught.value))


async def test_migration_changed_is_refused(url: str, schema: Path) -> None:
    async with open_store(url, schema=schema):
        pass
    alter(schema)
    with pytest.raises(MigrationChanged, match="0001") as caught:
        async with open_store(url, schema=schema):
            pass
    assert says_the_way_back(url, str(caught.value))


def says_the_way_back(url: str, message: str) -> bool:
    """Only SQLite files are snapshotted before an upgrade."""
    sqlite = url.startswith("sqlite")
    return ("snapshot" in message, "pg_dump" in message) == (sqlite, not sqlite)


async def test_migration_that_fails_is_rolled_back(url: str, schema: Path) -> None:
    async with open_store(url, schema=schema):
        pass
    file = add(schema, "second", SECOND.replace("(2)", "(1)"))
    with pytest.raises(StorageError):
        async with open_store(url, schema=schema):
            pass
    file.write_text(SECOND)
    async with open_store(url, schema=schema) as store:
        assert await store.read(extras) == [1, 2]


async def test_migration_of_existing_file_takes_a_snapshot(
    sqlite_url: str, sqlite_path: Path, schema: Path
) -> None:
    snapshot = sqlite_path.with_name(f"{sqlite_path.name}.schema-{len(load(schema, 'sqlite'))}")
    async with open_store(sqlite_url, schema=schema) as store:
        await store.write(put_setting, "a", "1")
    assert not snapshot.exists()
    add(schema, "second", SECOND)
    async with open_store(sqlite_url, schema=schema):
        pass
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    async with open_store(f"sqlite://{snapshot}") as store:
        assert await store.read(names) == ["a"]
    assert not list(snapshot.parent.glob("*.partial"))


async def test_database_file_has_mode_0600(sqlite_url: str, sqlite_path: Path) -> None:
    async with open_store(sqlite_url) as store:
        await store.write(put_setting, "a", "1")
        files = list(sqlite_path.parent.glob("gateway.db*"))
        assert len(files) == 4  # itself, -wal, -shm and .lock
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_migration_rebuilds_a_referenced_table(
    sqlite_url: str, schema: Path, owner_with_key: None
) -> None:
    (schema / "0002_rebuild.sqlite.sql").write_text("""
        CREATE TABLE users_new (id TEXT NOT NULL PRIMARY KEY, email TEXT) STRICT;
        INSERT INTO users_new SELECT id, email FROM users;
        DROP TABLE users;
        ALTER TABLE users_new RENAME TO users;
    """)

    async def count(connection: Connection) -> object:
        return await connection.value("SELECT count(*) FROM api_keys JOIN users ON users.id = user_id")

    async with open_store(sqlite_url, schema=schema) as store:
        assert await store.read(count) == 1


async def test_migration_that_orphans_rows_is_rolled_back(
    sqlite_url: str, schema: Path, owner_with_key: None
) -> None:
    (schema / "0002_orphan.sqlite.sql").write_text("DELETE FROM users;")
    with pytest.raises(StorageError, match="missing rows"):
        async with open_store(sqlite_url, schema=schema):
            pass


@pytest.fixture
async def owner_with_key(sqlite_url: str) -> None:
    async with open_store(sqlite_url) as store:
        await store.write(insert_user, user())
        await store.write(insert_key, key(user()))


@pytest.mark.process
async def test_migration_instances_start_together_is_applied_once(postgres_url: str, schema: Path) -> None:
    add(schema, "second", SECOND)
    program = "import sys, trio, pathlib\nfrom storage.store import open_store\n" + "\n".join(
        (
            "async def main():",
            "    async with open_store(sys.argv[1], schema=pathlib.Path(sys.argv[2])): pass",
            "trio.run(main)",
        )
    )
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(
                    trio.run_process, [sys.executable, "-c", program, postgres_url, str(schema)]
                )
    async with open_store(postgres_url, schema=schema) as store:
        assert await store.read(extras) == [1, 2]


def test_migration_numbers_with_gap_or_duplicate_are_refused(schema: Path) -> None:
    file = add(schema, "second", "SELECT 1;")
    beyond = file.with_name("9999_beyond.sql")
    file.rename(beyond)
    with pytest.raises(ValueError, match="without gap"):
        load(schema, "sqlite")
    beyond.rename(schema / "0001_again.sql")
    with pytest.raises(ValueError, match="without gap"):
        load(schema, "sqlite")


def test_migration_script_is_split_between_statements() -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO b VALUES (';'); SELECT 1; END;"
    assert [part.strip() for part in statements(f"SELECT 1;\n{trigger}\n-- the end; really\nSELECT 2")] == [
        "SELECT 1;",
        trigger,
        "-- the end; really\nSELECT 2;",
    ]
    assert [part.strip() for part in statements("SELECT 1; -- done")] == ["SELECT 1;"]


async def test_schema_both_engines_have_the_same_columns(sqlite_url: str, postgres_url: str) -> None:
    async def sqlite_columns(connection: Connection) -> list[tuple[str, str]]:
        rows = await connection.all(
            "SELECT tables.name, columns.name FROM sqlite_schema AS tables"
            " JOIN pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
            " AND tables.name <> 'latency_bounds'"  # for the trigger
        )
        return sorted(map(tuple, rows))

    async def postgres_columns(connection: Connection) -> list[tuple[str, str]]:
        rows = await connection.all(
            "SELECT table_name::text, column_name::text FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        )
        return sorted(map(tuple, rows))

    async with open_store(sqlite_url) as sqlite, open_store(postgres_url) as postgres:
        assert await sqlite.read(sqlite_columns) == await postgres.read(postgres_columns)


KILLED_AT = """
import os, pathlib, signal, sys, trio
from storage.store import open_store

folder, last, seen = os.path.dirname(sys.argv[1].removeprefix("sqlite://")), int(sys.argv[3]), 0

def watch(event, values):
    # Each file that is opened, renamed, linked, removed or synced is a step.
    global seen
    if event in ("open", "os.rename", "os.link", "os.remove", "sqlite3.connect") and folder in str(values[0]):
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with open_store(sys.argv[1], schema=pathlib.Path(sys.argv[2])):
        pass

sys.addaudithook(watch)
trio.run(main)
"""


@pytest.mark.process
async def test_upgrade_killed_at_each_step_is_finished_by_the_next_start(
    tmp_path: Path, schema: Path
) -> None:
    old = tmp_path / "old.db"
    async with open_store(f"sqlite://{old}", schema=schema) as store:
        await store.write(put_setting, "a", "1")
    file, schemas = add(schema, "second", SECOND), set()
    for step in range(1, 100):
        folder = tmp_path / f"step-{step}"
        folder.mkdir()
        path = folder / "gateway.db"
        shutil.copy(old, path)
        command = [sys.executable, "-c", KILLED_AT, f"sqlite://{path}", str(schema), str(step)]
        done = await trio.run_process(command, check=False)
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            schemas.add(raw.execute("SELECT max(version) FROM schema_migrations").fetchone()[0])
        async with open_store(f"sqlite://{path}", schema=schema) as store:
            assert await store.read(extras) == [1, 2]
            assert await store.read(names) == ["a"]
        left = {entry.name.removeprefix("gateway.db") for entry in folder.iterdir()}
        assert left == {"", ".lock", f".schema-{int(file.name[:4]) - 1}"}
        if done.returncode == 0:
            break
    assert step > 10 and schemas == {1, 2}


KILLED_IN_CALL = """
import asyncio, os, pathlib, signal, sys, asyncpg, trio
from storage.store import open_store

calls, last = 0, int(sys.argv[3])

def pass_point():
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)

def watched(function):
    # Before a statement is sent, when the server has it, and after its answer.
    async def call(*args, **more):
        pass_point()
        answer = asyncio.ensure_future(function(*args, **more))
        await asyncio.sleep(0)
        pass_point()
        result = await answer
        pass_point()
        return result
    return call

for name in ("execute", "fetch", "close"):
    setattr(asyncpg.Connection, name, watched(getattr(asyncpg.Connection, name)))

async def main():
    async with open_store(sys.argv[1], connections=0, schema=pathlib.Path(sys.argv[2])):
        pass

trio.run(main)
"""


@pytest.mark.process
async def test_postgres_upgrade_killed_at_each_step_is_finished_by_the_next_start(
    postgres: PostgresServer, schema: Path
) -> None:
    old, kept = postgres.create_database(), []
    async with open_store(old, schema=schema) as store:
        await store.write(put_setting, "a", "1")
    add(schema, "second", SECOND)
    add(schema, "third", "ALTER TABLE extra ADD COLUMN more INTEGER NOT NULL DEFAULT 1")
    for step in range(1, 100):
        url = postgres.copy_database(old)
        command = [sys.executable, "-c", KILLED_IN_CALL, url, str(schema), str(step)]
        done = await trio.run_process(command, check=False)
        waiting = (await plan_schema(url, seconds=60.0, schema=schema)).pending
        kept.append(len(waiting))
        async with open_store(url, schema=schema) as store:
            assert await store.read(extras) == [1, 2]
            assert await store.read(names) == ["a"]
        postgres.drop_database(url)
        if done.returncode == 0:
            break
    assert step > 20 and set(kept) == {0, 2}, "each kill left all migrations, or none"


async def test_upgrade_that_fails_leaves_the_file_as_it_was(
    sqlite_url: str, sqlite_path: Path, schema: Path
) -> None:
    async with open_store(sqlite_url, schema=schema) as store:
        await store.write(put_setting, "a", "1")
    before = await trio.Path(sqlite_path).read_bytes()
    add(schema, "second", SECOND.replace("(2)", "(1)"))
    with pytest.raises(StorageError):
        async with open_store(sqlite_url, schema=schema):
            pass
    assert await trio.Path(sqlite_path).read_bytes() == before


async def test_plan_names_pending_migrations_and_changes_nothing(url: str, schema: Path) -> None:
    new = await plan_schema(url, seconds=5.0, schema=schema)
    assert (new.schema, [one.name for one in new.pending], new.snapshot) == (0, ["initial"], None)
    async with open_store(url, schema=schema):
        pass
    done = await plan_schema(url, seconds=5.0, schema=schema)
    assert (done.schema, done.pending) == (1, ())
    add(schema, "second", SECOND)
    plan = await plan_schema(url, seconds=5.0, schema=schema)
    assert (plan.engine, plan.schema, [one.name for one in plan.pending]) == (
        "sqlite" if url.startswith("sqlite") else "postgres",
        1,
        ["second"],
    )
    assert (plan.snapshot is not None) == (plan.bytes > 0) == url.startswith("sqlite")
    assert (await plan_schema(url, seconds=5.0, schema=schema)) == plan


async def test_rollback_restores_the_snapshot_and_keeps_the_file(
    sqlite_url: str, sqlite_path: Path, schema: Path
) -> None:
    async with open_store(sqlite_url, schema=schema) as store:
        await store.write(put_setting, "a", "1")
    with pytest.raises(SnapshotMissing):
        await roll_back_sqlite(sqlite_path, discard=False)
    add(schema, "second", SECOND)
    async with open_store(sqlite_url, schema=schema) as store:
        await store.write(put_setting, "b", "2")
    done = await roll_back_sqlite(sqlite_path, discard=False)
    assert (done.schema, done.lost) == (1, {})
    async with open_store(sqlite_url) as store:
        assert await store.read(names) == ["a"]
    async with open_store(f"sqlite://{done.kept}", schema=schema) as store:
        assert await store.read(names) == ["a", "b"]


async def test_second_rollback_keeps_the_file_of_the_first(
    sqlite_url: str, sqlite_path: Path, schema: Path
) -> None:
    async with open_store(sqlite_url, schema=schema):
        pass
    add(schema, "second", SECOND)
    kept = []
    for name in ("a", "b"):
        async with open_store(sqlite_url, schema=schema) as store:
            await store.write(put_setting, name, "1")
        kept.append((await roll_back_sqlite(sqlite_path, discard=False)).kept)
    assert kept == [Path(f"{sqlite_path}.rolled-back-2"), Path(f"{sqlite_path}.rolled-back-2.2")]
    for path, name in zip(kept, ("a", "b"), strict=True):
        async with open_store(f"sqlite://{path}", schema=schema) as store:
            assert await store.read(names) == [name]


async def test_rollback_that_would_lose_requests_is_refused_unless_asked_for(
    sqlite_url: str, sqlite_path: Path, schema: Path
) -> None:
    async with open_store(sqlite_url, schema=schema):
        pass
    add(schema, "second", SECOND)
    async with open_store(sqlite_url, schema=schema) as store:
        await store.write(insert_batch, [usage(1), usage(2)])
        with pytest.raises(StorageError, match="in use"):
            await roll_back_sqlite(sqlite_path, discard=True)
    with pytest.raises(WouldLoseRows, match="2 of usage"):
        await roll_back_sqlite(sqlite_path, discard=False)
    done = await roll_back_sqlite(sqlite_path, discard=True)
    assert done.lost == {"usage": 2}


async def test_rollback_that_would_lose_requests_is_refused_although_old_ones_are_deleted(
    sqlite_url: str, sqlite_path: Path, schema: Path
) -> None:
    async with open_store(sqlite_url, schema=schema) as store:
        await store.write(insert_batch, [usage(1), usage(2), usage(3)])
    add(schema, "second", SECOND)
    async with open_store(sqlite_url, schema=schema) as store:
        assert await store.write(delete_usage, NOON + 1, 2) == 2
        await store.write(insert_batch, [usage(4)])
    with pytest.raises(WouldLoseRows, match="1 of usage"):
        await roll_back_sqlite(sqlite_path, discard=False)


async def test_upgrade_and_rollback_of_a_linked_file_keep_the_link(
    tmp_path: Path, sqlite_url: str, sqlite_path: Path, schema: Path
) -> None:
    async with open_store(sqlite_url, schema=schema) as store:
        await store.write(put_setting, "a", "1")
    link, snapshot = tmp_path / "link.db", sqlite_path.with_name(f"{sqlite_path.name}.schema-1")
    link.symlink_to(sqlite_path)
    add(schema, "second", SECOND)
    async with open_store(f"sqlite://{link}", schema=schema) as store:
        await store.write(put_setting, "b", "2")
    assert link.is_symlink()
    assert snapshot.exists()
    async with open_store(sqlite_url, schema=schema) as store:
        assert await store.read(names) == ["a", "b"]
    done = await roll_back_sqlite(link, discard=False)
    assert link.is_symlink() and done.kept == Path(f"{sqlite_path}.rolled-back-2")
    async with open_store(sqlite_url) as store:
        assert await store.read(names) == ["a"]
