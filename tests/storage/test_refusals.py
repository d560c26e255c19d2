"""Whose fault a failed write is: the value's, or the database's."""

from dataclasses import replace

import pytest

from storage import BadValue, Connection, StorageError, StorageUnavailable, open_store
from storage.settings import put_setting
from storage.usage import insert_batch
from tests.storage.samples import usage

BAD = [
    {"duration_ms": 2**70},
    {"model": "\ud800"},
    {"status": None},
]


@pytest.mark.parametrize("fields", BAD, ids=repr)
async def test_a_value_that_does_not_fit_is_the_values_fault(url: str, fields: dict[str, object]) -> None:
    async with open_store(url) as store:
        with pytest.raises(BadValue):
            await store.write(insert_batch, [replace(usage(1), **fields)])  # type: ignore[arg-type]
        await store.write(insert_batch, [usage(1)])


async def test_a_table_that_is_gone_is_the_databases_fault(url: str) -> None:
    async def rename(connection: Connection) -> None:
        await connection.execute("ALTER TABLE usage RENAME TO away")

    async with open_store(url) as store:
        await store.write(rename)
        with pytest.raises(StorageError) as caught:
            await store.write(insert_batch, [usage(1)])
        assert not isinstance(caught.value, BadValue | StorageUnavailable)


async def test_a_database_that_becomes_read_only_is_the_databases_fault(postgres_url: str) -> None:
    """As after a failover to a replica."""

    async def freeze(connection: Connection) -> None:
        await connection.execute("SET default_transaction_read_only = on")

    async with open_store(postgres_url, connections=1) as store:
        await store.write(freeze)
        with pytest.raises(StorageError) as caught:
            await store.write(put_setting, "a", "1")
        assert not isinstance(caught.value, BadValue)
