"""Tables of cases: every case is tried, and each one that fails is named."""

from typing import Any

import pytest

from tests.cases import each


def notes_of(exc: BaseException) -> list[str]:
    return [*getattr(exc, "__notes__", ())]


def test_each_several_failing_cases_are_all_named() -> None:
    tried: list[Any] = []

    @each(("number", "text"), [(0, "a"), (1, "b"), (2, "c"), (3, "d")])
    def check(number: int, text: str) -> None:
        tried.append(text)
        if number == 1:
            pytest.fail("wrong")
        assert number != 3

    with pytest.raises(BaseExceptionGroup) as failed:
        check()
    assert tried == ["a", "b", "c", "d"]
    named = ["case 1: {'number': 1, 'text': 'b'}", "case 3: {'number': 3, 'text': 'd'}"]
    assert [notes_of(exc) for exc in failed.value.exceptions] == [[name] for name in named]


def test_each_one_failing_case_is_raised_as_it_is() -> None:
    @each("number", [0, 1])
    def check(number: int) -> None:
        assert number == 0

    with pytest.raises(AssertionError) as failed:
        check()
    assert notes_of(failed.value) == ["case 1: {'number': 1}"]


def test_each_without_cases_is_refused() -> None:
    with pytest.raises(AssertionError):
        each("number", [])
