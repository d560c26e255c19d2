"""The sliding window: at most its limit in any 60 s, and at most one second stricter than an exact window."""

from hypothesis import given
from hypothesis import strategies as st

from bluesminds.gateway.limits.window import WINDOW_SECONDS, SlidingWindow

# Gaps at the edges of seconds and of the window, and between them.
gaps = st.one_of(
    st.floats(0, 2), st.floats(0, 90), st.sampled_from([0.0, 0.999, 1.0, 59.0, 59.999, 60.0, 60.001, 61.0])
)


@given(st.floats(0, 1000), st.lists(gaps, max_size=80), st.integers(1, 6))
def test_window_never_exceeds_limit_in_any_sixty_seconds(
    start: float, waits: list[float], limit: int
) -> None:
    window = SlidingWindow()
    taken: list[float] = []
    now = start
    for wait in waits:
        now += wait
        if window.used(now) >= limit:
            # At most one second stricter than an exact window.
            assert sum(at > now - WINDOW_SECONDS - 1 for at in taken) >= limit
            pause = window.wait(now, limit)
            assert 0 < pause <= WINDOW_SECONDS + 1
            assert window.used(now + pause - 0.001) >= limit
            now += pause
        assert window.used(now) < limit
        window.add(now, 1)
        taken.append(now)
        assert sum(at > now - WINDOW_SECONDS for at in taken) <= limit
        assert 0 <= window.reset(now) <= WINDOW_SECONDS + 1


steps_strategy = st.tuples(gaps, st.integers(1, 50), st.integers(0, 80))  # wait, held, finally used


@given(st.floats(0, 1000), st.lists(steps_strategy, max_size=60), st.integers(50, 120))
def test_window_amounts_given_back_stay_within_exact_bounds(
    start: float, steps: list[tuple[float, int, int]], limit: int
) -> None:
    window = SlidingWindow()
    counted: list[tuple[float, int]] = []  # time and amount in an exact window
    now = start
    for wait, held, used in steps:
        now += wait
        pause = window.wait(now, limit, held)
        if pause:
            assert pause <= WINDOW_SECONDS + 1
            assert window.used(now + pause - 0.001) + held > limit
            now += pause
        assert window.used(now) + held <= limit
        assert sum(amount for at, amount in counted if at > now - WINDOW_SECONDS) + held <= limit
        bucket = window.add(now, held)
        counted.append((now, min(held, used)))
        if used < held:
            window.give_back(bucket, held - used)
        elif used > held:
            window.add(now, used - held)
            counted.append((now, used - held))
        exact = sum(amount for at, amount in counted if at > now - WINDOW_SECONDS)
        stricter = sum(amount for at, amount in counted if at > now - WINDOW_SECONDS - 1)
        assert exact <= window.used(now) <= stricter


@given(st.floats(0, 1000), st.lists(gaps, min_size=1, max_size=40))
def test_window_after_reset_is_empty(start: float, waits: list[float]) -> None:
    window = SlidingWindow()
    now = start
    for wait in waits:
        now += wait
        window.add(now, 1)
    assert window.used(now + window.reset(now)) == 0


def test_give_back_to_expired_bucket_changes_nothing() -> None:
    window = SlidingWindow()
    bucket = window.add(0.0, 10)
    assert window.used(100.0) == 0
    window.give_back(bucket, 4)
    assert window.used(100.0) == 0
    assert window.reset(100.0) == 0.0
