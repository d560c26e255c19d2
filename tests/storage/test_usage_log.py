"""Filters and pages of the usage log on both engines."""

from typing import Any

import pytest

from storage import Connection, Store
from storage.store import open_store
from storage.usage import LATEST, UsageRow, insert_batch
from storage.usage_log import LogQuery, log_statement, select_log
from tests.storage.samples import NOON, usage, uuid7

ROWS = [
    usage(1, at=NOON, user_id="user-1", key_id="key-1"),
    usage(2, at=NOON + 1, user_id="user-1", key_id="key-2", model="large"),
    usage(3, at=NOON + 2, user_id="user-2", key_id="key-3", status=502, outcome="upstream_error"),
    usage(4, at=NOON + 3, user_id="user-1", key_id="key-1", status=429, outcome="client_error"),
    usage(5, at=NOON + 4, user_id="user-1", key_id="key-1", status=499, outcome="client_gone"),
    usage(6, at=NOON + 5, user_id="user-2", key_id="key-3", server="beta"),
]


def serials(rows: Any) -> list[int]:
    return [int(row.request_id.removeprefix("request-")) for row in rows]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [6, 5, 4, 3, 2, 1]),
        ({"user_id": "user-1"}, [5, 4, 2, 1]),
        ({"user_id": "user-1", "key_id": "key-1"}, [5, 4, 1]),
        ({"model": "large"}, [2]),
        ({"server": "beta"}, [6]),
        ({"endpoint": "/v1/embeddings"}, []),
        ({"outcome": "client_gone"}, [5]),
        ({"failed": True}, [4, 3]),
        ({"failed": True, "user_id": "user-1"}, [4]),
        ({"failed": True, "outcome": "upstream_error"}, [3]),
        ({"failed": False}, [6, 5, 2, 1]),
        ({"statuses": (400, 499)}, [5, 4]),
        ({"statuses": (502, 502)}, [3]),
        ({"since": NOON + 3}, [6, 5, 4]),
        ({"before": (NOON + 2, "")}, [2, 1]),
        ({"request_id": "request-3"}, [3]),
        ({"request_id": "request-3", "user_id": "user-2"}, [3]),
        ({"request_id": "request-3", "user_id": "user-1"}, []),
        ({"request_id": "request-3", "failed": True, "statuses": (500, 599)}, [3]),
        ({"request_id": "request-3", "model": "large"}, []),
        ({"request_id": "unknown"}, []),
    ],
)
async def test_log_with_filters_selects_matching_rows(
    store: Store, filters: dict[str, Any], expected: list[int]
) -> None:
    await store.write(insert_batch, ROWS)
    page = await store.read(select_log, LogQuery(10, **filters))
    assert (serials(page.rows), page.next) == (expected, None)


async def test_log_finds_the_id_that_the_gateway_made(store: Store) -> None:
    row_id = uuid7(NOON, 7)
    row = usage(7, at=NOON)
    own = UsageRow(**{name: getattr(row, name) for name in UsageRow.__slots__} | {"request_id": row_id})
    await store.write(insert_batch, [own, *ROWS])
    page = await store.read(select_log, LogQuery(10, request_id=row_id))
    assert list(page.rows) == [own]


@pytest.mark.parametrize("filters", [{}, {"user_id": "user-1"}, {"failed": True}, {"model": "large"}])
async def test_log_pages_contain_each_matching_row_once(store: Store, filters: dict[str, Any]) -> None:
    """Also if a page ends because it has read as many rows as it may."""
    rows = [
        usage(
            n,
            at=NOON + n // 3,
            user_id=f"user-{n % 2}",
            model="large" if n % 7 == 0 else "small",
            outcome="cut" if n % 5 == 0 else "ok",
        )
        for n in range(60)
    ]
    await store.write(insert_batch, rows)
    whole = await store.read(select_log, LogQuery(100, **filters))
    assert len(whole.rows) > 5
    before, found = LATEST, list[UsageRow]()
    while True:
        page = await store.read(select_log, LogQuery(2, before=before, scan=5, **filters))
        assert len(page.rows) <= 2
        found += page.rows
        if page.next is None:
            break
        assert page.next < before
        before = page.next
    assert found == list(whole.rows)


async def test_log_queries_use_an_index(sqlite_url: str) -> None:
    async def plan(connection: Connection, query: LogQuery, params: dict[str, object]) -> str:
        given = {"at": 1, "id": "", "since": 0, "scan": 1, "limit": 1} | params
        rows = await connection.all("EXPLAIN QUERY PLAN " + log_statement(query), **given)
        return " ".join(str(row[-1]) for row in rows)

    async with open_store(sqlite_url) as store:
        of_all = await store.read(plan, LogQuery(1, model="m"), {"model": "m"})
        of_user = await store.read(plan, LogQuery(1, user_id="u"), {"user_id": "u"})
        errors = await store.read(plan, LogQuery(1, failed=True), {})
    assert "SEARCH usage USING PRIMARY KEY" in of_all
    assert "usage_user (user_id=?" in of_user
    assert "usage_errors (" in errors
    assert "TEMP" not in of_all + of_user + errors
