"""Events with the usage of the last week, on Monday at 8 in the time zone of the account."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from msgspec import Struct

from bluesminds.common.clock import Clock, zone_or_utc
from bluesminds.common.money import write_usd
from bluesminds.notify.events import new_event
from storage.base import Store
from storage.event_marks import insert_event_once
from storage.mail_preferences import select_mail_preferences
from storage.rounds import run_rounds
from storage.usage_stats import StatsQuery, StatsRow, select_stats

INTERVAL: Final = 600.0  # seconds
HOUR: Final = 8  # of Monday
DAY_MS: Final = 86_400_000
MODELS: Final = 5  # with the highest cost


class UsageWeek(Struct, frozen=True):
    """The last complete week of a time zone, from Monday to Sunday, and the one before. Times are in
    milliseconds; `until` is exclusive.
    """

    before: int
    since: int
    until: int
    begins: str  # 2026-11-16
    ends: str  # 2026-11-22

    @classmethod
    def on_monday(cls, now_ms: int, zone: tzinfo) -> "UsageWeek | None":
        """None unless it is Monday, from HOUR on, in this zone."""
        now = datetime.fromtimestamp(now_ms / 1000, zone)
        if now.weekday() != 0 or now.hour < HOUR:
            return None
        monday = now.replace(hour=0, minute=0, second=0, microsecond=0)
        before, begins, ends = (monday - timedelta(days=days) for days in (14, 7, 1))
        return cls(
            _milliseconds(before),
            _milliseconds(begins),
            _milliseconds(monday),
            f"{begins:%Y-%m-%d}",
            f"{ends:%Y-%m-%d}",
        )


class WeeklyUsage:
    """`zone` is the time zone of users that have chosen none."""

    def __init__(self, store: Store, *, clock: Clock, zone: str) -> None:
        self._store = store
        self._clock = clock
        self._zone = zone

    async def run(self) -> None:
        """Run until cancelled. After a storage error it tries again in the next round."""
        await run_rounds(self.run_once, INTERVAL)

    async def run_once(self) -> None:
        now = self._clock.now_ms()
        if not _is_monday_somewhere(now):
            return
        active = StatsQuery((now // DAY_MS - 8) * DAY_MS, now, ("user",))
        for row in await self._store.read(select_stats, active):
            if row.label:
                await self._report(row.label, now)

    async def _report(self, user_id: str, now: int) -> None:
        preferences = await self._store.read(select_mail_preferences, user_id)
        week = UsageWeek.on_monday(now, zone_or_utc(preferences.time_zone or self._zone))
        if week is None:
            return
        query = StatsQuery(week.before, week.until, ("hour", "model"), user_id=user_id)
        rows = await self._store.read(select_stats, query)
        data = _week_data(rows, week)
        event = None if data is None else new_event(now, "usage.weekly", user_id, data)
        await self._store.write(insert_event_once, (f"usage.weekly:{user_id}:{week.begins}",), event, now)


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _is_monday_somewhere(now_ms: int) -> bool:
    """Zones are at most 14 hours before and 12 after UTC."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    return 0 in {(now + timedelta(hours=hours)).weekday() for hours in (-12, 0, 14)}


def _week_data(rows: Sequence[StatsRow], week: UsageWeek) -> dict[str, object] | None:
    """None for a week without requests."""
    last = [row for row in rows if int(row.labels[0]) >= week.since]
    if not last:
        return None
    costs: dict[str, int] = {}
    for row in last:
        costs[row.labels[1]] = costs.get(row.labels[1], 0) + row.cost_nano
    highest = sorted(costs.items(), key=lambda item: (-item[1], item[0]))[:MODELS]
    return {
        "begins": week.begins,
        "ends": week.ends,
        "requests": sum(row.requests for row in last),
        "failed": sum(row.errors for row in last),
        "tokens": sum(row.input_tokens + row.output_tokens for row in last),
        "cost_usd": write_usd(sum(row.cost_nano for row in last)),
        "cost_before_usd": write_usd(sum(row.cost_nano for row in rows) - sum(costs.values())),
        "models": [{"model": model, "cost_usd": write_usd(cost)} for model, cost in highest],
    }
