"""Receipts are written with the usage rows, and deleted by age."""

import pytest

from storage import Store
from storage.receipts import ReceiptRow, delete_receipts, select_receipt
from storage.usage import insert_batch, select_usage
from tests.storage.samples import NOON, all_usage, usage, uuid7


async def test_receipts_are_committed_with_their_rows(store: Store) -> None:
    rows = [usage(serial) for serial in range(3)]
    receipts = [ReceiptRow(row.id, row.at, f'{{"policy":"größe {row.id}"}}') for row in rows[:2]]
    await store.write(insert_batch, rows, receipts)
    for row, receipt in zip(rows, receipts, strict=False):
        assert await store.read(select_receipt, row.id) == receipt
        assert await store.read(select_usage, row.at, row.id) == row
    assert await store.read(select_receipt, rows[2].id) is None
    assert await store.read(select_usage, NOON, uuid7(serial=9)) is None
    await store.write(insert_batch, rows, receipts)  # a repeated batch changes nothing
    assert len(await store.read(all_usage)) == 3


async def test_receipts_below_an_id_are_deleted_in_batches(store: Store) -> None:
    rows = [usage(serial, at=NOON + serial) for serial in range(5)]
    await store.write(insert_batch, rows, [ReceiptRow(row.id, row.at, "{}") for row in rows])
    below = rows[3].id
    assert await store.write(delete_receipts, below, 2) == 2
    assert await store.write(delete_receipts, below, 2) == 1
    assert await store.write(delete_receipts, below, 2) == 0
    left = [row.id for row in rows if await store.read(select_receipt, row.id) is not None]
    assert left == [rows[3].id, rows[4].id]


@pytest.mark.parametrize("receipts", [0, 1])
async def test_batch_without_rows_changes_nothing(store: Store, receipts: int) -> None:
    await store.write(insert_batch, [], [ReceiptRow("a", 0, "{}")] * receipts)
    assert await store.read(select_receipt, "a") is None
