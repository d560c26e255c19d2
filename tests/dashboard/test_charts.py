"""Charts show what the figures say."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bluesminds.dashboard import words
from bluesminds.dashboard.charts import HEIGHT, ChartSeries, axis_scale, sparkline, stacked
from bluesminds.dashboard.series import MAX_SERIES, TimeSlots, UsageTotal, chart_of, groups_of
from storage.usage import DAY, HOUR
from storage.usage_series import SeriesRow


@given(st.integers(0, 10**18))
@example(10**16 + 1)
def test_axis_scale_holds_the_largest_value(most: int) -> None:
    step, top = axis_scale(most)
    assert top >= most
    assert top % step == 0
    assert top // step <= 5


def test_stacked_bars_end_at_their_sum() -> None:
    chart = stacked(
        ["a", "b"],
        [ChartSeries("one", [3, 0], 1), ChartSeries("two", [1, 4], 2)],
        words.count,
        words.short,
    )
    tops = [min(int(y) for y in re.findall(r"M\d+ (\d+)h", path)) for path in chart.paths]
    assert chart.totals == [4, 4]
    assert tops == [HEIGHT // 4, 0]
    assert chart.paths[0].count("M") == 1, "a value of 0 has no bar"


@pytest.mark.parametrize("series", [[], [ChartSeries("one", [0], 1)]])
def test_stacked_without_values_has_only_the_line_of_zero(series: list[ChartSeries]) -> None:
    chart = stacked(["a"], series, words.usd, words.usd)
    assert [(tick.label, tick.at) for tick in chart.axis] == [("$0.00", "100.00%")]


@pytest.mark.parametrize("values", [[], [0], [0, 0], [1, 5, 2]])
def test_sparkline_has_a_point_for_each_value(values: list[int]) -> None:
    assert len(sparkline(values).split()) == len(values)


def row(bucket: int, label: str, requests: int) -> SeriesRow:
    return SeriesRow(bucket, label, requests, 0, 0, 0, 0, 0, requests * 1000, 0)


def test_chart_of_many_groups_sums_the_smaller_ones() -> None:
    slots = TimeSlots.until_now("7d", 100 * DAY + 5)
    rows = [row(slots.starts[-1], f"model-{n}", 10 - n) for n in range(8)]
    groups = groups_of(rows, "requests", {})
    chart = chart_of(slots, rows, groups, "requests")
    assert [one.name for one in chart.series] == [f"model-{n}" for n in range(MAX_SERIES)] + ["3 others"]
    assert chart.totals[-1] == UsageTotal.of(rows).requests == sum(10 - n for n in range(8))


def test_time_slots_end_with_the_current_one() -> None:
    now = 1_000_000 * HOUR + 17
    slots = TimeSlots.until_now("24h", now)
    assert slots.starts[-1] == 1_000_000 * HOUR
    assert len(slots.starts) == len(slots.labels) == 24
    query = slots.query("model", "user")
    assert (query.since, query.until) == (slots.starts[0], slots.starts[-1] + HOUR)
