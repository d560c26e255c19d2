"""Sums usage over time: the one place that adds up figures for charts, tiles and tables."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.dashboard import words
from bluesminds.dashboard.charts import ChartSeries, StackedChart, stacked
from storage.usage import DAY, HOUR
from storage.usage_series import SeriesQuery, SeriesRow, SeriesUnit

TimeRange = Annotated[Literal["24h", "7d", "30d", "90d"], Meta(description="24h, 7d, 30d or 90d")]
Measure = Annotated[Literal["spend", "requests", "tokens"], Meta(description="spend, requests or tokens")]
RANGES: Final[dict[TimeRange, tuple[str, int, SeriesUnit]]] = {
    "24h": ("24 hours", 24, "hour"),
    "7d": ("7 days", 7, "day"),
    "30d": ("30 days", 30, "day"),
    "90d": ("90 days", 90, "day"),
}
MAX_SERIES: Final = 5
PACE_DAYS: Final = 7
_MEASURES: Final[
    dict[Measure, tuple[str, Callable[[SeriesRow], int], Callable[[int], str], Callable[[int], str]]]
] = {
    "spend": ("Spend", attrgetter("cost_nano"), words.usd, words.usd_axis),
    "requests": ("Requests", attrgetter("requests"), words.count, words.short),
    "tokens": ("Tokens", attrgetter("tokens"), words.count, words.short),
}


class UsageTotal(Struct, frozen=True):
    """Sums over some rows. Money in nano-USD without the `unpriced` requests."""

    requests: int = 0
    errors: int = 0
    tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    duration_ms: int = 0
    cost_nano: int = 0
    unpriced: int = 0

    @classmethod
    def of(cls, rows: Sequence[SeriesRow]) -> "UsageTotal":
        return cls(*(sum(getattr(row, name) for row in rows) for name in cls.__struct_fields__))

    @property
    def average_ms(self) -> int | None:
        return round(self.duration_ms / self.requests) if self.requests else None


class UsageGroup(Struct, frozen=True):
    """`label` is a model, a server, or the id of a key or a user; `name` is for people."""

    label: str
    name: str
    total: UsageTotal


class TimeSlots(Struct, frozen=True):
    """The hours or days of a time range, the last one being the current one."""

    range: TimeRange
    starts: Sequence[int]
    unit: SeriesUnit
    title: str

    @classmethod
    def until_now(cls, range_: TimeRange, now_ms: int) -> "TimeSlots":
        title, count, unit = RANGES[range_]
        width = HOUR if unit == "hour" else DAY
        last = now_ms // width * width
        return cls(range_, range(last - (count - 1) * width, last + 1, width), unit, title)

    def query(
        self,
        group: Literal["none", "model", "key", "server", "user"],
        user_id: str | None,
        *,
        key_id: str = "",
        model: str = "",
        server: str = "",
    ) -> SeriesQuery:
        width = HOUR if self.unit == "hour" else DAY
        until = self.starts[-1] + width
        return SeriesQuery(self.starts[0], until, self.unit, group, user_id, key_id, model, server)

    @property
    def labels(self) -> list[str]:
        write = words.utc_hour if self.unit == "hour" else words.utc_day
        return [write(start) for start in self.starts]

    def pace(self, rows: Sequence[SeriesRow]) -> int:
        """The mean cost of a day in nano-USD: of the last 7 complete days, or of the last 24 hours."""
        if self.unit == "hour":
            return sum(row.cost_nano for row in rows)
        days = self.starts[-PACE_DAYS - 1 : -1]
        return sum(row.cost_nano for row in rows if days[0] <= row.bucket <= days[-1]) // len(days)

    def values(self, rows: Sequence[SeriesRow], value: Callable[[SeriesRow], int]) -> list[int]:
        """The sum of `value` in each slot."""
        slots = dict.fromkeys(self.starts, 0)
        for row in rows:
            slots[row.bucket] += value(row)
        return list(slots.values())


def groups_of(rows: Sequence[SeriesRow], measure: Measure, names: Mapping[str, str]) -> list[UsageGroup]:
    """The groups in `rows`, the largest first."""
    by_label: dict[str, list[SeriesRow]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    value = _MEASURES[measure][1]
    ranked = sorted(by_label, key=lambda label: (-sum(map(value, by_label[label])), label))
    return [UsageGroup(label, names.get(label, label), UsageTotal.of(by_label[label])) for label in ranked]


def chart_of(
    slots: TimeSlots, rows: Sequence[SeriesRow], groups: Sequence[UsageGroup], measure: Measure
) -> StackedChart:
    """A bar for each slot, with the first groups as parts and one part for all others."""
    _, value, write, axis = _MEASURES[measure]
    first = {group.label: group.name for group in groups[:MAX_SERIES]}
    series = [
        ChartSeries(name or "none", slots.values([row for row in rows if row.label == label], value), tone)
        for tone, (label, name) in enumerate(first.items(), start=1)
    ]
    if others := len(groups) - len(first):
        rest = [row for row in rows if row.label not in first]
        series.append(ChartSeries(f"{others} other{'s' if others > 1 else ''}", slots.values(rest, value), 0))
    return stacked(slots.labels, series, write, axis)


def measure_title(measure: Measure) -> str:
    return _MEASURES[measure][0]
