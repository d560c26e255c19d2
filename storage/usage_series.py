"""Usage over time: sums of each hour or day, by model, key or server. Reads the roll-ups, not the log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.base import Connection
from storage.usage import DAY, HOUR

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
    filters = {"key_id": query.key_id, "model": query.model, "server": query.server}
    within = {"since": query.since, "until": query.until, "grouping": query.group}
    hours = query.unit == "hour"
    if query.user_id is None and not hours and not query.key_id and query.group not in ("key", "user"):
        del filters["key_id"]
        rows = await connection.all(SERIES_OF_SITE, **within, **filters)
    elif query.user_id is None:
        rows = await connection.all(SERIES_HOURS if hours else SERIES_DAYS, **within, **filters)
    else:
        statement = SERIES_HOURS_OF_USER if hours else SERIES_DAYS_OF_USER
        rows = await connection.all(statement, user_id=query.user_id, **within, **filters)
    return [SeriesRow(*row) for row in rows]


_SUMS = """
        CAST(SUM(requests) AS BIGINT), CAST(SUM(errors) AS BIGINT),
        CAST(SUM(input_tokens + output_tokens) AS BIGINT),
        CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT),
        CAST(SUM(duration_ms) AS BIGINT), CAST(SUM(cost_nano) AS BIGINT), CAST(SUM(unpriced) AS BIGINT)
"""
_SELECT = (
    """
    SELECT
        bucket_start,
        CASE CAST(:grouping AS TEXT)
            WHEN 'model' THEN model WHEN 'key' THEN key_id WHEN 'server' THEN server WHEN 'user' THEN user_id
            ELSE ''
        END,
"""
    + _SUMS
)
_SITE_WHERE = """
    WHERE bucket_start >= :since AND bucket_start < :until
        AND (CAST(:model AS TEXT) = '' OR model = :model)
        AND (CAST(:server AS TEXT) = '' OR server = :server)
"""
_WHERE = _SITE_WHERE + " AND (CAST(:key_id AS TEXT) = '' OR key_id = :key_id)"
_OF_USER = " AND user_id = :user_id"
_BY = " GROUP BY 1, 2 ORDER BY 1, 2"

SERIES_HOURS = _SELECT + "FROM usage_hourly" + _WHERE + _BY
SERIES_DAYS = _SELECT + "FROM usage_daily" + _WHERE + _BY
SERIES_HOURS_OF_USER = _SELECT + "FROM usage_hourly" + _WHERE + _OF_USER + _BY
SERIES_DAYS_OF_USER = _SELECT + "FROM usage_daily" + _WHERE + _OF_USER + _BY
SERIES_OF_SITE = (
    """
    SELECT
        bucket_start,
        CASE CAST(:grouping AS TEXT) WHEN 'model' THEN model WHEN 'server' THEN server ELSE '' END,
"""
    + _SUMS
    + "FROM usage_site"
    + _SITE_WHERE
    + _BY
)
