"""Usage over time: sums of each hour or day, by model, key, server or user."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.base import Connection
from storage.usage import DAY, HOUR
from storage.usage_stats import Grouping, StatsQuery, StatsRow, select_stats

SeriesGroup = Literal["none", "model", "key", "server", "user"]
SeriesUnit = Literal["hour", "day"]


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """Sums the buckets that start in [since, until), in milliseconds: the hours or the days (UTC) of a user,
    or of all users if `user_id` is None. The other filters are "" for all.
    """

    since: int
    until: int
    unit: SeriesUnit
    group: SeriesGroup
    user_id: str | None
    key_id: str = ""
    model: str = ""
    server: str = ""

    @property
    def width(self) -> int:
        return HOUR if self.unit == "hour" else DAY


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """Sums of one bucket and one label; the label is "" without a group. `cost_nano` does not include the
    `unpriced` requests.
    """

    bucket: int
    label: str
    requests: int
    errors: int
    tokens: int
    input_tokens: int
    output_tokens: int
    duration_ms: int
    cost_nano: int
    unpriced: int


async def select_series(connection: Connection, query: SeriesQuery) -> Sequence[SeriesRow]:
    """Ordered by bucket and label."""
    groups: tuple[Grouping, ...] = (query.unit,)
    if query.group != "none":
        groups += (query.group,)
    found = await select_stats(
        connection,
        StatsQuery(
            since=query.since,
            until=query.until,
            groups=groups,
            user_id=query.user_id,
            key_id=query.key_id or None,
            model=query.model or None,
            server=query.server or None,
        ),
    )
    return [_row(row) for row in found]


def _row(row: StatsRow) -> SeriesRow:
    return SeriesRow(
        bucket=int(row.labels[0]),
        label=row.labels[1] if len(row.labels) > 1 else "",
        requests=row.requests,
        errors=row.errors,
        tokens=row.input_tokens + row.output_tokens,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        duration_ms=row.duration_ms,
        cost_nano=row.cost_nano,
        unpriced=row.unpriced,
    )
