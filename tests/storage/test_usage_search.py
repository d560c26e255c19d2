"""Searches in the usage log on both engines, with the bound on the rows that are read."""

from dataclasses import replace
from typing import Any

import pytest

from storage import Store, usage_search
from storage.usage import insert_batch
from storage.usage_search import RequestSearch, search_requests
from tests.storage.samples import NOON, usage

SEARCH = RequestSearch("user-1")


async def fill(store: Store, count: int) -> None:
    rows = [
        usage(serial, at=NOON + serial, key_id=f"key-{serial % 3}", user_id=f"user-{1 + serial % 2}")
        for serial in range(count)
    ]
    await store.write(insert_batch, rows)


async def test_search_pages_contain_each_row_once(store: Store) -> None:
    await fill(store, 40)
    seen, search = [], SEARCH
    while True:
        found = await store.read(search_requests, search, 7)
        seen += [row.at - NOON for row in found.rows]
        if found.more is None:
            break
        search = replace(search, before=found.more)
    assert seen == list(range(38, -1, -2))


@pytest.mark.parametrize("user_id", ["user-1", ""])
async def test_search_without_matches_stops_at_its_bound(
    store: Store, monkeypatch: pytest.MonkeyPatch, user_id: str
) -> None:
    monkeypatch.setattr(usage_search, "MAX_READ", 5)
    await fill(store, 40)
    found = await store.read(search_requests, RequestSearch(user_id, model="none"), 10)
    assert found.rows == []
    last = {"user-1": 30, "": 35}[user_id]
    assert found.more is not None and found.more[0] == NOON + last, "the last row that was read"


@pytest.mark.parametrize(
    ("filters", "count"),
    [({"key_id": "key-0"}, 7), ({"status": "2"}, 20), ({"status": "ok"}, 20), ({"status": "failed"}, 0)],
)
async def test_search_with_a_filter_finds_its_rows(store: Store, filters: dict[str, Any], count: int) -> None:
    await fill(store, 40)
    found = await store.read(search_requests, replace(SEARCH, **filters), 50)
    assert (len(found.rows), found.more) == (count, None)
