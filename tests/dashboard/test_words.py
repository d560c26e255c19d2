"""How pages write numbers, money, durations and times."""

from datetime import UTC, datetime

import pytest

from bluesminds.dashboard import words
from bluesminds.dashboard.words import Times

NOON = int(datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (12_340, "12.3K"),
        (99_960, "100K"),
        (999_600, "1.00M"),
        (1_234_000, "1.23M"),
        (5_000_000_000, "5.00B"),
    ],
)
def test_short_has_three_digits(value: int, text: str) -> None:
    assert words.short(value) == text


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (None, "no price"),
        (0, "$0.00"),
        (1, "$0.000000001"),
        (1_800_000, "$0.0018"),
        (123_400_000, "$0.12"),
        (999_000_000, "$1.00"),
        (1_234_560_000_000, "$1,234.56"),
        (-2_500_000_000, "\N{MINUS SIGN}$2.50"),
    ],
)
def test_usd_never_writes_zero_for_an_amount(nano: int | None, text: str) -> None:
    assert words.usd(nano) == text


@pytest.mark.parametrize("nano", [1, 999_999_999, 10**9, 12_345_678_901])
def test_exact_usd_writes_every_digit(nano: int) -> None:
    whole, _, fraction = words.exact_usd(nano).removeprefix("$").partition(".")
    assert int(whole) * 10**9 + int(fraction.ljust(9, "0")) == nano


@pytest.mark.parametrize(
    ("ms", "text"), [(None, words.NO_VALUE), (812, "812 ms"), (3_700, "3.70 s"), (125_000, "2 min 5 s")]
)
def test_span_uses_the_fitting_unit(ms: int | None, text: str) -> None:
    assert words.span(ms) == text


@pytest.mark.parametrize(
    ("minutes", "text"),
    [(4320, "3 days"), (1440, "1 day"), (60, "1 hour"), (2160, "36 hours"), (90, "90 minutes")],
)
def test_lasting_uses_the_largest_whole_unit(minutes: int, text: str) -> None:
    assert words.lasting(minutes * 60_000) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, words.NO_VALUE), (0, 5, "0.0%"), (1, 10_000, "<0.1%"), (1, 60, "1.7%"), (1, 2, "50%")],
)
def test_percent_of_nothing_is_a_dash(part: int, whole: int, text: str) -> None:
    assert words.percent(part, whole) == text


def test_change_has_a_sign() -> None:
    assert words.change(120, 100) == "+20%"
    assert words.change(80, 100) == "\N{MINUS SIGN}20%"
    assert words.change(100, 100) == "0%"


def test_times_in_a_zone_are_local() -> None:
    assert Times("Europe/Berlin", NOON).clock(NOON) == "28 Nov, 13:00:00"
    assert Times("", NOON).clock(NOON) == "28 Nov, 12:00:00"


@pytest.mark.parametrize("zone", ["No/Where", "../../etc/passwd", "x" * 5000, "\0", "Europe"])
def test_times_in_an_unknown_zone_are_utc(zone: str) -> None:
    times = Times(zone, NOON)
    assert (times.zone, times.minute(NOON)) == ("UTC", "28 Nov, 12:00")


def test_times_of_another_year_name_it() -> None:
    assert Times("", NOON).day(NOON - 400 * 86_400_000) == "24 Oct 2025"


@pytest.mark.parametrize(
    ("passed", "text"),
    [(5, "just now"), (61, "1 minute ago"), (7_300, "2 hours ago"), (200_000, "2 days ago")],
)
def test_ago_uses_the_largest_unit(passed: int, text: str) -> None:
    assert Times("", NOON).ago(NOON - passed * 1000) == text


def test_ago_without_a_time_is_never() -> None:
    assert Times("", NOON).ago(None) == "never"
