"""Usage reports: totals, and figures over time, from the roll-ups; single requests with their receipts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid, uuid7_time
from bluesminds.common.errors import NotFound
from storage.base import Connection, Store
from storage.keys import select_key_names
from storage.receipts import select_receipt
from storage.usage import (
    DAY,
    Grouping,
    StatsQuery,
    StatsRow,
    UsageRow,
    select_stats,
    select_usage,
)
from storage.usage_search import FoundRequests, RequestSearch, search_requests
from storage.usage_series import SeriesQuery, SeriesRow, select_series

MAX_DAYS = 366


class UsageFigures(Struct, frozen=True):
    """Figures over time, read in one snapshot. `before` has no groups and covers as much time before.
    `latest` are the newest requests. `key_names` are by id.
    """

    rows: Sequence[SeriesRow]
    before: Sequence[SeriesRow]
    latest: Sequence[UsageRow]
    key_names: Mapping[str, str]


class UsageReports:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def totals(self, *, days: int, group: Grouping) -> list[StatsRow]:
        """One row per group over the last `days` calendar days in UTC, including today."""
        now = self._clock.now_ms()
        since = (now // DAY - days + 1) * DAY
        return await self._store.read(select_stats, StatsQuery(since=since, until=now + 1, group_by=group))

    async def totals_of_user(self, user_id: str, *, days: int) -> list[StatsRow]:
        """One row per day with requests of the last `days` calendar days in UTC, including today."""
        now = self._clock.now_ms()
        since = (now // DAY - days + 1) * DAY
        query = StatsQuery(since=since, until=now + 1, group_by="day", user_id=user_id)
        return await self._store.read(select_stats, query)

    async def of_users(self, user_ids: Sequence[str]) -> dict[str, list[SeriesRow]]:
        """The days of the last 30 with requests, by user."""
        now = self._clock.now_ms()
        since = (now // DAY - 29) * DAY
        queries = [SeriesQuery(since, now + 1, "day", "none", user_id) for user_id in user_ids]
        return await self._store.read(_select_each, queries)

    async def figures(self, query: SeriesQuery, *, latest: int = 0) -> UsageFigures:
        """`latest` is the number of newest requests to include, which only a query of one user can have."""
        return await self._store.read(_select_figures, query, latest)

    async def requests(self, search: RequestSearch, *, limit: int) -> tuple[FoundRequests, Mapping[str, str]]:
        """Requests that match, newest first, and the names of the user's keys by id."""
        return await self._store.read(_search, search, limit)

    async def request(self, request_id: str, user_id: str | None) -> tuple[UsageRow, str | None]:
        """The usage row of a request and its receipt, if it has one. `user_id`: only a request of this user.
        Raises NotFound.
        """
        found = await self._store.read(_select_request, request_id) if is_uuid(request_id) else None
        if found is None or (user_id is not None and found[0].user_id != user_id):
            message = "There is no request with this id. Use the `id` of a usage record."
            raise NotFound("request_not_found", message)
        return found


async def _select_each(connection: Connection, queries: Sequence[SeriesQuery]) -> dict[str, list[SeriesRow]]:
    return {query.user_id or "": list(await select_series(connection, query)) for query in queries}


async def _search(
    connection: Connection, search: RequestSearch, limit: int
) -> tuple[FoundRequests, Mapping[str, str]]:
    names = await select_key_names(connection, search.user_id) if search.user_id else {}
    return await search_requests(connection, search, limit), names


async def _select_figures(connection: Connection, query: SeriesQuery, latest: int) -> UsageFigures:
    before = replace(query, since=2 * query.since - query.until, until=query.since, group="none")
    newest: Sequence[UsageRow] = ()
    if latest:
        search = RequestSearch(query.user_id or "", key_id=query.key_id)
        newest = (await search_requests(connection, search, latest)).rows
    return UsageFigures(
        rows=await select_series(connection, query),
        before=await select_series(connection, before),
        latest=newest,
        key_names={} if query.user_id is None else await select_key_names(connection, query.user_id),
    )


async def _select_request(connection: Connection, request_id: str) -> tuple[UsageRow, str | None] | None:
    receipt = await select_receipt(connection, request_id)
    at = uuid7_time(request_id) if receipt is None else receipt.at
    row = await select_usage(connection, at, request_id)
    return None if row is None else (row, None if receipt is None else receipt.receipt)
