"""Statistics from the sums by hour and by day. Nothing here reads the log."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, LiteralString, TypeAlias

import msgspec
from msgspec import Struct

from storage.base import Connection, Engine
from storage.latency import percentile
from storage.usage import DAY, HOUR

Grouping: TypeAlias = Literal["hour", "day", "month", "model", "key", "user", "server", "tag"]
_DECODER: Final = msgspec.json.Decoder(list[dict[int, int]])
PERCENTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class StatsQuery:
    """Sums the buckets that start in [since, until), in milliseconds, for each combination of the `groups`.

    Buckets are days (UTC), or hours (UTC) when grouping by hour or over at most two days that do not start at
    midnight. `tag` is the name of the field in the metadata of keys that "tag" groups by.
    """

    since: int
    until: int
    groups: tuple[Grouping, ...] = ()
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None
    server: str | None = None
    tag: str = ""

    @property
    def bucket(self) -> int:
        """The width of the buckets in milliseconds."""
        if "hour" in self.groups or (self.since % DAY and self.until - self.since <= 2 * DAY):
            return HOUR
        return DAY

    @property
    def is_of_site(self) -> bool:
        """Whether the sums of all users together are enough."""
        named = self.user_id is not None or self.key_id is not None
        return not named and not {"key", "user", "tag"} & {*self.groups}

    @property
    def is_of_keys(self) -> bool:
        """Whether the sums of keys for all models and servers together are enough, which are by day."""
        named = self.model is not None or self.server is not None
        return self.bucket == DAY and not named and not {"model", "server"} & {*self.groups}


class UsageCounts(Struct, frozen=True):
    """What requests used. `images` were made, `audio_ms` milliseconds of audio were read, and `characters`
    were spoken.
    """

    requests: int
    errors: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    image_input_tokens: int
    image_output_tokens: int
    images: int
    audio_ms: int
    characters: int


class StatsRow(UsageCounts, frozen=True):
    """Sums over one group. `labels` has one for each group: the start of the hour or day in milliseconds, a
    month such as 2026-02, a name or an ID; "" for requests without one.

    `unpriced` counts requests that used a model without a price; `cost_nano` does not include them.
    """

    duration_ms: int
    cost_nano: int
    unpriced: int
    labels: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The only label."""
        (label,) = self.labels
        return label


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Percentiles 50, 95 and 99 of one group in milliseconds, of the whole time and of the time until the
    first byte; None without such requests.
    """

    durations: tuple[int | None, ...]
    first_bytes: tuple[int | None, ...]


async def select_stats(connection: Connection, query: StatsQuery) -> list[StatsRow]:
    """Ordered by the labels."""
    rows = await connection.all(stats_statement(query, connection.engine), **_parameters(query))
    size = len(query.groups)
    return [StatsRow(*(*row[size:], tuple(row[:size]))) for row in rows]


async def select_latency(connection: Connection, query: StatsQuery) -> dict[tuple[str, ...], LatencyRow]:
    """By the labels of the groups. Empty if the query would read the sums of all keys: that takes seconds."""
    if not query.is_of_site and query.user_id is None:
        return {}
    rows = await connection.all(latency_statement(query, connection.engine), **_parameters(query))
    size = len(query.groups)
    texts: dict[tuple[str, ...], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for row in rows:
        durations, first_bytes = texts[tuple(row[:size])]
        durations.append(row[size])
        first_bytes.append(row[size + 1])
    return {
        labels: LatencyRow(_percentiles(durations), _percentiles(first_bytes))
        for labels, (durations, first_bytes) in texts.items()
    }


def _percentiles(histograms: Sequence[str]) -> tuple[int | None, ...]:
    merged: dict[int, int] = {}
    for counts in _DECODER.decode(f"[{','.join(histograms)}]"):
        for low, count in counts.items():
            merged[low] = merged.get(low, 0) + count
    return tuple(percentile(merged, share) for share in PERCENTILES)


def _parameters(query: StatsQuery) -> dict[str, object]:
    given: dict[str, object] = {"since": query.since, "until": query.until}
    filters = {name: getattr(query, name) for name in _FILTERS}
    given |= {name: value for name, value in filters.items() if value is not None}
    return given | {"tag": query.tag} if "tag" in query.groups else given


def stats_statement(query: StatsQuery, engine: Engine) -> LiteralString:
    """Names only the groups and filters that are given: `:model IS NULL OR model = :model` would not use an
    index.
    """
    return (
        _select(query, engine) + _SUMS + " FROM " + _sums(query) + _where(query) + _grouped(len(query.groups))
    )


def latency_statement(query: StatsQuery, engine: Engine) -> LiteralString:
    """The histograms of each row. Merging them in the database takes ten times as long."""
    return _select(query, engine) + "durations, first_bytes FROM " + _histograms(query) + _where(query)


def _select(query: StatsQuery, engine: Engine) -> LiteralString:
    labels = (_TAG[engine] if group == "tag" else _LABELS[engine][group] for group in query.groups)
    return "SELECT " + "".join(label + ", " for label in labels)


def _histograms(query: StatsQuery) -> LiteralString:
    """The smallest table with histograms that can answer the query."""
    if query.is_of_site:
        return "usage_site_hourly" if query.bucket == HOUR else "usage_site_daily"
    return "usage_hourly" if query.bucket == HOUR else "usage_daily"


def _sums(query: StatsQuery) -> LiteralString:
    return "usage_key_daily" if query.is_of_keys and not query.is_of_site else _histograms(query)


def _where(query: StatsQuery) -> LiteralString:
    given = (condition for name, condition in _FILTERS.items() if getattr(query, name) is not None)
    return " WHERE bucket_start >= :since AND bucket_start < :until" + "".join(given)


def _grouped(columns: int) -> LiteralString:
    numbers = ", ".join(str(number) for number in range(1, columns + 1))
    return f" GROUP BY {numbers} ORDER BY {numbers}" if columns else " HAVING SUM(requests) > 0"


_FILTERS: Final[Mapping[str, LiteralString]] = {
    "user_id": " AND user_id = :user_id",
    "key_id": " AND key_id = :key_id",
    "model": " AND model = :model",
    "server": " AND server = :server",
}
_ANY: Final[Mapping[str, LiteralString]] = {
    "hour": "CAST(bucket_start - bucket_start % 3600000 AS TEXT)",
    "day": "CAST(bucket_start - bucket_start % 86400000 AS TEXT)",
    "model": "model",
    "key": "key_id",
    "user": "user_id",
    "server": "server",
}
_LABELS: Final[Mapping[Engine, Mapping[str, LiteralString]]] = {
    "sqlite": {**_ANY, "month": "strftime('%Y-%m', bucket_start / 1000, 'unixepoch')"},
    "postgres": {
        **_ANY,
        "month": "to_char(to_timestamp(bucket_start / 1000) AT TIME ZONE 'UTC', 'YYYY-MM')",
    },
}
_TAG: Final[Mapping[Engine, LiteralString]] = {
    "sqlite": "coalesce((SELECT metadata ->> ('$.\"' || :tag || '\"') FROM api_keys WHERE id = key_id), '')",
    "postgres": "coalesce((SELECT metadata::json ->> :tag::text FROM api_keys WHERE id = key_id), '')",
}
_SUMS: Final[LiteralString] = """
        CAST(SUM(requests) AS BIGINT), CAST(SUM(errors) AS BIGINT),
        CAST(SUM(input_tokens) AS BIGINT), CAST(SUM(output_tokens) AS BIGINT),
        CAST(SUM(cache_read_tokens) AS BIGINT), CAST(SUM(cache_write_tokens) AS BIGINT),
        CAST(SUM(reasoning_tokens) AS BIGINT),
        CAST(SUM(audio_input_tokens) AS BIGINT), CAST(SUM(audio_output_tokens) AS BIGINT),
        CAST(SUM(image_input_tokens) AS BIGINT), CAST(SUM(image_output_tokens) AS BIGINT),
        CAST(SUM(images) AS BIGINT), CAST(SUM(audio_ms) AS BIGINT), CAST(SUM(characters) AS BIGINT),
        CAST(SUM(duration_ms) AS BIGINT),
        CAST(SUM(cost_nano) AS BIGINT), CAST(SUM(unpriced) AS BIGINT)
"""
