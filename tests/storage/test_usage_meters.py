"""Sums of the two meters, on both engines."""

from dataclasses import replace

from storage import Store
from storage.usage import DAY, insert_batch
from storage.usage_meters import MeterRow, select_meters
from storage.usage_retention import delete_sums
from tests.storage.samples import NOON, usage

START = NOON - NOON % DAY


async def test_meters_sum_what_both_have_counted(store: Store) -> None:
    both = {"own_input_tokens": 9, "own_output_tokens": 18}
    rows = [
        replace(usage(1), **both, reported_cost_nano=6),
        replace(usage(2), **both, reported_cost_nano=0),
        replace(usage(3), **both),
        replace(usage(4, cost_nano=None), **both, reported_cost_nano=7),
        replace(usage(5, cost_nano=1500), reported_cost_nano=1100, markup=5000),
        replace(usage(6), **both, reasoning_tokens=4),
        replace(usage(7), **both, usage_source="estimated", quarantine="too_large", reported_cost_nano=9),
        replace(usage(8), **both, model="large"),
        replace(usage(9, at=NOON + DAY), own_input_tokens=2, own_output_tokens=0, output_tokens=0),
        usage(10),
    ]
    await store.write(insert_batch, rows)
    await store.write(insert_batch, rows[:2])  # counted once
    small = MeterRow("small", "alpha", 5, 45, 50, 72, 80, 3, 1010, 1106, 1)
    large = MeterRow("large", "alpha", 1, 9, 10, 18, 20, 0, 0, 0, 0)
    assert await store.read(select_meters, START, START + DAY) == [large, small]
    assert await store.read(select_meters, START, START + DAY, "large") == [large]
    assert await store.read(select_meters, START, START + DAY, "", "beta") == []
    later = MeterRow("small", "alpha", 1, 2, 10, 0, 0, 0, 0, 0, 0)
    assert await store.read(select_meters, START + DAY, START + 2 * DAY) == [later]


async def test_old_meters_are_deleted_with_the_sums_of_their_day(store: Store) -> None:
    await store.write(insert_batch, [replace(usage(1), own_input_tokens=1, own_output_tokens=1)])
    await store.write(delete_sums, "usage_meters", START, 9)
    assert len(await store.read(select_meters, 0, START + DAY)) == 1
    await store.write(delete_sums, "usage_meters", START + 1, 9)
    assert await store.read(select_meters, 0, START + DAY) == []
