"""Usage totals over days, from the roll-ups."""

from bluesminds.common.clock import Clock
from storage.base import Store
from storage.usage import DAY, Grouping, StatsQuery, StatsRow, select_stats

MAX_DAYS = 366


class UsageReports:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def totals(self, *, days: int, group: Grouping) -> list[StatsRow]:
        """One row per group over the last `days` calendar days in UTC, including today."""
        now = self._clock.now_ms()
        since = (now // DAY - days + 1) * DAY
        return await self._store.read(select_stats, StatsQuery(since=since, until=now + 1, group_by=group))
