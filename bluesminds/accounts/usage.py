"""Usage reports: statistics, figures over time and costs from the sums; log and requests with receipts."""

import calendar
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid, uuid7_time
from bluesminds.common.errors import NotFound
from storage.base import Connection, Store
from storage.keys import select_key, select_key_names, select_names_of_keys
from storage.receipts import select_receipt
from storage.reprice import select_last_adjustments
from storage.usage import DAY, UsageRow, select_usage
from storage.usage_log import LogPage, LogQuery, select_log
from storage.usage_meters import MeterRow, select_meters
from storage.usage_series import SeriesQuery, SeriesRow, select_series
from storage.usage_stats import (
    Grouping,
    LatencyRow,
    StatsQuery,
    StatsRow,
    select_latency,
    select_stats,
)

MAX_DAYS = 366
EXPORT_PAGE: Final = 1000  # rows
FORECAST_DAYS: Final = 7
"""The days whose average is expected for the rest of the month."""


class UsageStats(Struct, frozen=True):
    """Sums and percentiles of the buckets that start in [since, until), in milliseconds. Both are read in one
    snapshot.
    """

    since: int
    until: int
    rows: Sequence[StatsRow]
    latency: dict[tuple[str, ...], LatencyRow]


class CostReport(Struct, frozen=True):
    """The costs of the current month (UTC) in nano-USD. `forecast`: what the whole month will cost if each
    remaining day costs the average of the last days; None without costs.
    """

    month: str
    total: int
    unpriced: int
    forecast: int | None
    by_key: Sequence[StatsRow]
    by_model: Sequence[StatsRow]
    by_day: Sequence[StatsRow]


class UsageFigures(Struct, frozen=True):
    """Figures over time, read in one snapshot. `before` has no groups and covers as much time before.
    `latest` are the newest requests. `key_names` are by id: all of a user, or those in the rows.
    """

    rows: Sequence[SeriesRow]
    before: Sequence[SeriesRow]
    latest: Sequence[UsageRow]
    key_names: Mapping[str, str]


class RequestRecord(Struct, frozen=True):
    """A usage row and its receipt, if any. `repriced`: the cost in nano-USD if it was computed again."""

    row: UsageRow
    receipt: str | None
    repriced: int | None


