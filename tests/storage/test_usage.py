from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import Connection, StorageError, Store, open_store
from storage.quotas import SELECT_RECENT, QuotaRow, RecentUse, select_quota, select_recent
from storage.usage import (
    DAY,
    HOUR,
    LATEST,
    SUM_DAYS,
    SUM_DAYS_OF_USER,
    SUM_HOURS,
    SUM_HOURS_OF_USER,
    StatsQuery,
    StatsRow,
    UsageRow,
    insert_batch,
    select_page,
    select_stats,
)
from tests.storage.samples import NOON, usage

ROWS = st.builds(
    usage,
    st.integers(0, 30),
    # two days, their borders, and a time that makes equal serials different rows
    at=st.sampled_from([NOON, NOON + 1, NOON - 12 * HOUR, NOON - 12 * HOUR - 1, NOON + HOUR]),
    key_id=st.sampled_from(["", "key-1", "key-2"]),
    user_id=st.sampled_from(["user-1", "user-2"]),
    model=st.sampled_from(["small", "lärge", ""]),
    outcome=st.sampled_from(["ok", "client_gone", "upstream_error", "cut"]),
    input_tokens=st.none() | st.integers(0, 10**12),
    output_tokens=st.none() | st.just(0) | st.just(20),
    images=st.none() | st.integers(0, 10),
    audio_ms=st.none() | st.integers(0, 10**12),
    characters=st.none() | st.integers(0, 10**12),
    duration_ms=st.integers(0, 10**9),
    cost_nano=st.none() | st.integers(0, 10**12),
    day=st.sampled_from(["2026-12-31", "2027-01-14", "2027-01-15"]),
)
BATCHES = st.lists(st.lists(ROWS, max_size=20), max_size=5)


async def clear(connection: Connection) -> None:
    await connection.execute("DELETE FROM usage")
    await connection.execute("DELETE FROM usage_hourly")
    await connection.execute("DELETE FROM usage_daily")
    await connection.execute("DELETE FROM quota_counters")


async def totals(connection: Connection, bucket: int) -> list[Any]:
    table = (
        "SELECT bucket_start, key_id, user_id, model, server, requests, errors, input_tokens,"
        " output_tokens, cache_read_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens,"
        " audio_output_tokens, image_input_tokens, image_output_tokens, images, audio_ms, characters,"
        " duration_ms, cost_nano, unpriced FROM {} ORDER BY 1, 2, 3, 4, 5"
    )
    name = "usage_hourly" if bucket == HOUR else "usage_daily"
    return [tuple(row) for row in await connection.all(table.format(name))]


