"""How pages write numbers, money, durations and times."""

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Final

from bluesminds.common.clock import zone_named
from bluesminds.common.money import NANO

NO_VALUE: Final = "\N{EN DASH}"
_SECOND: Final = 1000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE


def count(value: int | None) -> str:
    return NO_VALUE if value is None else f"{value:,}"


def short(value: int) -> str:
    """Three significant digits from 10,000 on: 1,234 but 12.3K, 123K and 1.23M."""
    if value < 10_000:
        return f"{value:,}"
    # 999,500 is 1.00M, because three digits of it are.
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{letter}"
    return str(value)


def usd(nano: int | None) -> str:
    """Cents from $1 on, below that two significant digits. Never $0.00 for an amount that is not 0."""
    if nano is None:
        return "no price"
    whole = abs(nano) / NANO
    sign = "\N{MINUS SIGN}" if nano < 0 else ""
    if nano == 0 or whole >= 1:
        return f"{sign}${whole:,.2f}"
    digits = next(n for n in range(2, 10) if round(whole * 10**n) >= 10 or n == 9)
    return f"{sign}${whole:.{digits}f}"


def usd_axis(nano: int) -> str:
    whole = nano / NANO
    if whole >= 10 or whole == int(whole):
        return f"${short(round(whole))}"
    return usd(nano)


def exact_usd(nano: int) -> str:
    """All digits, where amounts must add up."""
    whole, fraction = divmod(abs(nano), NANO)
    return f"{MINUS if nano < 0 else ''}${whole}.{f'{fraction:09}'.rstrip('0').ljust(2, '0')}"


def size(count: int) -> str:
    """Bytes: 512 bytes, 12.3 MiB."""
    if count < 1024:
        return f"{count} bytes"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def lasting(ms: int) -> str:
    """A period in its largest whole unit: 3 days, 1 hour, 90 minutes."""
    for unit, name in ((24 * _HOUR, "day"), (_HOUR, "hour")):
        if ms % unit == 0:
            return f"{ms // unit} {name}{'' if ms == unit else 's'}"
    return f"{ms // _MINUTE} minutes"


def span(ms: int | None) -> str:
    """A duration: 812 ms, 3.70 s, 2 min 5 s."""
    if ms is None:
        return NO_VALUE
    if ms < _SECOND:
        return f"{ms} ms"
    return f"{ms / _SECOND:.2f} s" if ms < _MINUTE else f"{ms // _MINUTE} min {ms % _MINUTE // _SECOND} s"


def request_state(status: int, outcome: str) -> tuple[str, str]:
    """The tone and the text of a request: good, warn or bad, and the status with what happened after it."""
    if status >= 300:
        return ("warn" if status < 500 else "bad"), str(status)
    after = {"ok": "", "client_gone": ", client left", "stopped": ", stopped at a limit"}
    if outcome not in after:
        return "bad", f"{status}, cut off"
    return ("warn" if after[outcome] else "good"), f"{status}{after[outcome]}"


def long_span(seconds: float) -> str:
    """A duration in its largest unit: 45 seconds, 3 hours, 1 day."""
    value, unit = next(
        (int(seconds // size), name)
        for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (0.001, "second"))
        if seconds >= size or size < 1
    )
    value = int(seconds) if unit == "second" else value
    return f"{value} {unit}{'' if value == 1 else 's'}"


def percent(part: int, whole: int) -> str:
    if not whole:
        return NO_VALUE
    share = part * 100 / whole
    return "<0.1%" if 0 < share < 0.1 else f"{share:.1f}%" if share < 10 else f"{share:.0f}%"


def share(part: int, whole: int) -> int:
    """Whole percent from 0 to 100, for a bar."""
    return min(100, part * 100 // whole) if whole else 0


def change(now: int, before: int) -> str:
    """The change against an earlier time, such as +12%."""
    moved = round((now - before) * 100 / before)
    return f"{'+' if moved > 0 else MINUS if moved < 0 else ''}{abs(moved):,}%"


MINUS: Final = "\N{MINUS SIGN}"


class Times:
    """Times in the zone of the reader. An unknown zone is UTC."""

    def __init__(self, zone: str, now_ms: int) -> None:
        self._zone, self.zone = _zone_or_utc(zone)
        self._now = now_ms

    def clock(self, ms: int) -> str:
        """28 Nov, 23:57:24; with the year if it is another one."""
        at = self._local(ms)
        return f"{self._date(at)}, {at:%H:%M:%S}"

    def minute(self, ms: int) -> str:
        """28 Nov, 23:57"""
        at = self._local(ms)
        return f"{self._date(at)}, {at:%H:%M}"

    def day(self, ms: int) -> str:
        """28 Nov"""
        return self._date(self._local(ms))

    def iso(self, ms: int) -> str:
        return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"

    def ago(self, ms: int | None) -> str:
        """just now, 5 minutes ago, 3 days ago; for None, never."""
        if ms is None:
            return "never"
        passed = self._now - ms
        return "just now" if passed < _MINUTE else f"{long_span(passed / _SECOND)} ago"

    def _local(self, ms: int) -> datetime:
        return datetime.fromtimestamp(ms // 1000, self._zone)

    def _date(self, at: datetime) -> str:
        year = "" if at.year == self._local(self._now).year else f" {at.year}"
        return f"{at.day} {at:%b}{year}"


def _zone_or_utc(name: str) -> tuple[tzinfo, str]:
    try:
        return (zone_named(name), name) if name else (UTC, "UTC")
    except (KeyError, ValueError, OSError):  # OSError: a directory of the database, or too long a name
        return UTC, "UTC"


_BROWSERS: Final = (("Edg/", "Edge"), ("Firefox/", "Firefox"), ("Chrom", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS: Final = (
    ("Windows", "Windows"),
    ("Android", "Android"),
    ("iPhone", "iOS"),
    ("iPad", "iOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)


def browser_name(user_agent: str) -> str:
    """Such as "Firefox on Linux", or the text itself if it is of another program."""
    browser = next((name for part, name in _BROWSERS if part in user_agent), "")
    system = next((name for part, name in _SYSTEMS if part in user_agent), "")
    return f"{browser} on {system}" if browser and system else user_agent or "unknown"


def utc_day(ms: int) -> str:
    """28 Nov: the label of a day of the roll-ups, which are in UTC."""
    at = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{at.day} {at:%b}"


def utc_hour(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%H:%M}"


def month_name(month: str) -> str:
    """November, of 2026-11."""
    return f"{datetime.fromisoformat(f'{month}-01'):%B}"


def month_title(month: str) -> str:
    """November 2026, of 2026-11."""
    return f"{month_name(month)} {month[:4]}"


FILTERS: Final[dict[str, Callable[..., str | int]]] = {
    "count": count,
    "short": short,
    "usd": usd,
    "exact_usd": exact_usd,
    "size": size,
    "span": span,
    "browser_name": browser_name,
    "month_title": month_title,
}
