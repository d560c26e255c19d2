"""Durations as text: 30s, 12h, 7d, 1h30m."""

import re
from typing import Final

_DURATION: Final = re.compile(
    r"(?=[0-9])(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})s)?\Z"
)
_UNITS: Final = (86_400, 3_600, 60, 1)


def read_duration(text: str) -> int:
    """The seconds of a duration with the units d, h, m and s. Raises ValueError."""
    if (found := _DURATION.match(text)) is None:
        raise ValueError("a duration is written like 30s, 12h, 7d or 1h30m")
    return sum(int(number) * unit for number, unit in zip(found.groups(), _UNITS, strict=True) if number)
