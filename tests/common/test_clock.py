"""Dates of a time zone follow each other without gaps and have the right length."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bluesminds.common.clock import Calendar, format_time, zone_named

ZONES = ("UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Beirut", "Pacific/Apia", "Asia/Kathmandu")
moments = st.integers(0, int(datetime(2040, 1, 1, tzinfo=UTC).timestamp() * 1000))


@given(st.sampled_from(ZONES), st.lists(moments, min_size=1, max_size=5))
def test_calendar_any_time_dates_are_those_of_the_zone_without_gaps(zone: str, times: list[int]) -> None:
    calendar = Calendar(zone_named(zone))
    for now in times:
        date = calendar.date(now)
        local = datetime.fromtimestamp(now // 1000, ZoneInfo(zone))
        assert (date.day, date.month) == (f"{local:%Y-%m-%d}", f"{local:%Y-%m}")
        month_ends = calendar.end_of_month(date.month)
        assert date.begins <= now < date.ends <= month_ends
        assert date.ends == calendar.end_of_day(date.day)
        following = calendar.date(date.ends)
        assert following.begins == date.ends
        assert following.day > date.day
        assert calendar.date(date.ends - 1) == date
        assert calendar.date(month_ends).month > date.month
        assert calendar.date(month_ends - 1).month == date.month


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", datetime(2027, 3, 28, tzinfo=UTC), 23),
        ("Europe/Berlin", datetime(2027, 10, 31, tzinfo=UTC), 25),
        ("UTC", datetime(2027, 3, 28, tzinfo=UTC), 24),
        ("America/Sao_Paulo", datetime(2018, 11, 4, tzinfo=UTC), 23),  # midnight is skipped
        ("America/Sao_Paulo", datetime(2018, 2, 17, tzinfo=UTC), 25),  # the last hour is repeated
        ("Pacific/Apia", datetime(2011, 12, 29, tzinfo=UTC), 24),  # the next day is skipped
    ],
)
def test_calendar_clock_change_day_has_its_real_length(zone: str, day: datetime, hours: int) -> None:
    noon = day.replace(hour=12, tzinfo=ZoneInfo(zone))
    date = Calendar(ZoneInfo(zone)).date(int(noon.timestamp() * 1000))
    assert timedelta(milliseconds=date.ends - date.begins) == timedelta(hours=hours)


def test_zone_named_unknown_name_is_refused() -> None:
    for name in ("Mars/Olympus", "../etc/passwd", ""):
        with pytest.raises((KeyError, ValueError)):
            zone_named(name)


@given(st.integers(0, int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1000))
@example(253_402_300_799_999)
def test_moment_any_time_is_exact_to_the_millisecond(at_ms: int) -> None:
    read = datetime.fromisoformat(format_time(at_ms)) - datetime(1970, 1, 1, tzinfo=UTC)
    assert read == timedelta(milliseconds=at_ms)
