import json
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import Connection, StorageError, Store
from storage.latency import LOWS
from storage.quotas import SELECT_RECENT, QuotaRow, RecentUse, select_quota, select_recent
from storage.store import open_store
from storage.usage import (
    DAY,
    HOUR,
    UsageRow,
    insert_batch,
)
from tests.storage.samples import NOON, all_usage, usage
from tests.storage.store_thread import StoreThread

ROWS = st.builds(
    usage,
    st.integers(0, 30),
    # two days, their borders, and a time that makes equal serials different rows
    at=st.sampled_from([NOON, NOON + 1, NOON - 12 * HOUR, NOON - 12 * HOUR - 1, NOON + HOUR]),
    key_id=st.sampled_from(["", "key-1", "key-2"]),
    user_id=st.sampled_from(["user-1", "user-2"]),
    model=st.sampled_from(["small", "lärge", ""]),
    outcome=st.sampled_from(["ok", "client_gone", "stopped", "upstream_error", "cut"]),
    input_tokens=st.none() | st.integers(0, 10**12),
    output_tokens=st.none() | st.just(0) | st.just(20),
    images=st.none() | st.integers(0, 10),
    audio_ms=st.none() | st.integers(0, 10**12),
    characters=st.none() | st.integers(0, 10**12),
    duration_ms=st.sampled_from([0, 1, 100, 107, 108, 2**22, 10**9]),
    first_byte_ms=st.none() | st.sampled_from([0, 4, 7]),
    cost_nano=st.none() | st.integers(0, 10**12),
    day=st.sampled_from(["2026-12-31", "2027-01-14", "2027-01-15"]),
)
BATCHES = st.lists(st.lists(ROWS, max_size=20), max_size=5)


async def clear(connection: Connection) -> None:
    await connection.execute("DELETE FROM usage")
    await connection.execute("DELETE FROM usage_hourly")
    await connection.execute("DELETE FROM usage_daily")
    await connection.execute("DELETE FROM usage_site_hourly")
    await connection.execute("DELETE FROM usage_site_daily")
    await connection.execute("DELETE FROM usage_key_daily")
    await connection.execute("DELETE FROM quota_counters")


async def totals(connection: Connection, bucket: int) -> list[Any]:
    table = (
        "SELECT bucket_start, key_id, user_id, model, server, requests, errors, input_tokens,"
        " output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens,"
        " audio_output_tokens, image_input_tokens, image_output_tokens, images, audio_ms, characters,"
        " duration_ms, cost_nano, unpriced, durations, first_bytes FROM {} ORDER BY 1, 2, 3, 4, 5"
    )
    name = "usage_hourly" if bucket == HOUR else "usage_daily"
    rows = [tuple(row) for row in await connection.all(table.format(name))]
    return [(*row[:-2], *map(histogram, row[-2:])) for row in rows]


async def site_totals(connection: Connection, bucket: int) -> list[Any]:
    table = (
        "SELECT bucket_start, model, server, requests, errors, cost_nano, durations FROM {} ORDER BY 1, 2, 3"
    )
    name = "usage_site_hourly" if bucket == HOUR else "usage_site_daily"
    rows = await connection.all(table.format(name))
    return [(*row[:-1], histogram(row[-1])) for row in rows]


async def key_totals(connection: Connection) -> list[Any]:
    rows = await connection.all(
        "SELECT bucket_start, key_id, user_id, requests, errors, input_tokens, output_tokens, cost_nano"
        " FROM usage_key_daily ORDER BY 1, 2, 3"
    )
    return [tuple(row) for row in rows]


def histogram(text: str) -> dict[int, int]:
    return {int(low): count for low, count in json.loads(text).items()}


def low_of(time: int) -> int:
    return max(low for low in LOWS if low <= time)


