"""Usage as people ask for it: totals over days, from the roll-ups."""

from typing import cast

from bluesminds.clock import Clock
from bluesminds.errors import InvalidRequest
from storage.base import Store
from storage.usage import DAY, Grouping, StatsQuery, StatsRow, select_stats

MAX_DAYS = 366
GROUPS = ("day", "model", "key", "server")


class UsageReports:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def totals(self, *, days: str, group: str) -> list[StatsRow]:
        """One row per group over the last `days` calendar days in UTC, today included. Raises
        InvalidRequest.
        """
        if not days.isdecimal() or not 1 <= int(days) <= MAX_DAYS:
            raise InvalidRequest("invalid_value", f"days is a number from 1 to {MAX_DAYS}.", param="days")
        if group not in GROUPS:
            raise InvalidRequest("invalid_value", f"group is one of {', '.join(GROUPS)}.", param="group")
        now = self._clock.now_ms()
        since = (now // DAY - int(days) + 1) * DAY
        query = StatsQuery(since=since, until=now + 1, group_by=cast(Grouping, group))
        return await self._store.read(select_stats, query)
