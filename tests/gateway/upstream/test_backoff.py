"""The pause before a server is tried again."""

from hypothesis import given
from hypothesis import strategies as st

from bluesminds.gateway.upstream.backoff import Backoff


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 60))
def test_pause_is_a_random_part_of_a_bounded_exponential(value: float, repetition: int) -> None:
    backoff = Backoff(random=lambda: value, base=0.25, longest=4.0)
    assert backoff.pause(repetition, None) == value * min(4.0, 0.25 * 2**repetition)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 5))
def test_pause_is_never_shorter_than_the_server_says(value: float, retry_after: float) -> None:
    pause = Backoff(random=lambda: value).pause(0, retry_after)
    assert retry_after <= pause <= retry_after + 0.4