def summed_by_key(rows: list[UsageRow]) -> list[Any]:
    found: dict[tuple[Any, ...], list[UsageRow]] = {}
    for row in rows:
        found.setdefault((row.at // DAY * DAY, row.key_id, row.user_id), []).append(row)
    return [
        (
            *group,
            len(mine),
            sum(row.outcome not in ("ok", "client_gone", "stopped") for row in mine),
            sum(row.input_tokens or 0 for row in mine),
            sum(row.output_tokens or 0 for row in mine),
            sum(row.cost_nano or 0 for row in mine),
        )
        for group, mine in sorted(found.items())
    ]


def summed_for_site(rows: list[UsageRow], bucket: int) -> list[Any]:
    found: dict[tuple[Any, ...], list[UsageRow]] = {}
    for row in rows:
        found.setdefault((row.at // bucket * bucket, row.model, row.server), []).append(row)
    return [
        (
            *group,
            len(mine),
            sum(row.outcome not in ("ok", "client_gone", "stopped") for row in mine),
            sum(row.cost_nano or 0 for row in mine),
            Counter(low_of(row.duration_ms) for row in mine),
        )
        for group, mine in sorted(found.items())
    ]


def summed(rows: list[UsageRow], bucket: int) -> list[Any]:
    """The roll-up as plain arithmetic over the log."""
    sums: dict[tuple[object, ...], list[int]] = {}
    for row in rows:
        group = (row.at // bucket * bucket, row.key_id, row.user_id, row.model, row.server)
        total = sums.setdefault(group, [0] * 17)
        addends = (
            1,
            row.outcome not in ("ok", "client_gone", "stopped"),
            row.input_tokens or 0,
            row.output_tokens or 0,
            row.cache_read_tokens or 0,
            row.cache_write_tokens or 0,
            row.reasoning_tokens or 0,
            row.audio_input_tokens or 0,
            row.audio_output_tokens or 0,
            row.image_input_tokens or 0,
            row.image_output_tokens or 0,
            row.images or 0,
            row.audio_ms or 0,
            row.characters or 0,
            row.duration_ms,
            row.cost_nano or 0,
            row.cost_nano is None
            and any((row.input_tokens, row.output_tokens, row.images, row.audio_ms, row.characters)),
        )
        for position, addend in enumerate(addends):
            total[position] += addend
    return [(*group, *total, *histograms(rows, bucket, group)) for group, total in sums.items()]


def histograms(rows: list[UsageRow], bucket: int, group: tuple[object, ...]) -> list[Counter[int]]:
    mine = [
        row
        for row in rows
        if (row.at // bucket * bucket, row.key_id, row.user_id, row.model, row.server) == group
    ]
    first = Counter(low_of(row.first_byte_ms) for row in mine if row.first_byte_ms is not None)
    return [Counter(low_of(row.duration_ms) for row in mine), first]


def counted(rows: list[UsageRow], subject: str) -> QuotaRow | None:
    """The counters of a key or user as plain arithmetic over the log."""
    mine = [row for row in rows if subject in (f"key:{row.key_id}", f"user:{row.user_id}")]
    if not mine:
        return None
    day, month = max(row.day for row in mine), max(row.month for row in mine)

    def sums(chosen: list[UsageRow]) -> tuple[int, int]:
        tokens = sum((row.input_tokens or 0) + (row.output_tokens or 0) for row in chosen)
        return tokens, sum(row.cost_nano or 0 for row in chosen)

    of_day = sums([row for row in mine if row.day == day])
    of_month = sums([row for row in mine if row.month == month])
    return QuotaRow(subject, day, *of_day, month, *of_month, *sums(mine))


@settings(max_examples=40)
@given(batches=BATCHES, again=st.data())
def test_usage_repeated_batches_are_summed_once(
    thread: StoreThread, batches: list[list[UsageRow]], again: st.DataObject
) -> None:
    first = {(row.at, row.id): row for batch in reversed(batches) for row in reversed(batch)}
    repeated = again.draw(st.permutations(batches))
    mixed = again.draw(st.lists(st.sampled_from(sorted(first.values(), key=astuple_key)))) if first else []

    async def check(store: Store) -> None:
        await store.write(clear)
        for batch in [*batches, *repeated, mixed]:
            await store.write(insert_batch, batch)
        rows = await store.read(all_usage)
        assert {(row.at, row.id): row for row in rows} == first
        for bucket in (HOUR, DAY):
            found = sorted(await store.read(totals, bucket), key=lambda row: row[:5])
            assert found == sorted(summed(rows, bucket), key=lambda row: row[:5])
        for bucket in (HOUR, DAY):
            of_site = sorted(await store.read(site_totals, bucket), key=lambda row: row[:3])
            assert of_site == summed_for_site(rows, bucket)
        assert sorted(await store.read(key_totals), key=lambda row: row[:3]) == summed_by_key(rows)
        assert await store.read(select_quota, "key:") is None
        for subject in ("key:key-1", "key:key-2", "user:user-1", "user:user-2"):
            assert await store.read(select_quota, subject) == counted(rows, subject)

    thread.call(check, thread.store)


def astuple_key(row: UsageRow) -> tuple[int, str]:
    return (row.at, row.id)


async def test_usage_batch_with_invalid_row_is_rolled_back(store: Store) -> None:
    with pytest.raises(StorageError):
        await store.write(insert_batch, [usage(1), replace(usage(2), model="\ud800")])
    assert await store.read(all_usage) == []
    assert await store.read(totals, DAY) == []


async def test_usage_inserted_is_read_back(store: Store) -> None:
    row = usage(1)
    await store.write(insert_batch, [row])
    (back,) = await store.read(all_usage)
    assert (back, type(back.streamed)) == (row, bool)


async def test_usage_of_keys_since_a_time_is_summed(store: Store) -> None:
    second = NOON // 1000
    await store.write(
        insert_batch,
        [
            usage(1, at=NOON - 60_000, duration_ms=0),
            usage(2, at=NOON - 90_000, duration_ms=30_001),
            usage(3, at=NOON - 59_000, duration_ms=999, input_tokens=None),
            usage(4, at=NOON - 120_000, duration_ms=120_000),
            usage(5, at=NOON, key_id="key-2", duration_ms=0),
            usage(6, at=NOON + 60_000, key_id="key-2", duration_ms=0),
            usage(7, at=NOON + 60_001),
            usage(8, at=NOON, key_id=""),
        ],
    )
    recent = partial(select_recent, within=60_000, longest=60_000)
    assert await store.read(recent, NOON) == [
        RecentUse("key-1", "user-1", second - 60, 1, 30),
        RecentUse("key-1", "user-1", second - 59, 1, 20),
        RecentUse("key-2", "user-1", second, 1, 30),
        RecentUse("key-2", "user-1", second + 60, 1, 30),
    ]
    longer = partial(select_recent, within=60_000, longest=60_001)
    assert RecentUse("key-1", "user-1", second, 1, 30) in await store.read(longer, NOON)


async def test_usage_queries_use_an_index(sqlite_url: str) -> None:
    async def plans(connection: Connection) -> list[str]:
        found = await connection.all("EXPLAIN QUERY PLAN" + SELECT_RECENT, since=0, until=1, ended=0)
        return [row[3] for row in found if "usage" in row[3]]

    async with open_store(sqlite_url) as store:
        steps = await store.read(plans)
    assert all(step.startswith("SEARCH") for step in steps), steps
