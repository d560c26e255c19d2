"""Statistics of both engines."""

import itertools
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from msgspec import structs

from storage import Connection, Store
from storage.base import Engine
from storage.keys import insert_key
from storage.latency import LOWS, percentile
from storage.store import open_store
from storage.usage import DAY, HOUR, insert_batch
from storage.usage_stats import (
    Grouping,
    StatsQuery,
    StatsRow,
    latency_statement,
    select_latency,
    select_stats,
    stats_statement,
)
from storage.users import insert_user
from tests.storage.samples import NOON, key, usage, user


def stats(label: object, requests: int, errors: int = 0) -> StatsRow:
    return StatsRow(
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
        (str(label),),
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            StatsQuery(0, NOON + DAY, ("day",)),
            [stats(NOON - NOON % DAY, 4, 1), stats(NOON - NOON % DAY + DAY, 1)],
        ),
        (StatsQuery(NOON, NOON + HOUR, ("hour",)), [stats(NOON, 3)]),
        (StatsQuery(NOON, NOON + 2 * HOUR, ("model",)), [stats("large", 1, 1), stats("small", 3)]),
        (
            StatsQuery(0, NOON + 2 * DAY, ("key",), user_id="user-1"),
            [stats("key-1", 3, 1), stats("key-2", 1)],
        ),
        (StatsQuery(0, NOON + 2 * DAY, ("key",), "user-1", "key-2"), [stats("key-2", 1)]),
        (StatsQuery(0, NOON + 2 * DAY, ("user",), None, "key-1"), [stats("user-1", 3, 1)]),
        (StatsQuery(0, NOON + 2 * DAY, ("user",)), [stats("user-1", 4, 1), stats("user-2", 1)]),
        (StatsQuery(0, NOON + 2 * DAY, ("server",)), [stats("alpha", 5, 1)]),
        (StatsQuery(0, NOON - 2 * DAY, ("server",)), []),
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


async def test_usage_statistics_by_two_groups_have_both_labels(store: Store) -> None:
    await store.write(insert_batch, [usage(1), usage(2, model="large"), usage(3, at=NOON + DAY)])
    query = StatsQuery(0, NOON + 3 * DAY, ("month", "model"))
    rows = await store.read(select_stats, query)
    assert [(row.labels, row.requests) for row in rows] == [
        (("2027-01", "large"), 1),
        (("2027-01", "small"), 2),
    ]
    assert await store.read(select_stats, replace(query, groups=(), model="large")) == [
        structs.replace(rows[0], labels=())
    ]
    assert await store.read(select_stats, replace(query, groups=(), model="unknown")) == []


async def test_usage_statistics_by_tag_use_the_metadata_of_keys(store: Store) -> None:
    owner = user()
    keys = [replace(key(owner, n), metadata={"team": name}) for n, name in ((1, "red"), (2, "red"))]

    async def insert(connection: Connection) -> None:
        await insert_user(connection, owner)
        for row in keys:
            await insert_key(connection, row)

    await store.write(insert)
    await store.write(insert_batch, [usage(n, key_id=row.id) for n, row in enumerate([*keys, keys[0]])])
    await store.write(insert_batch, [usage(9, key_id="deleted")])
    rows = await store.read(select_stats, StatsQuery(0, NOON + 3 * DAY, ("tag",), tag="team"))
    assert [(row.label, row.requests) for row in rows] == [("", 1), ("red", 3)]


@pytest.mark.parametrize("groups", [("hour", "key"), ("day",), ("server",), ("user", "day"), ()])
async def test_usage_percentiles_merge_the_histograms(store: Store, groups: tuple[Grouping, ...]) -> None:
    times = [100] * 60 + [1000] * 37 + [30_000] * 3
    rows = [
        usage(n, at=NOON + n % 2, duration_ms=time, first_byte_ms=time // 10 if n else None)
        for n, time in enumerate(times)
    ]
    for start in range(0, 100, 10):
        await store.write(insert_batch, rows[start : start + 10])
    of_site = groups in (("day",), ("server",), ())
    query = StatsQuery(NOON - 12 * HOUR, NOON + 3 * DAY, groups, user_id=None if of_site else "user-1")
    (labels,) = [row.labels for row in await store.read(select_stats, query)]
    found = (await store.read(select_latency, query))[labels]
    for measured, exact in zip(found.durations, (100, 1000, 30_000), strict=True):
        assert measured == pytest.approx(exact, rel=0.1)
    for measured, exact in zip(found.first_bytes, (10, 100, 3_000), strict=True):
        assert measured == pytest.approx(exact, rel=0.1)


async def test_usage_percentiles_of_all_keys_are_not_read(store: Store) -> None:
    await store.write(insert_batch, [usage(1)])
    assert await store.read(select_latency, StatsQuery(0, NOON + DAY, ("key",))) == {}


def test_percentile_of_no_requests_is_none() -> None:
    assert percentile({}, 0.5) is None


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 1.0])
def test_percentile_is_within_its_bucket(share: float) -> None:
    for low, above in itertools.pairwise(LOWS):
        assert low <= (percentile({low: 3}, share) or 0) < above
    assert percentile({LOWS[-1]: 1, 0: 1}, share) in (0, LOWS[-1])


async def test_latency_bounds_of_sqlite_are_those_of_the_code(sqlite_url: str) -> None:
    async def bounds(connection: Connection) -> tuple[int, ...]:
        return tuple(row[0] for row in await connection.all("SELECT low FROM latency_bounds ORDER BY low"))

    async with open_store(sqlite_url) as store:
        assert await store.read(bounds) == LOWS


async def test_usage_statistics_of_a_user_use_an_index(sqlite_url: str) -> None:
    async def plan(connection: Connection, query: StatsQuery, engine: Engine) -> str:
        params = {"since": 0, "until": 1, "user_id": "u"}
        statements = stats_statement(query, engine), latency_statement(query, engine)
        rows = [await connection.all("EXPLAIN QUERY PLAN " + one, **params) for one in statements]
        return " ".join(str(row[-1]) for plan in rows for row in plan)

    async with open_store(sqlite_url) as store:
        for days in (1, 90):
            query = StatsQuery(1, days * DAY, ("model",), user_id="u")
            found = await store.read(partial(plan, query=query, engine="sqlite"))
            assert found.count("_user (user_id=? AND bucket_start>?") == 2, found


@pytest.mark.parametrize(
    ("query", "table"),
    [
        (StatsQuery(0, 90 * DAY, ("model", "server")), "usage_site_daily"),
        (StatsQuery(0, 90 * DAY, ("hour", "model")), "usage_site_hourly"),
        (StatsQuery(0, 90 * DAY, ("user", "month")), "usage_key_daily"),
        (StatsQuery(0, 90 * DAY, ("tag",), user_id="u", tag="team"), "usage_key_daily"),
        (StatsQuery(0, 90 * DAY, ("user",), model="m"), "usage_daily"),
        (StatsQuery(0, 90 * DAY, ("key", "server")), "usage_daily"),
        (StatsQuery(0, 90 * DAY, ("hour", "key")), "usage_hourly"),
    ],
)
def test_usage_statistics_read_the_smallest_table_that_has_the_answer(query: StatsQuery, table: str) -> None:
    assert f" FROM {table} WHERE" in stats_statement(query, "sqlite")
