"""Filters of lists by days in UTC."""

from typing import Annotated

from msgspec import Meta

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.prices import read_day
from storage.usage import DAY

DayText = Annotated[
    str, Meta(pattern=r"^(20\d\d-\d\d-\d\d)?\Z", description="a day like 2026-02-28, or empty")
]


def read_days(since: str, until: str) -> tuple[int | None, int | None]:
    """[since, until) in milliseconds of two days that are both included; None for an empty one. Raises
    InvalidRequest for a day that does not exist.
    """
    first, last = _read("since", since), _read("until", until)
    return first, None if last is None else last + DAY


def _read(name: str, text: str) -> int | None:
    try:
        return read_day(text) if text else None
    except ValueError as exc:
        raise InvalidRequest("invalid_value", f"{name} must be a day that exists.", param=name) from exc
