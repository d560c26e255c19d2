"""How a soak run judges its samples."""

import pytest

from bench.soak import BOUNDS, growth, judge


def line(start: float, end: float, count: int = 30) -> list[tuple[float, float]]:
    return [(float(at), start + (end - start) * at / (count - 1)) for at in range(count)]


def test_growth_is_that_of_the_line_and_not_of_single_values() -> None:
    assert growth(line(10, 16)) == pytest.approx(6)
    flat = [(float(at), 100.0 + (5 if at == 12 else 0)) for at in range(25)]
    assert growth(flat) == pytest.approx(0)
    assert growth([(0.0, 5.0)]) == 0


def test_soak_fails_for_what_grows_after_the_first_third() -> None:
    steady = {name: line(50, 50) for name in BOUNDS}
    assert judge(steady) == []
    warm = line(10, 90, 10) + [(float(at), 90.0) for at in range(10, 30)]
    assert judge(steady | {"memory MiB": warm}) == []
    assert judge(steady | {"threads": line(20, 50)}) == ["threads: +19.7 (bound: +1)"]
