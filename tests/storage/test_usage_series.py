"""Usage over time on both engines."""

from dataclasses import replace

import pytest

from storage import Store
from storage.usage import DAY, HOUR, insert_batch
from storage.usage_series import (
    SeriesGroup,
    SeriesQuery,
    select_series,
)
from tests.storage.samples import NOON, usage

TODAY = NOON - NOON % DAY
QUERY = SeriesQuery(TODAY - DAY, TODAY + DAY, "day", "model", "user-1")
FIELDS = {"input_tokens": 3, "output_tokens": 4, "duration_ms": 5, "cost_nano": 6}


async def fill(store: Store) -> None:
    rows = [
        usage(1, at=NOON, user_id="user-1", key_id="key-1", model="a", outcome="ok", **FIELDS),
        usage(2, at=NOON + HOUR, user_id="user-1", key_id="key-2", model="a", outcome="cut", **FIELDS),
        usage(3, at=NOON - DAY, user_id="user-1", key_id="key-1", model="b", outcome="ok", **FIELDS),
        usage(4, at=NOON, user_id="user-2", key_id="key-3", model="a", outcome="ok", **FIELDS),
        usage(
            5,
            at=NOON,
            user_id="user-2",
            key_id="key-3",
            model="a",
            outcome="ok",
            **(FIELDS | {"cost_nano": None}),
        ),
    ]
    await store.write(insert_batch, rows)


async def test_series_of_a_user_has_a_row_for_each_day_and_group(store: Store) -> None:
    await fill(store)
    rows = await store.read(select_series, QUERY)
    found = [(row.bucket, row.label, row.requests, row.errors, row.tokens, row.cost_nano) for row in rows]
    assert found == [(TODAY - DAY, "b", 1, 0, 7, 6), (TODAY, "a", 2, 1, 14, 12)]


async def test_series_of_hours_has_a_row_for_each_hour(store: Store) -> None:
    await fill(store)
    rows = await store.read(select_series, replace(QUERY, unit="hour", group="none"))
    assert [(row.bucket, row.label, row.requests) for row in rows] == [
        (NOON - DAY, "", 1),
        (NOON, "", 1),
        (NOON + HOUR, "", 1),
    ]


@pytest.mark.parametrize(
    ("group", "labels"),
    [("key", {"key-1", "key-2", "key-3"}), ("server", {"alpha"}), ("user", {"user-1", "user-2"})],
)
async def test_series_of_all_users_is_grouped(store: Store, group: SeriesGroup, labels: set[str]) -> None:
    await fill(store)
    rows = await store.read(select_series, replace(QUERY, user_id=None, group=group))
    assert {row.label for row in rows} == labels
    assert sum(row.requests for row in rows) == 5
    assert sum(row.unpriced for row in rows) == 1


@pytest.mark.parametrize(("field", "value"), [("key_id", "key-2"), ("model", "b"), ("server", "two")])
async def test_series_with_a_filter_sums_only_its_rows(store: Store, field: str, value: str) -> None:
    await fill(store)
    rows = await store.read(select_series, replace(QUERY, **{field: value}))
    assert sum(row.requests for row in rows) == {"key-2": 1, "b": 1, "two": 0}[value]
