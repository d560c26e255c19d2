from pathlib import Path

import pytest

from storage import StorageError, StorageUnavailable
from storage.settings import put_setting
from storage.store import open_store
from tests.storage.samples import names

MEGABYTES = 8


def size(path: Path) -> int:
    return path.stat().st_size


def copied(path: Path) -> Path:
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    return copy


def open_files() -> list[Path]:
    return [entry.resolve() for entry in Path("/proc/self/fd").iterdir()]


async def test_sqlite_second_opener_is_refused_until_the_first_closes(
    sqlite_url: str, sqlite_path: Path
) -> None:
    async with open_store(sqlite_url) as first:
        with pytest.raises(StorageError, match=r"in use.*one process at a time") as caught:
            async with open_store(sqlite_url):
                pass
        assert not isinstance(caught.value, StorageUnavailable)
        assert str(sqlite_path) in str(caught.value)
        await first.write(put_setting, "a", "1")
    async with open_store(sqlite_url) as second:
        assert await second.read(names) == ["a"]


async def test_sqlite_write_ahead_log_stays_small(sqlite_url: str, sqlite_path: Path) -> None:
    large = "x" * 2**20
    async with open_store(sqlite_url) as store:
        for serial in range(4 * MEGABYTES):
            await store.write(put_setting, str(serial), large)
        assert size(sqlite_path.with_name("gateway.db-wal")) < MEGABYTES * 2**20
        assert size(sqlite_path) > MEGABYTES * 2**20


async def test_sqlite_closed_store_leaves_one_file(sqlite_url: str, sqlite_path: Path) -> None:
    """Everything is checkpointed, so the file alone can be copied."""
    async with open_store(sqlite_url) as store:
        await store.write(put_setting, "a", "1")
    assert not list(sqlite_path.parent.glob("gateway.db-*"))
    async with open_store(f"sqlite://{copied(sqlite_path)}") as store:
        assert await store.read(names) == ["a"]


async def test_sqlite_short_reads_share_one_connection(sqlite_url: str, sqlite_path: Path) -> None:
    async with open_store(sqlite_url) as store:
        for _ in range(10):
            await store.read(names)
        assert open_files().count(sqlite_path) == 2  # one writes
