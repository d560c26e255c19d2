"""Attempts are counted exactly, waits are true, and one address locks out nobody but itself."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.accounts import throttle as throttle_module
from bluesminds.accounts.throttle import LeakyBucket, Throttle, network
from bluesminds.common.errors import RateLimited

HERE, THERE = "203.0.113.1", "198.51.100.7"


def attempts(throttle: Throttle, account: str, address: str, count: int) -> int:
    """How many of them are let in."""
    admitted = 0
    for _ in range(count):
        try:
            throttle.sign_in(account, address)
            admitted += 1
        except RateLimited:
            pass
    return admitted


def wait_for(throttle: Throttle, account: str, address: str) -> float:
    with pytest.raises(RateLimited) as caught:
        throttle.sign_in(account, address)
    assert caught.value.code == "too_many_attempts"
    return int(caught.value.headers["retry-after-ms"]) / 1000


async def test_failures_are_counted_before_they_fail(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    assert attempts(throttle, "ada@example.com", HERE, 50) == 5
    assert attempts(throttle, " ADA@example.com", HERE, 1) == 0, "however it is written"


async def test_the_wait_is_true(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    attempts(throttle, "ada@example.com", HERE, 5)
    for _ in range(3):
        wait = wait_for(throttle, "ada@example.com", HERE)
        await trio.sleep(wait - 0.01)
        wait_for(throttle, "ada@example.com", HERE)
        await trio.sleep(0.02)
        throttle.sign_in("ada@example.com", HERE)


async def test_a_user_changes_so_much_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    for _ in range(300):
        throttle.change("ada")
    with pytest.raises(RateLimited) as caught:
        throttle.change("ada")
    assert caught.value.code == "too_many_changes"
    throttle.change("eve")
    await trio.sleep(int(caught.value.headers["retry-after-ms"]) / 1000)
    throttle.change("ada")


async def test_what_succeeds_costs_nothing(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    for _ in range(200):
        throttle.sign_in("ada@example.com", HERE)
        throttle.forgive("ada@example.com", HERE)
    assert attempts(throttle, "ada@example.com", HERE, 50) == 5


async def test_a_flood_from_one_address_does_not_lock_the_owner_out_elsewhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    throttle = Throttle()
    for _ in range(24 * 60):
        attempts(throttle, "ada@example.com", HERE, 10)
        throttle.sign_in("ada@example.com", THERE)
        throttle.forgive("ada@example.com", THERE)
        await trio.sleep(60)


async def test_an_address_that_tries_many_accounts_is_slowed(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    assert sum(attempts(throttle, f"{n}@example.com", HERE, 1) for n in range(100)) == 20
    assert attempts(throttle, "ada@example.com", THERE, 1) == 1


async def test_an_account_that_many_addresses_try_is_slowed(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    assert sum(attempts(throttle, "ada@example.com", f"10.0.{n}.1", 1) for n in range(200)) == 100
    assert 0 < wait_for(throttle, "ada@example.com", THERE) <= 36, "the owner is not locked out for long"


async def test_many_addresses_do_not_lock_the_owner_out_where_he_has_been(
    autojump_clock: trio.testing.MockClock,
) -> None:
    throttle = Throttle()
    throttle.sign_in("Ada@example.com", THERE)
    throttle.forgive("Ada@example.com", THERE)
    for n in range(200):
        attempts(throttle, "ada@example.com", f"2001:db8:0:{n:x}::1", 1)
    assert wait_for(throttle, "ada@example.com", HERE) > 0
    assert attempts(throttle, "ada@example.com", THERE, 50) == 5, "as many as ever, and no more"
    assert attempts(throttle, "bob@example.com", THERE, 1) == 1


async def test_where_somebody_has_been_is_forgotten_in_turn(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle_module, "MAX_KEYS", 10)
    throttle = Throttle()
    for n in range(30):
        for account in ("ada@example.com", f"{n}@example.com"):
            throttle.sign_in(account, THERE)
            throttle.forgive(account, THERE)
        assert len(throttle._known) <= 10
    assert f"{THERE} ada@example.com" in throttle._known, "who signs in stays"


async def test_a_refused_attempt_takes_no_place(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    attempts(throttle, "ada@example.com", HERE, 1000)
    assert attempts(throttle, "bob@example.com", HERE, 1) == 1
    await trio.sleep(60)
    assert attempts(throttle, "ada@example.com", HERE, 10) == 1


async def test_mail_to_one_box_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    throttle = Throttle()
    asked = [throttle.may_mail("verify_email", "Ada@example.com") for _ in range(5)]
    assert asked == [True, True, True, False, False]
    assert throttle.may_mail("verify_email", "bob@example.com")
    assert throttle.may_mail("reset_password", "ada@example.com"), "another way in stays open"
    await trio.sleep(1200)
    asked = [throttle.may_mail("verify_email", "ada@EXAMPLE.com") for _ in range(2)]
    assert asked == [True, False]


async def test_there_is_a_bound_on_what_is_remembered(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle_module, "MAX_KEYS", 100)
    bucket = LeakyBucket(5, 60.0)
    for _ in range(5):
        bucket.take("busy")
    for number in range(1000):
        bucket.take(str(number))
        assert len(bucket._full_at) <= 100
    assert bucket.wait("busy") > 0, "those who tried most are kept longest"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
    ],
)
def test_what_one_caller_has_of_addresses(address: str, expected: str) -> None:
    assert network(address) == expected


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60))
def test_a_bucket_never_gives_more_than_it_holds(steps: list[tuple[float, bool]]) -> None:
    """Against the plain definition: in no window of n pauses are there more than burst + n."""
    burst, pause = 3, 10.0
    taken: list[float] = []

    async def play() -> None:
        bucket = LeakyBucket(burst, pause)
        for gap, back in steps:
            await trio.sleep(gap)
            if bucket.wait("k") == 0:
                bucket.take("k")
                if back:
                    bucket.give_back("k")
                else:
                    taken.append(trio.current_time())

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            room = burst + (taken[last] - taken[first]) / pause
            assert last - first + 1 <= room + 1e-6
