"""Durations as text."""

import pytest

from bluesminds.common.durations import read_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("12h", 43_200), ("7d", 604_800), ("1h30m", 5_400), ("1d1s", 86_401)]
)
def test_read_duration_valid_text_gives_seconds(text: str, seconds: int) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "1m1h", "-1s", "1.5h", "1 h", "1h\n", "\u0663s", "1w"])
def test_read_duration_other_text_raises(text: str) -> None:
    with pytest.raises(ValueError, match="a duration is written like"):
        read_duration(text)
