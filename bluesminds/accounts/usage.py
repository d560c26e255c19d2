"""Usage reports: totals, and figures over time, from the roll-ups."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from msgspec import Struct

from bluesminds.common.clock import Clock
from storage.base import Connection, Store
from storage.keys import select_key_names
from storage.usage import DAY, LATEST, Grouping, StatsQuery, StatsRow, UsageRow, select_page, select_stats
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

    async def of_key(
        self, user_id: str, key_id: str, *, before: tuple[int, str], limit: int
    ) -> Sequence[UsageRow]:
        """The requests of a key below the position `before`, newest first."""
        return await self._store.read(select_page, before, limit, user_id, key_id)

    async def figures(self, query: SeriesQuery, *, latest: int = 0) -> UsageFigures:
        """`latest` is the number of newest requests to include, which only a query of one user can have."""
        return await self._store.read(_select_figures, query, latest)


async def _select_figures(connection: Connection, query: SeriesQuery, latest: int) -> UsageFigures:
    before = replace(query, since=2 * query.since - query.until, until=query.since, group="none")
    newest: Sequence[UsageRow] = ()
    if latest:
        newest = await select_page(connection, LATEST, latest, query.user_id, query.key_id or None)
    return UsageFigures(
        rows=await select_series(connection, query),
        before=await select_series(connection, before),
        latest=newest,
        key_names={} if query.user_id is None else await select_key_names(connection, query.user_id),
    )
