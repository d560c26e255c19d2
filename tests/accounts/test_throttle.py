"""The limits of logins, forms, changes and mail, on Trio's mock clock."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from bluesminds.accounts import throttle as throttle_module
from bluesminds.accounts.throttle import LeakyBucket, Throttle
from bluesminds.common.errors import RateLimited

ADA, BOB = "ada@example.com", "bob@example.com"
HERE, THERE = "203.0.113.1", "198.51.100.7"


def attempts(throttle: Throttle, account: str, address: str, count: int = 1) -> int:
    """How many of `count` attempts are allowed."""
    allowed = 0
    for _ in range(count):
        try:
            throttle.count_login_attempt(account, address)
            allowed += 1
        except RateLimited:
            pass
    return allowed


def log_in(throttle: Throttle, account: str, address: str) -> None:
    throttle.count_login_attempt(account, address)
    throttle.reset_on_success(account, address)


def wait_for(throttle: Throttle, account: str, address: str) -> float:
    """The seconds in the rejection."""
    with pytest.raises(RateLimited) as caught:
        throttle.count_login_attempt(account, address)
    assert caught.value.code == "too_many_attempts"
    return int(caught.value.headers["retry-after-ms"]) / 1000


async def test_login_attempts_from_one_address_are_limited_until_retry_after(
    autojump_clock: MockClock,
) -> None:
    throttle = Throttle()
    assert attempts(throttle, ADA, HERE, 1000) == 5
    assert attempts(throttle, f" {ADA.upper()}", HERE) == 0
    assert attempts(throttle, BOB, HERE) == 1, "rejected attempts are not counted"
    for _ in range(3):
        wait = wait_for(throttle, ADA, HERE)
        await trio.sleep(wait - 0.01)
        wait_for(throttle, ADA, HERE)
        await trio.sleep(0.02)
        assert attempts(throttle, ADA, HERE, 10) == 1


async def test_successful_and_released_attempts_do_not_count(autojump_clock: MockClock) -> None:
    throttle = Throttle()
    for _ in range(200):
        log_in(throttle, ADA, HERE)
        throttle.count_login_attempt(BOB, HERE)
        throttle.release(BOB, HERE)
    assert attempts(throttle, ADA, HERE, 50) == 5
    assert attempts(throttle, BOB, HERE, 50) == 5


async def test_attempts_from_one_address_do_not_lock_out_others(autojump_clock: MockClock) -> None:
    throttle = Throttle()
    for _ in range(24 * 60):
        attempts(throttle, ADA, HERE, 10)
        assert attempts(throttle, ADA, THERE) == 1
        throttle.release(ADA, THERE)
        await trio.sleep(60)


async def test_attempts_from_one_address_at_many_accounts_are_limited(autojump_clock: MockClock) -> None:
    throttle = Throttle()
    assert sum(attempts(throttle, f"{n}@example.com", HERE) for n in range(100)) == 20
    assert attempts(throttle, ADA, THERE) == 1


async def test_attempts_from_many_addresses_spare_a_known_address(
    autojump_clock: MockClock,
) -> None:
    throttle = Throttle()
    log_in(throttle, ADA.upper(), THERE)
    assert sum(attempts(throttle, ADA, f"2001:db8:0:{n:x}::1") for n in range(200)) == 100
    assert 0 < wait_for(throttle, ADA, HERE) <= 36
    assert attempts(throttle, ADA, THERE, 50) == 5
    assert attempts(throttle, BOB, HERE) == 1


async def test_known_addresses_above_max_keys_drop_the_oldest(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle_module, "MAX_KEYS", 10)
    throttle = Throttle()
    for n in range(30):
        log_in(throttle, ADA, THERE)
        log_in(throttle, f"{n}@example.com", THERE)
        assert len(throttle._known) <= 10
    assert f"{THERE} {ADA}" in throttle._known


async def test_public_forms_are_limited_per_address(autojump_clock: MockClock) -> None:
    throttle = Throttle()
    for _ in range(20):
        throttle.check_public_form(HERE)
    with pytest.raises(RateLimited) as caught:
        throttle.check_public_form(HERE)
    assert caught.value.code == "too_many_attempts"
    throttle.check_public_form(THERE)
    log_in(throttle, ADA, HERE)


async def test_changes_are_limited_per_user(autojump_clock: MockClock) -> None:
    throttle = Throttle()
    for _ in range(300):
        throttle.check_change("ada")
    with pytest.raises(RateLimited) as caught:
        throttle.check_change("ada")
    assert caught.value.code == "too_many_changes"
    throttle.check_change("eve")
    await trio.sleep(int(caught.value.headers["retry-after-ms"]) / 1000)
    throttle.check_change("ada")


async def test_mails_are_limited_per_mailbox_and_purpose(autojump_clock: MockClock) -> None:
    throttle = Throttle()
    assert [throttle.allow_mail("verify_email", ADA.title()) for _ in range(4)] == [True, True, True, False]
    assert throttle.allow_mail("verify_email", BOB)
    assert throttle.allow_mail("reset_password", ADA)
    await trio.sleep(1200)
    assert [throttle.allow_mail("verify_email", ADA) for _ in range(2)] == [True, False]


async def test_bucket_with_too_many_keys_drops_the_emptiest(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle_module, "MAX_KEYS", 100)
    bucket = LeakyBucket(5, 60.0)
    for _ in range(5):
        bucket.add("busy")
    for number in range(1000):
        bucket.add(str(number))
        assert len(bucket._empty_at) <= 100
    assert bucket.wait("busy") > 0


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=60))
def test_bucket_never_takes_more_than_burst_and_leak(steps: list[tuple[float, bool]]) -> None:
    """Against the definition: in n intervals at most burst + n entries."""
    burst, interval = 3, 10.0
    taken: list[float] = []

    async def play() -> None:
        bucket = LeakyBucket(burst, interval)
        for gap, removed in steps:
            await trio.sleep(gap)
            if bucket.wait("k") == 0:
                bucket.add("k")
                if removed:
                    bucket.remove("k")
                else:
                    taken.append(trio.current_time())

    trio.run(play, clock=MockClock(autojump_threshold=0))
    for first, began in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - began) / interval + 1e-6
