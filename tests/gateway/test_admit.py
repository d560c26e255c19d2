"""Limits hold in every window and every race, and what is refused can pass when it was told to."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from bluesminds.errors import RateLimited
from bluesminds.gateway.admit import WINDOW, Admission, SlidingWindow, Ticket
from bluesminds.values import Caller
from tests.gateways import Gateway


def caller(*, rpm: int = 0, concurrency: int = 0, key_id: str = "k") -> Caller:
    return Caller(
        key_id=key_id,
        user_id="u",
        key_name="n",
        requests_per_minute=rpm,
        concurrency=concurrency,
        expires_at=None,
    )


def refusal(admission: Admission, who: Caller) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        admission.admit(who)
    return caught.value


# Gaps that meet the edges of seconds and of the window, and everything between.
gaps = st.one_of(
    st.floats(0, 2), st.floats(0, 90), st.sampled_from([0.0, 0.999, 1.0, 59.0, 59.999, 60.0, 60.001, 61.0])
)


@given(st.floats(0, 1000), st.lists(gaps, max_size=80), st.integers(1, 6))
def test_no_sixty_seconds_ever_hold_more_than_the_limit(start: float, waits: list[float], limit: int) -> None:
    window = SlidingWindow()
    taken: list[float] = []
    now = start
    for wait in waits:
        now += wait
        if window.taken(now) >= limit:
            # At most one second stricter than an exact window.
            assert sum(at > now - WINDOW - 1 for at in taken) >= limit
            patience = window.wait(now, limit)
            assert 0 < patience <= WINDOW + 1
            assert window.taken(now + patience - 0.001) >= limit
            now += patience
        assert window.taken(now) < limit
        window.add(now, 1)
        taken.append(now)
        assert sum(at > now - WINDOW for at in taken) <= limit
        assert 0 <= window.reset(now) <= WINDOW + 1


@given(st.floats(0, 1000), st.lists(gaps, min_size=1, max_size=40))
def test_a_window_is_empty_when_it_says(start: float, waits: list[float]) -> None:
    window = SlidingWindow()
    now = start
    for wait in waits:
        now += wait
        window.add(now, 1)
    assert window.taken(now + window.reset(now)) == 0


async def test_after_the_wait_it_was_told_the_next_request_passes(mock_clock: MockClock) -> None:
    admission = Admission()
    who = caller(rpm=3)
    mock_clock.jump(0.7)
    for _ in range(3):
        admission.admit(who).release()
        mock_clock.jump(5.3)
    exc = refusal(admission, who)
    assert exc.code == "rate_limit_exceeded"
    assert exc.headers["x-ratelimit-remaining-requests"] == "0"
    wait = int(exc.headers["retry-after-ms"]) / 1000
    assert wait <= int(exc.headers["retry-after"]) < wait + 1
    mock_clock.jump(wait - 0.01)
    refusal(admission, who)
    mock_clock.jump(0.01)
    admission.admit(who)
    refusal(admission, who)


async def test_a_refusal_costs_nothing(mock_clock: MockClock) -> None:
    admission = Admission()
    who = caller(rpm=2, concurrency=1)
    ticket = admission.admit(who)
    for _ in range(50):
        assert refusal(admission, who).code == "concurrency_limit_exceeded"
    ticket.release()
    admission.admit(who).release()
    assert refusal(admission, who).code == "rate_limit_exceeded"
    assert admission.running == 0


async def test_every_refusal_says_what_is_left(mock_clock: MockClock) -> None:
    admission = Admission()
    who = caller(rpm=5, concurrency=2)
    for _ in range(2):
        admission.admit(who)
    exc = refusal(admission, who)
    assert exc.code == "concurrency_limit_exceeded"
    assert exc.headers["x-ratelimit-limit-requests"] == "5"
    assert exc.headers["x-ratelimit-remaining-requests"] == exc.headers["x-ratelimit-remaining"] == "3"
    assert int(exc.headers["x-ratelimit-reset-ms"]) > 59_000
    assert "x-ratelimit-limit-requests" not in refusal_of(Admission(), caller(concurrency=1)).headers


def refusal_of(admission: Admission, who: Caller) -> RateLimited:
    """The one for too many at once."""
    admission.admit(who)
    return refusal(admission, who)


async def test_a_race_admits_exactly_the_limit() -> None:
    admission = Admission()
    tickets: list[Ticket] = []
    refused = 0

    async def race() -> None:
        nonlocal refused
        await trio.lowlevel.checkpoint()
        try:
            tickets.append(admission.admit(caller(rpm=100)))
        except RateLimited:
            refused += 1
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(race)
    assert (len(tickets), refused) == (100, 400)
    for ticket in tickets:
        ticket.release()
    assert admission.running == 0


async def test_a_slot_returns_once() -> None:
    admission = Admission()
    who = caller(concurrency=2)
    first, second = admission.admit(who), admission.admit(who)
    assert refusal(admission, who).headers["retry-after"] == "1"
    for _ in range(3):
        first.release()
    admission.admit(who)
    refusal(admission, who)
    second.release()
    assert admission.running == 1


async def test_keys_do_not_share_limits() -> None:
    admission = Admission()
    admission.admit(caller(rpm=1))
    admission.admit(caller(rpm=1, key_id="other"))
    refusal(admission, caller(rpm=1))


async def test_sweeping_forgets_only_what_is_over(mock_clock: MockClock) -> None:
    admission = Admission()
    running = admission.admit(caller(rpm=1, concurrency=1, key_id="running"))
    admission.admit(caller(rpm=1, key_id="recent")).release()
    mock_clock.jump(30)
    admission.sweep()
    refusal(admission, caller(rpm=1, key_id="recent"))
    mock_clock.jump(WINDOW)
    admission.sweep()
    assert refusal(admission, caller(concurrency=1, key_id="running")).code == "concurrency_limit_exceeded"
    running.release()
    assert admission.running == 0


async def test_durations_are_written_as_openai_writes_them(mock_clock: MockClock) -> None:
    admission = Admission()
    resets = {}
    for start in (0.0, 0.5, 0.999):
        mock_clock.jump(1000 - trio.current_time() % 1000 + start)
        ticket = admission.admit(caller(rpm=5, key_id=str(start)))
        resets[start] = dict(ticket.headers)
    assert resets[0.0][b"x-ratelimit-reset-requests"] == b"1m1s"
    assert resets[0.5][b"x-ratelimit-reset-requests"] == b"1m0.5s"
    assert resets[0.5][b"x-ratelimit-reset-ms"] == b"60500"
    assert admission.admit(caller(key_id="unlimited")).headers == []


async def test_racing_requests_over_the_network_get_exactly_the_limit(gateway: Gateway) -> None:
    _, key = await gateway.new_key(rpm=20, concurrency=0)
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await gateway.chat(key=key)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(ask)
    assert sorted(statuses) == [200] * 20 + [429] * 40
    assert len(gateway.rows()) == 20
