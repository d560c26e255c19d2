"""Failed writes: invalid values and database errors are distinguished."""

from dataclasses import replace

import pytest

from storage import BadValue, Connection, StorageError, StorageUnavailable
from storage.settings import put_setting
from storage.store import open_store
from storage.usage import insert_batch
from tests.storage.samples import usage

BAD = [
    {"duration_ms": 2**70},
    {"model": "\ud800"},
    {"status": None},
]


@pytest.mark.parametrize("fields", BAD, ids=repr)
async def test_write_value_does_not_fit_raises_bad_value(url: str, fields: dict[str, object]) -> None:
    async with open_store(url) as store:
        with pytest.raises(BadValue):
            await store.write(insert_batch, [replace(usage(1), **fields)])  # type: ignore[arg-type]
        await store.write(insert_batch, [usage(1)])


async def test_write_table_is_missing_raises_no_value_error(url: str) -> None:
    async def rename(connection: Connection) -> None:
        await connection.execute("ALTER TABLE usage RENAME TO away")

    async with open_store(url) as store:
        await store.write(rename)
        with pytest.raises(StorageError) as caught:
            await store.write(insert_batch, [usage(1)])
        assert not isinstance(caught.value, BadValue | StorageUnavailable)


async def test_write_database_is_read_only_raises_no_value_error(postgres_url: str) -> None:
    """For example after a failover to a replica."""

    async def freeze(connection: Connection) -> None:
        await connection.execute("SET default_transaction_read_only = on")

    async with open_store(postgres_url, connections=1) as store:
        await store.write(freeze)
        with pytest.raises(StorageError) as caught:
            await store.write(put_setting, "a", "1")
        assert not isinstance(caught.value, BadValue)
