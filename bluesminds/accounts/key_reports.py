"""API keys with their use, for lists."""

from collections.abc import Sequence

from msgspec import Struct

from bluesminds.common.clock import Calendar, Clock
from storage.base import Connection, Store
from storage.keys import KeyQuery, KeyRow, select_keys
from storage.quotas import QuotaRow, select_quotas
from storage.usage import DAY
from storage.usage_series import SeriesQuery, SeriesRow, select_series

REPORT_DAYS = 30


class KeyReport(Struct, frozen=True):
    """A key with its requests and cost of the last 30 days (UTC), and its cost and tokens of the current
    month of the limits. `days` are the costs of the 30 days. Money in nano-USD.
    """

    key: KeyRow
    requests: int
    cost_nano: int
    days: Sequence[int]
    month_nano: int
    month_tokens: int


class KeyReports:
    def __init__(self, store: Store, *, clock: Clock, calendar: Calendar) -> None:
        self._store = store
        self._clock = clock
        self._calendar = calendar

    async def list(
        self, owner: str, *, active: bool | None = None, after: str = "", limit: int = 100
    ) -> list[KeyReport]:
        """Keys of a user whose ID is above `after`, oldest first."""
        now = self._clock.now_ms()
        query = KeyQuery(now, user_id=owner, active=active, after=after, limit=limit)
        days = SeriesQuery((now // DAY - REPORT_DAYS + 1) * DAY, now + 1, "day", "key", owner)
        keys, quotas, rows = await self._store.read(_select, query, days)
        month = self._calendar.date(now).month
        by_key: dict[str, list[SeriesRow]] = {}
        for row in rows:
            by_key.setdefault(row.label, []).append(row)
        first = days.since // DAY
        return [
            _report(key, by_key.get(key.id, []), quotas.get(f"key:{key.id}"), month, first) for key in keys
        ]


def _report(
    key: KeyRow, rows: list[SeriesRow], quota: QuotaRow | None, month: str, first_day: int
) -> KeyReport:
    is_current = quota is not None and quota.month >= month
    return KeyReport(
        key=key,
        requests=sum(row.requests for row in rows),
        cost_nano=sum(row.cost_nano for row in rows),
        days=_costs(rows, first_day),
        month_nano=quota.month_nano if quota is not None and is_current else 0,
        month_tokens=quota.month_tokens if quota is not None and is_current else 0,
    )


def _costs(rows: list[SeriesRow], first_day: int) -> Sequence[int]:
    costs = [0] * REPORT_DAYS
    for row in rows:
        costs[row.bucket // DAY - first_day] += row.cost_nano
    return costs


async def _select(
    connection: Connection, query: KeyQuery, days: SeriesQuery
) -> tuple[list[KeyRow], dict[str, QuotaRow], list[SeriesRow]]:
    keys = list(await select_keys(connection, query))
    quotas = await select_quotas(connection, [f"key:{key.id}" for key in keys])
    return keys, quotas, list(await select_series(connection, days))
