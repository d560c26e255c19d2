from pathlib import Path

from storage import open_store
from storage.settings import put_setting
from tests.storage.samples import Pair, names, put_pairs

MEGABYTES = 8


def size(path: Path) -> int:
    return path.stat().st_size


def copied(path: Path) -> Path:
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    return copy


async def test_only_the_first_to_open_a_file_checkpoints(sqlite_url: str, sqlite_path: Path) -> None:
    """The WAL grows past every threshold until the first one writes."""
    large = [Pair(str(serial), "x" * 2**20) for serial in range(MEGABYTES)]
    async with open_store(sqlite_url) as first, open_store(sqlite_url) as second:
        await second.write(put_pairs, large)
        await second.write(put_setting, "a", "1")
        assert size(sqlite_path) < 2**20
        await first.write(put_setting, "b", "1")
        assert size(sqlite_path) > MEGABYTES * 2**20


async def test_a_closed_store_leaves_one_plain_file(sqlite_url: str, sqlite_path: Path) -> None:
    """Everything is checkpointed, so the file alone can be copied."""
    async with open_store(sqlite_url) as store:
        await store.write(put_setting, "a", "1")
    assert not list(sqlite_path.parent.glob("gateway.db-*"))
    async with open_store(f"sqlite://{copied(sqlite_path)}") as store:
        assert await store.read(names) == ["a"]