class UsageReports:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def totals(self, *, days: int, group: Grouping) -> list[StatsRow]:
        """One row per group over the last `days` calendar days in UTC, including today."""
        since, until = self.last_days(days)
        return await self._store.read(select_stats, StatsQuery(since, until, (group,)))

    def last_days(self, days: int) -> tuple[int, int]:
        """The last calendar days in UTC, including today, as [since, until) in milliseconds."""
        now = self._clock.now_ms()
        return (now // DAY - days + 1) * DAY, now + 1

    async def stats(self, query: StatsQuery) -> UsageStats:
        """`since` is moved to the start of its bucket."""
        query = replace(query, since=query.since - query.since % query.bucket)
        return await self._store.read(_select_stats, query)

    async def meters(self, days: int, model: str = "", server: str = "") -> Sequence[MeterRow]:
        """Both meters over the last calendar days in UTC. The filters are "" for all."""
        since, until = self.last_days(days)
        return await self._store.read(select_meters, since, until, model, server)

    async def page(self, query: LogQuery) -> LogPage:
        return await self._store.read(_select_log, query)

    async def log(self, query: LogQuery) -> AsyncIterator[LogPage]:
        """All rows of a query in pages, whatever its limit. Each page is read when the one before is
        consumed.
        """
        query = replace(query, limit=EXPORT_PAGE)
        while True:
            page = await self.page(query)
            yield page
            if page.next is None:
                return
            query = replace(query, before=page.next)

    async def costs(self, owner: str | None, key_id: str | None = None) -> CostReport:
        """The costs of a user, or of all users, or of one key. Raises NotFound for a key that `owner` does
        not have.
        """
        return await self._store.read(_select_costs, self._clock.now_ms(), owner, key_id)

    async def totals_of_user(self, user_id: str, *, days: int) -> list[StatsRow]:
        """One row per day with requests of the last `days` calendar days in UTC, including today."""
        since, until = self.last_days(days)
        query = StatsQuery(since, until, ("day",), user_id=user_id)
        return await self._store.read(select_stats, query)

    async def of_users(self, user_ids: Sequence[str]) -> dict[str, list[SeriesRow]]:
        """By user: the days with requests among the last 30."""
        now = self._clock.now_ms()
        since = (now // DAY - 29) * DAY
        queries = [SeriesQuery(since, now + 1, "day", "none", user_id) for user_id in user_ids]
        return await self._store.read(_select_each, queries)

    async def figures(self, query: SeriesQuery, *, latest: int = 0) -> UsageFigures:
        """`latest` is the number of newest requests to include, which only a query of one user can have."""
        return await self._store.read(_select_figures, query, latest)

    async def requests(self, query: LogQuery) -> tuple[LogPage, Mapping[str, str]]:
        """A page of the log, and names of keys by id: all keys of the user, or those of the page if the query
        is for all users.
        """
        return await self._store.read(_select_requests, query)

    async def key_names(self, key_ids: Sequence[str]) -> Mapping[str, str]:
        """The names of keys of any user by id."""
        return await self._store.read(select_names_of_keys, key_ids) if key_ids else {}

    async def request(self, request_id: str, user_id: str | None) -> RequestRecord:
        """`user_id`: only a request of this user. Raises NotFound."""
        found = await self._store.read(_select_request, request_id) if is_uuid(request_id) else None
        if found is None or (user_id is not None and found.row.user_id != user_id):
            message = "There is no request with this id. Use the `id` of a usage record."
            raise NotFound("request_not_found", message)
        return found

    async def find(self, request_id: str) -> UsageRow | None:
        """The usage row of a request of any user; None if it is deleted."""
        found = await self._store.read(_select_request, request_id)
        return None if found is None else found.row


async def _select_each(connection: Connection, queries: Sequence[SeriesQuery]) -> dict[str, list[SeriesRow]]:
    return {query.user_id or "": list(await select_series(connection, query)) for query in queries}


async def _select_requests(connection: Connection, query: LogQuery) -> tuple[LogPage, Mapping[str, str]]:
    page = await select_log(connection, query)
    if query.user_id is not None:
        return page, await select_key_names(connection, query.user_id)
    ids = {row.key_id for row in page.rows} | {query.key_id or ""}
    return page, await select_names_of_keys(connection, sorted(ids - {""}))


async def _select_figures(connection: Connection, query: SeriesQuery, latest: int) -> UsageFigures:
    before = replace(query, since=2 * query.since - query.until, until=query.since, group="none")
    newest: Sequence[UsageRow] = ()
    if latest:
        log = LogQuery(latest, user_id=query.user_id, key_id=query.key_id or None)
        newest = (await select_log(connection, log)).rows
    rows = await select_series(connection, query)
    return UsageFigures(
        rows=rows,
        before=await select_series(connection, before),
        latest=newest,
        key_names=await _select_key_names(connection, query, rows),
    )


async def _select_key_names(
    connection: Connection, query: SeriesQuery, rows: Sequence[SeriesRow]
) -> Mapping[str, str]:
    """Of all keys of the user; for all users, of the keys in the figures."""
    if query.user_id is not None:
        return await select_key_names(connection, query.user_id)
    ids = {row.label for row in rows} if query.group == "key" else set()
    return await select_names_of_keys(connection, sorted((ids | {query.key_id}) - {""}))


async def _select_request(connection: Connection, request_id: str) -> RequestRecord | None:
    receipt = await select_receipt(connection, request_id)
    at = uuid7_time(request_id) if receipt is None else receipt.at
    row = await select_usage(connection, at, request_id)
    if row is None:
        return None
    adjusted = (await select_last_adjustments(connection, [row])).get(row.id)
    return RequestRecord(
        row, None if receipt is None else receipt.receipt, None if adjusted is None else adjusted.cost_nano
    )


async def _select_stats(connection: Connection, query: StatsQuery) -> UsageStats:
    query = replace(query, user_id=await _owner(connection, query))
    return UsageStats(
        since=query.since,
        until=query.until,
        rows=await select_stats(connection, query),
        latency=await select_latency(connection, query),
    )


async def _select_log(connection: Connection, query: LogQuery) -> LogPage:
    return await select_log(connection, replace(query, user_id=await _owner(connection, query)))


async def _owner(connection: Connection, query: StatsQuery | LogQuery) -> str | None:
    """The user whose rows to read: of a key, that of its owner, because the indexes are by user."""
    if query.key_id is None or query.user_id is not None:
        return query.user_id
    key = await select_key(connection, query.key_id, None)
    return None if key is None else key.user_id


async def _select_costs(
    connection: Connection, now: int, owner: str | None, key_id: str | None
) -> CostReport:
    if key_id is not None:
        key = await select_key(connection, key_id, owner)
        if key is None:
            raise NotFound("key_not_found", "There is no key with this id.")
        owner = key.user_id
    today = now - now % DAY
    date = datetime.fromtimestamp(now / 1000, UTC)
    start = today - (date.day - 1) * DAY
    month = StatsQuery(start, now + 1, user_id=owner, key_id=key_id)
    recent = replace(month, since=today - FORECAST_DAYS * DAY, until=today, groups=("day",))
    by_day = await select_stats(connection, replace(month, groups=("day",)))
    total = sum(row.cost_nano for row in by_day)
    days_left = calendar.monthrange(date.year, date.month)[1] - date.day
    before = await select_stats(connection, recent)
    return CostReport(
        month=f"{date:%Y-%m}",
        total=total,
        unpriced=sum(row.unpriced for row in by_day),
        forecast=_forecast(total, by_day, before, today, now, days_left),
        by_key=await select_stats(connection, replace(month, groups=("key",))),
        by_model=await select_stats(connection, replace(month, groups=("model",))),
        by_day=by_day,
    )


def _forecast(
    total: int, by_day: Sequence[StatsRow], before: Sequence[StatsRow], today: int, now: int, days_left: int
) -> int | None:
    """The average is over the days since the first of the recent ones with requests. Without one, it is the
    pace of today.
    """
    if before:
        days = (today - int(before[0].label)) // DAY
        average = sum(row.cost_nano for row in before) / days
    elif by_day:
        average = sum(row.cost_nano for row in by_day) * DAY / max(now - today, 1)
    else:
        return None
    spent_today = sum(row.cost_nano for row in by_day if int(row.label) == today)
    return round(total - spent_today + max(average, spent_today) + average * days_left)
