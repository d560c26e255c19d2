"""Wall time and calendar dates. Limits and deadlines use Trio's monotonic clock instead.

Wall time is an integer: milliseconds since the Unix epoch. In the API and the log it is written as RFC 3339
in UTC with milliseconds.
"""

import time
from datetime import UTC, datetime, timedelta, tzinfo
from datetime import date as date_of
from datetime import time as time_of_day
from typing import Protocol, overload
from zoneinfo import ZoneInfo

from msgspec import Struct

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall time: milliseconds since the Unix epoch, UTC."""


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def zone_or_utc(name: str) -> tzinfo:
    """UTC for a name that is unknown by now."""
    try:
        return zone_named(name)
    except (KeyError, ValueError):
        return UTC


class Date(Struct, frozen=True, gc=False):
    """A day of a time zone, and its month. `begins` and `ends` are wall time; `ends` is exclusive."""

    day: str  # 2026-02-28
    month: str  # 2026-02
    begins: int
    ends: int


class Calendar:
    """Dates in one time zone. `date` runs for every request, so the current date is cached until it ends."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._date = self._find(0)

    def date(self, now_ms: int) -> Date:
        known = self._date
        if known.begins <= now_ms < known.ends:
            return known
        self._date = self._find(now_ms)
        return self._date

    def end_of_day(self, day: str) -> int:
        """Wall time at the end of a day, written like 2026-02-28."""
        return self._begin(date_of.fromisoformat(day) + timedelta(days=1))

    def end_of_month(self, month: str) -> int:
        """Wall time at the end of a month, written like 2026-02."""
        return self._begin((date_of.fromisoformat(f"{month}-01") + timedelta(days=31)).replace(day=1))

    def describe(self, at_ms: int, now_ms: int) -> str:
        """A later time in the zone: "at 00:00 UTC", or "on 2027-02-01 at 00:00 UTC" if not by tonight."""
        local = datetime.fromtimestamp(at_ms // 1000, self._zone)
        date = "" if at_ms <= self.date(now_ms).ends else f"on {local:%Y-%m-%d} "
        return f"{date}at {local:%H:%M} {self._zone}"

    def _find(self, now_ms: int) -> Date:
        today = datetime.fromtimestamp(now_ms // 1000, self._zone).date()
        day = today.isoformat()
        return Date(day=day, month=day[:7], begins=self._begin(today), ends=self.end_of_day(day))

    def _begin(self, day: date_of) -> int:
        """If daylight saving time skips midnight, the time of the skip."""
        return int(datetime.combine(day, time_of_day(), self._zone).timestamp()) * 1000


def zone_named(name: str) -> tzinfo:
    """The IANA time zone. Raises KeyError or ValueError for an unknown name."""
    return UTC if name == "UTC" else ZoneInfo(name)


@overload
def format_time(at_ms: int) -> str: ...
@overload
def format_time(at_ms: None) -> None: ...
@overload
def format_time(at_ms: int | None) -> str | None: ...
def format_time(at_ms: int | None) -> str | None:
    """Wall time as 2026-02-28T12:00:00.000Z; None stays None."""
    if at_ms is None:
        return None
    at = _EPOCH + timedelta(
        milliseconds=at_ms
    )  # a float of seconds is off by one millisecond from the year 2242 on
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