def summed(rows: list[UsageRow], bucket: int) -> list[Any]:
    """The roll-up as plain arithmetic over the log."""
    sums: dict[tuple[object, ...], list[int]] = {}
    for row in rows:
        group = (row.at // bucket * bucket, row.key_id, row.user_id, row.model, row.server)
        total = sums.setdefault(group, [0] * 17)
        addends = (
            1,
            row.outcome not in ("ok", "client_gone"),
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
    return sorted((*group, *total) for group, total in sums.items())


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


async def log(connection: Connection) -> list[UsageRow]:
    return await select_page(connection, LATEST, 1000)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=BATCHES, again=st.data())
def test_usage_repeated_batches_are_summed_once(
    url: str, batches: list[list[UsageRow]], again: st.DataObject
) -> None:
    first = {(row.at, row.id): row for batch in reversed(batches) for row in reversed(batch)}
    repeated = again.draw(st.permutations(batches))
    mixed = again.draw(st.lists(st.sampled_from(sorted(first.values(), key=astuple_key)))) if first else []

    async def check() -> None:
        async with open_store(url) as store:
            await store.write(clear)
            for batch in [*batches, *repeated, mixed]:
                await store.write(insert_batch, batch)
            rows = await store.read(log)
            assert {(row.at, row.id): row for row in rows} == first
            for bucket in (HOUR, DAY):
                assert sorted(await store.read(totals, bucket)) == summed(rows, bucket)
            assert await store.read(select_quota, "key:") is None
            for subject in ("key:key-1", "key:key-2", "user:user-1", "user:user-2"):
                assert await store.read(select_quota, subject) == counted(rows, subject)

    trio.run(check)


def astuple_key(row: UsageRow) -> tuple[int, str]:
    return (row.at, row.id)


async def test_usage_batch_with_invalid_row_is_rolled_back(store: Store) -> None:
    with pytest.raises(StorageError):
        await store.write(insert_batch, [usage(1), replace(usage(2), model="\ud800")])
    assert await store.read(log) == []
    assert await store.read(totals, DAY) == []


async def test_usage_inserted_is_read_back(store: Store) -> None:
    row = usage(1)
    await store.write(insert_batch, [row])
    (back,) = await store.read(log)
    assert (back, type(back.streamed)) == (row, bool)


async def test_usage_pages_contain_each_row_once(store: Store) -> None:
    """The pages together contain every row of the filter once, newest first, then by id."""
    rows = [
        usage(serial, at=NOON + serial // 3, user_id=f"user-{serial % 2}", key_id=f"key-{serial % 4}")
        for serial in range(60)
    ]
    await store.write(insert_batch, rows)
    for user_id in (None, "user-0", "user-9"):
        wanted = [
            row for row in sorted(rows, key=astuple_key, reverse=True) if user_id in (None, row.user_id)
        ]
        seen: list[UsageRow] = []
        before = LATEST
        while page := await store.read(select_page, before, 7, user_id):
            assert len(page) <= 7
            seen += page
            before = astuple_key(page[-1])
        assert seen == wanted


def stats(label: object, requests: int, errors: int = 0) -> StatsRow:
    return StatsRow(
        str(label),
        requests,
        errors,
        10 * requests,
        20 * requests,
        3 * requests,
        4 * requests,
        0,
        5 * requests,
        6 * requests,
        7 * requests,
        8 * requests,
        2 * requests,
        3000 * requests,
        40 * requests,
        700 * requests,
        5 * requests,
        0,
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            StatsQuery(0, NOON + DAY, "day"),
            [stats(NOON - NOON % DAY, 4, 1), stats(NOON - NOON % DAY + DAY, 1)],
        ),
        (StatsQuery(NOON, NOON + HOUR, "hour"), [stats(NOON, 3)]),
        (StatsQuery(NOON, NOON + 2 * HOUR, "model"), [stats("large", 1, 1), stats("small", 3)]),
        (StatsQuery(0, NOON + 2 * DAY, "key", user_id="user-1"), [stats("key-1", 3, 1), stats("key-2", 1)]),
        (StatsQuery(0, NOON + 2 * DAY, "key", "user-1", "key-2"), [stats("key-2", 1)]),
        (StatsQuery(0, NOON + 2 * DAY, "user", None, "key-1"), [stats("user-1", 3, 1)]),
        (StatsQuery(0, NOON + 2 * DAY, "user"), [stats("user-1", 4, 1), stats("user-2", 1)]),
        (StatsQuery(0, NOON + 2 * DAY, "server"), [stats("alpha", 5, 1)]),
        (StatsQuery(0, NOON - 2 * DAY, "server"), []),
    ],
)
async def test_usage_statistics_are_grouped_and_filtered(
    store: Store, query: StatsQuery, expected: list[StatsRow]
) -> None:
    media: dict[str, Any] = {"images": 2, "audio_ms": 3000, "characters": 40}
    await store.write(
        insert_batch,
        [
            usage(1, **media),
            usage(2, at=NOON + 1, **media),
            usage(3, at=NOON + HOUR, model="large", outcome="cut", **media),
            usage(4, at=NOON + DAY, user_id="user-2", key_id="key-3", **media),
            usage(5, key_id="key-2", **media),
        ],
    )
    assert await store.read(select_stats, query) == expected


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
        from_log = await connection.all(
            "EXPLAIN QUERY PLAN SELECT id FROM usage WHERE (at, id) < (:at, :id)"
            " ORDER BY at DESC, id DESC LIMIT 10",
            at=1,
            id="",
        )
        of_user = await connection.all(
            "EXPLAIN QUERY PLAN SELECT model FROM usage WHERE user_id = :user"
            " AND (at, id) < (:at, :id) ORDER BY at DESC, id DESC LIMIT 10",
            user="",
            at=1,
            id="",
        )
        recent = await connection.all("EXPLAIN QUERY PLAN" + SELECT_RECENT, since=0, until=1, ended=0)
        return [row[3] for row in (*from_log, *of_user, *recent) if "usage" in row[3]]

    async def sums(connection: Connection, *, of_user: bool) -> list[str]:
        statements = (SUM_HOURS_OF_USER, SUM_DAYS_OF_USER) if of_user else (SUM_HOURS, SUM_DAYS)
        user: dict[str, object] = {"user_id": ""} if of_user else {}
        plans = [
            await connection.all(
                "EXPLAIN QUERY PLAN" + sql, since=0, until=1, group_by="model", key_id=None, **user
            )
            for sql in statements
        ]
        return [row[3] for plan in plans for row in plan if "USING INDEX" in row[3] or "usage" in row[3]]

    async with open_store(sqlite_url) as store:
        pages = await store.read(plans)
        of_all = await store.read(partial(sums, of_user=False))
        of_user = await store.read(partial(sums, of_user=True))
    assert [len(steps) for steps in (pages, of_all, of_user)] == [3, 2, 2]
    assert all(step.startswith("SEARCH") for step in (*pages, *of_all))
    assert all("_user (user_id=? AND bucket_start>?" in step for step in of_user), of_user
