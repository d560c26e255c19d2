"""kill -9 at random moments: acknowledged rows are not lost, and no transaction is split."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from storage import Connection
from storage.migrate import load, shipped
from storage.store import open_store
from storage.usage import insert_batch
from tests.gateways import eventually
from tests.storage.samples import all_usage, usage

pytestmark = pytest.mark.process
ROUNDS = 20


async def check(connection: Connection) -> tuple[object, object, object, set[int]]:
    rows = await all_usage(connection)
    return (
        await connection.value("PRAGMA integrity_check"),
        await connection.value("SELECT sum(requests) FROM usage_hourly"),
        await connection.value("SELECT sum(requests) FROM usage_daily"),
        {int(row.request_id.removeprefix("request-")) for row in rows},
    )


async def kill_while_writing(url: str, witness: Path, first: int, size: int) -> None:
    """Start the writer, wait until it has written `size` bytes of acknowledgements, kill it."""
    enough = size + len(witness.read_bytes())  # noqa: ASYNC240 - a small local file
    command = [sys.executable, "-m", "tests.storage.writer", url, str(witness), str(first)]
    writer = await trio.lowlevel.open_process(command)

    def has_written() -> bool:
        assert writer.poll() is None, "the writer failed"
        return len(witness.read_bytes()) >= enough

    try:
        await eventually(has_written, 60)
    finally:
        writer.kill()
        with trio.CancelScope(shield=True):
            await writer.wait()


async def test_usage_writer_is_killed_each_acknowledged_row_counts_once(
    sqlite_url: str, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    witness.touch()
    rng = random.Random(ROUNDS)  # noqa: S311
    for turn in range(ROUNDS):
        await kill_while_writing(sqlite_url, witness, turn * 1_000_000, rng.randrange(1, 3000))
        acknowledged = {int(line) for line in witness.read_text().splitlines()}
        async with open_store(sqlite_url) as store:
            integrity, hourly, daily, logged = await store.read(check)
        assert integrity == "ok"
        assert acknowledged <= logged
        assert hourly == daily == len(logged)
    assert len(acknowledged) > ROUNDS


def test_migration_is_killed_finishes_at_the_next_start(tmp_path: Path) -> None:
    """Two steps over some rows are killed at random moments."""
    schema = tmp_path / "schema"
    schema.mkdir()
    for file in shipped().iterdir():
        if file.name.endswith(".sqlite.sql"):
            (schema / file.name).write_bytes(file.read_bytes())
    old = tmp_path / "old.db"
    trio.run(fill, f"sqlite://{old}")
    first = len(load(schema, "sqlite")) + 1
    (schema / f"{first:04}_copy.sql").write_text("CREATE TABLE copy_1 AS SELECT * FROM usage;")
    second = "CREATE TABLE copy_2 AS SELECT * FROM copy_1; DROP TABLE copy_1;"
    (schema / f"{first + 1:04}_copy.sql").write_text(second)
    rng = random.Random(ROUNDS)  # noqa: S311
    longest = 0.5  # seconds; the time of a migration on this machine
    for turn in range(ROUNDS):
        path = tmp_path / f"copy-{turn}.db"
        shutil.copy(old, path)
        with subprocess.Popen([sys.executable, "-c", OPEN, f"sqlite://{path}", schema]) as opener:
            try:
                opener.wait(timeout=rng.uniform(0, longest))
            except subprocess.TimeoutExpired:
                opener.kill()
        began = time.monotonic()
        copied = trio.run(finish, f"sqlite://{path}", schema)
        longest = max(longest, time.monotonic() - began)
        assert copied == ("ok", 2000, 2000, first + 1)


OPEN = """
import pathlib, sys, trio
from storage.store import open_store

async def main():
    async with open_store(sys.argv[1], schema=pathlib.Path(sys.argv[2])):
        pass

trio.run(main)
"""


async def fill(url: str) -> None:
    async with open_store(url) as store:
        await store.write(insert_batch, [usage(serial) for serial in range(2000)])


async def finish(url: str, schema: Path) -> tuple[object, ...]:
    async def look(connection: Connection) -> tuple[object, ...]:
        return (
            await connection.value("PRAGMA integrity_check"),
            await connection.value("SELECT count(*) FROM usage"),
            await connection.value("SELECT count(*) FROM copy_2"),
            await connection.value("SELECT max(version) FROM schema_migrations"),
        )

    async with open_store(url, schema=schema) as store:
        return await store.read(look)
