"""The rate limiter: limits hold in every race, and errors state when to retry."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock

from bluesminds.common.clock import Calendar
from bluesminds.common.errors import Forbidden, GatewayError, RateLimited, Unavailable
from bluesminds.common.values import NO_LIMITS, Caller, InUse, LimitSet
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.reserve import IDLE_SECONDS, RateLimiter, Reservation
from bluesminds.gateway.limits.window import WINDOW_SECONDS
from storage.quotas import QuotaRow, RecentUse

SMALL = Estimate(tokens=10, nano=10)


@dataclass
class Wall:
    """Wall time as the test sets it."""

    at: datetime = datetime(2027, 1, 15, 12, tzinfo=UTC)

    def now_ms(self) -> int:
        return int(self.at.timestamp() * 1000)


def make_caller(*, key_id: str = "k", user_id: str = "u", user: LimitSet = NO_LIMITS, **own: int) -> Caller:
    """`own` are limits of the key."""
    return Caller(
        key_id=key_id,
        user_id=user_id,
        key_limits=LimitSet(**own),
        user_limits=user,
        expires_at=None,
    )


def open_limiter(
    *callers: Caller,
    wall: Wall | None = None,
    zone: tzinfo = UTC,
    stored: Mapping[str, QuotaRow] | None = None,
) -> RateLimiter:
    """A limiter with the accounts of these callers open."""
    limiter = RateLimiter(wall or Wall(), Calendar(zone), lambda: True)
    for caller in callers or (make_caller(),):
        for subject in (f"key:{caller.key_id}", f"user:{caller.user_id}"):
            limiter.open_account(subject, (stored or {}).get(subject))
    return limiter


def rejection(limiter: RateLimiter, caller: Caller, estimate: Estimate = SMALL) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        limiter.reserve(caller, estimate, "m")
    return caught.value


def headers_of(reservation: Reservation) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in reservation.headers}


async def test_rpm_limit_after_retry_after_allows_next_request(mock_clock: MockClock) -> None:
    limiter = open_limiter()
    caller = make_caller(rpm=3)
    mock_clock.jump(0.7)
    for _ in range(3):
        limiter.reserve(caller, SMALL).settle()
        mock_clock.jump(5.3)
    exc = rejection(limiter, caller)
    assert (exc.status, exc.code, exc.kind) == (429, "rate_limit_exceeded", "rate_limit_error")
    wait = int(exc.headers["retry-after-ms"]) / 1000
    seconds = exc.headers["retry-after"]
    assert exc.message == f"This API key is limited to 3 requests per minute. Try again in {seconds} s."
    assert wait <= int(exc.headers["retry-after"]) < wait + 1
    mock_clock.jump(wait - 0.01)
    rejection(limiter, caller)
    mock_clock.jump(0.01)
    limiter.reserve(caller, SMALL)
    rejection(limiter, caller)


async def test_two_exceeded_limits_report_longer_wait(mock_clock: MockClock) -> None:
    caller = make_caller(rpm=2, user=LimitSet(tpm=100))
    limiter = open_limiter(caller)
    limiter.reserve(caller, Estimate(5, 0)).settle(5)
    mock_clock.jump(20)
    limiter.reserve(caller, Estimate(90, 0)).settle(90)
    exc = rejection(limiter, caller, Estimate(20, 0))
    assert exc.code == "token_rate_limit_exceeded"
    assert "The account of this API key is limited to 100 tokens per minute" in exc.message
    mock_clock.jump(int(exc.headers["retry-after-ms"]) / 1000)
    limiter.reserve(caller, Estimate(20, 0))


async def test_rejected_request_changes_no_counter(mock_clock: MockClock) -> None:
    limiter = open_limiter()
    caller = make_caller(rpm=2, concurrency=1, tpm=1000, tokens_per_day=1000, usd_total=1000)
    reservation = limiter.reserve(caller, SMALL)
    for _ in range(50):
        assert rejection(limiter, caller).code == "concurrency_limit_exceeded"
    reservation.settle()
    limiter.reserve(caller, SMALL).settle()
    assert rejection(limiter, caller).code == "rate_limit_exceeded"
    assert limiter.running == 0


async def test_rejection_by_account_leaves_key_counters_unchanged(mock_clock: MockClock) -> None:
    """A rejection by the limits of the account leaves the counters of the key unchanged, and vice versa."""
    one = make_caller(rpm=5, user=LimitSet(rpm=2))
    other = make_caller(key_id="other", rpm=1, user=LimitSet(rpm=2))
    limiter = open_limiter(one, other)
    limiter.reserve(other, SMALL).settle()
    for _ in range(5):
        rejection(limiter, other)
    limiter.reserve(one, SMALL).settle()
    for _ in range(9):
        rejection(limiter, one)
    assert limiter.in_use("key:k").rpm == 1
    assert limiter.in_use("user:u").rpm == 2


TONIGHT = (43_200, "Resets at 00:00 UTC.")
NEXT_MONTH = (16 * 86_400 + 43_200, "Resets on 2027-02-01 at 00:00 UTC.")
QUOTAS = [
    ("tokens_per_day", "daily_token_quota_exceeded", TONIGHT),
    ("tokens_per_month", "monthly_token_quota_exceeded", NEXT_MONTH),
    ("usd_per_day", "daily_budget_exceeded", TONIGHT),
    ("usd_per_month", "monthly_budget_exceeded", NEXT_MONTH),
    ("usd_total", "budget_exceeded", (None, "")),
]


@pytest.mark.parametrize("owner", ["key", "user"])
@pytest.mark.parametrize(("name", "code", "end"), QUOTAS)
async def test_quota_exhausted_rejects_until_period_ends(
    owner: str, name: str, code: str, end: tuple[int | None, str], mock_clock: MockClock
) -> None:
    wait, resets = end
    limits = {name: 25}
    caller = make_caller(**limits) if owner == "key" else make_caller(user=LimitSet(**limits))
    limiter = open_limiter(caller)
    first, second = limiter.reserve(caller, SMALL), limiter.reserve(caller, SMALL)
    exc = rejection(limiter, caller)
    assert (exc.status, exc.code, exc.headers["x-should-retry"]) == (429, code, "false")
    assert exc.headers.get("retry-after") == (None if wait is None else str(wait))
    assert ("this API key" if owner == "key" else "the account of this API key") in exc.message
    assert exc.message.endswith("Running requests reserve the rest. Try again when one has finished.")
    first.settle(3, 3)
    limiter.reserve(caller, SMALL).settle(0, 0)
    second.settle(20, 20)
    exc = rejection(limiter, caller, Estimate(3, 3))
    advice = "Ask the operator to raise it." if wait is None else resets
    assert exc.message.endswith(f"needed). {advice}")
    limiter.reserve(caller, Estimate(2, 2)).settle(2, 2)
    mock_clock.jump(3600)
    rejection(limiter, caller, Estimate(1, 1))


async def test_exceeded_limits_state_figures_and_reset() -> None:
    caller = make_caller(tokens_per_day=1000, user=LimitSet(rpm=1, usd_total=5 * 10**9))
    limiter = open_limiter(caller)
    limiter.reserve(caller, SMALL).settle(977, 49 * 10**8)
    assert rejection(limiter, make_caller(tokens_per_day=1000), Estimate(535, 0)).message == (
        "Daily limit of 1000 tokens reached for this API key (23 left, 535 needed). Resets at 00:00 UTC."
    )
    assert rejection(limiter, make_caller(user=caller.user_limits), Estimate(1, 10**9)).message == (
        "Total budget of 5 USD reached for the account of this API key (0.1 left, 1 needed)."
        " Ask the operator to raise it."
    )
    rate = rejection(limiter, make_caller(rpm=1), SMALL)
    assert rate.message.startswith("This API key is limited to 1 request per minute. Try again in 6")
    assert rejection(limiter, make_caller(tpm=1), Estimate(2, 0)).message == (
        "This request may need 2 tokens, more than the 1 token per minute of this API key."
        " Send less text or a smaller `max_tokens`."
    )


async def test_request_larger_than_limit_has_no_retry_after() -> None:
    for limits in ("tpm", "tokens_per_day", "tokens_per_month", "usd_per_day", "usd_per_month", "usd_total"):
        limiter = open_limiter()
        exc = rejection(limiter, make_caller(rpm=5, **{limits: 9}))
        assert exc.code == "request_too_large_for_limit"
        assert exc.headers["x-should-retry"] == "false"
        assert "retry-after" not in exc.headers


async def test_budget_with_unpriced_model_is_forbidden() -> None:
    limiter = open_limiter()
    unpriced = Estimate(tokens=10, nano=None)
    limiter.reserve(make_caller(tpm=100), unpriced).settle(10)
    with pytest.raises(Forbidden) as caught:
        limiter.reserve(make_caller(user=LimitSet(usd_total=10**9)), unpriced, "secret-model")
    assert caught.value.code == "model_not_priced"
    assert caught.value.message == (
        "The account of this API key has a budget or prepaid credit, but `secret-model` has no price."
    )


async def test_free_request_is_allowed_over_every_budget_and_named_by_other_limits() -> None:
    limiter = open_limiter()
    spent = make_caller(usd_total=100, usd_per_day=100, rpm=2, user=LimitSet(usd_per_month=100))
    limiter.reserve(spent, SMALL).settle(10, 500)
    limiter.credit_changed("u", -7, 1)  # a payment was taken back
    assert rejection(limiter, spent).code == "insufficient_credit"
    limiter.reserve(spent, Estimate(10, 0)).settle(10, 0)
    assert rejection(limiter, spent, Estimate(10, 0)).code == "rate_limit_exceeded"


async def test_reservation_is_extended_to_exactly_the_credit() -> None:
    limiter = open_limiter()
    limiter.credit_changed("u", 100, 1)
    reservation = limiter.reserve(make_caller(), Estimate(1, 40))
    assert not reservation.extend(101)
    assert reservation.extend(100)
    assert rejection(limiter, make_caller(), Estimate(1, 1)).code == "insufficient_credit"
    reservation.settle(1, 100)
    assert reservation.charged == 100


async def test_request_of_an_account_without_credit_left_is_charged_nothing() -> None:
    limiter = open_limiter()
    limiter.credit_changed("u", 50, 1)
    reservation = limiter.reserve(make_caller(), Estimate(1, 50))
    limiter.credit_changed("u", -80, 2)  # a payment was taken back
    reservation.settle(1, 50)
    assert reservation.charged == 0
    limiter.credit_changed("u", 40, 3)
    assert limiter.money_left(make_caller()) == 10


async def test_change_of_the_credit_that_is_known_counts_once() -> None:
    limiter = open_limiter()
    for revision in (1, 1, 2, 1):
        limiter.credit_changed("u", 50, revision)
    assert limiter.money_left(make_caller()) == 100


async def test_settle_replaces_reserved_tokens_in_their_minute(mock_clock: MockClock) -> None:
    """Less than reserved is given back in the minute it was taken in; more counts at once."""
    limiter = open_limiter()
    caller = make_caller(tpm=100)
    limiter.reserve(caller, Estimate(90, 0)).settle(30)
    big = limiter.reserve(caller, Estimate(70, 0))
    assert rejection(limiter, caller, Estimate(1, 0)).code == "token_rate_limit_exceeded"
    mock_clock.jump(30)
    big.settle(170)
    mock_clock.jump(30.5)
    assert limiter.in_use("key:k").tpm == 100 + 100
    mock_clock.jump(1)
    assert limiter.in_use("key:k").tpm == 100
    rejection(limiter, caller, Estimate(1, 0))
    mock_clock.jump(30)
    limiter.reserve(caller, Estimate(100, 0))


RACES = [
    (make_caller(rpm=100), Estimate(1, 1), 100),
    (make_caller(concurrency=100), Estimate(1, 1), 100),
    (make_caller(tpm=1000), Estimate(10, 1), 100),
    (make_caller(tokens_per_day=1009), Estimate(10, 1), 100),
    (make_caller(usd_total=1009), Estimate(1, 10), 100),
    (make_caller(rpm=400, user=LimitSet(usd_per_month=1000, rpm=499)), Estimate(1, 10), 100),
]


@pytest.mark.parametrize(("caller", "estimate", "allowed"), RACES)
async def test_racing_requests_reserve_exactly_the_limit(
    caller: Caller, estimate: Estimate, allowed: int
) -> None:
    limiter = open_limiter(caller)
    reservations: list[Reservation] = []
    rejected = 0

    async def race() -> None:
        nonlocal rejected
        await trio.lowlevel.checkpoint()
        try:
            reservations.append(limiter.reserve(caller, estimate))
        except RateLimited:
            rejected += 1
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(race)
    assert (len(reservations), rejected) == (allowed, 500 - allowed)
    for reservation in reservations:
        reservation.settle()
    assert limiter.running == 0


async def test_concurrent_large_requests_reserve_tokens_once() -> None:
    limiter = open_limiter()
    caller = make_caller(tpm=1000)
    reservations = [limiter.reserve(caller, Estimate(600, 0))]
    for _ in range(4):
        rejection(limiter, caller, Estimate(600, 0))
    reservations[0].settle(600)
    rejection(limiter, caller, Estimate(600, 0))


async def test_reservation_settled_twice_returns_one_slot() -> None:
    limiter = open_limiter()
    caller = make_caller(concurrency=2)
    first, second = limiter.reserve(caller, SMALL), limiter.reserve(caller, SMALL)
    assert rejection(limiter, caller).headers["retry-after"] == "1"
    for _ in range(3):
        first.settle(5, 5)
    limiter.reserve(caller, SMALL)
    rejection(limiter, caller)
    second.settle()
    assert limiter.running == 1


async def test_keys_of_one_account_share_its_limits() -> None:
    limits = LimitSet(rpm=2)
    callers = [make_caller(rpm=1, user=limits), make_caller(key_id="second", rpm=5, user=limits)]
    other = make_caller(key_id="other", user_id="other", rpm=1, user=limits)
    limiter = open_limiter(*callers, other)
    limiter.reserve(callers[0], SMALL)
    limiter.reserve(callers[1], SMALL)
    assert "The account" in rejection(limiter, callers[1]).message
    limiter.reserve(other, SMALL)


async def test_changed_limit_keeps_counted_usage() -> None:
    limiter = open_limiter()
    for _ in range(5):
        limiter.reserve(make_caller(), SMALL).settle(10, 10)
    assert rejection(limiter, make_caller(rpm=5)).code == "rate_limit_exceeded"
    assert rejection(limiter, make_caller(tokens_per_day=55)).code == "daily_token_quota_exceeded"
    assert rejection(limiter, make_caller(user=LimitSet(usd_total=55))).code == "budget_exceeded"
    limiter.reserve(make_caller(rpm=6, tokens_per_day=60, user=LimitSet(usd_total=60)), SMALL)


async def test_opened_account_continues_stored_usage() -> None:
    row = QuotaRow("user:u", "2027-01-15", 90, 900, "2027-01", 190, 1900, 290, 2900)
    caller = make_caller(user=LimitSet(tokens_per_day=100, tokens_per_month=205, usd_total=3000))
    limiter = open_limiter(caller, stored={"user:u": row})
    assert rejection(limiter, caller, Estimate(11, 0)).code == "daily_token_quota_exceeded"
    assert rejection(limiter, caller, Estimate(1, 101)).code == "budget_exceeded"
    limiter.reserve(caller, Estimate(10, 100)).settle(10, 100)
    tomorrow = open_limiter(caller, stored={"user:u": row}, wall=Wall(datetime(2027, 1, 16, tzinfo=UTC)))
    tomorrow.reserve(caller, Estimate(15, 0)).settle(15)
    assert rejection(tomorrow, caller, Estimate(1, 0)).code == "monthly_token_quota_exceeded"
    next_month = open_limiter(caller, stored={"user:u": row}, wall=Wall(datetime(2027, 2, 1, tzinfo=UTC)))
    next_month.reserve(caller, Estimate(100, 100)).settle(100, 0)
    assert rejection(next_month, caller, Estimate(1, 1)).code == "daily_token_quota_exceeded"


async def test_restore_counts_last_minute_of_previous_process(mock_clock: MockClock) -> None:
    mock_clock.jump(1000)
    wall, caller = Wall(), make_caller(rpm=5, user=LimitSet(tpm=60))
    noon = wall.now_ms() // 1000
    limiter = RateLimiter(wall, Calendar(UTC), lambda: True)
    limiter.restore(
        [
            RecentUse("k", "u", noon - 100, 9, 9),  # from before the restart
            RecentUse("k", "u", noon - 40, 3, 30),
            RecentUse("other", "u", noon - 10, 1, 20),
            RecentUse("k", "u", noon, 1, 0),
        ]
    )
    assert limiter.in_use("key:k") == InUse(rpm=4, tpm=30)
    assert limiter.in_use("user:u") == InUse(rpm=5, tpm=50)
    for subject in ("key:k", "user:u"):
        limiter.open_account(subject, None)
    assert rejection(limiter, caller, Estimate(11, 0)).code == "token_rate_limit_exceeded"
    limiter.reserve(caller, Estimate(10, 0)).settle(10)
    exc = rejection(limiter, caller)
    assert (exc.code, exc.headers["retry-after"]) == ("rate_limit_exceeded", "22"), (
        "the 40 s ago, to the second"
    )
    mock_clock.jump(22)
    limiter.reserve(caller, SMALL)


async def test_restored_use_later_than_now_counts_from_now(mock_clock: MockClock) -> None:
    """The wall clock was set back."""
    mock_clock.jump(1000)
    wall = Wall()
    limiter = RateLimiter(wall, Calendar(UTC), lambda: True)
    limiter.restore([RecentUse("k", "u", wall.now_ms() // 1000 + 30, 1, 1)])
    assert limiter.in_use("key:k") == InUse(rpm=1, tpm=1)
    mock_clock.jump(WINDOW_SECONDS + 1)
    assert limiter.in_use("key:k") == InUse()


async def test_sweep_drops_expired_restored_minutes(mock_clock: MockClock) -> None:
    mock_clock.jump(1000)
    wall = Wall()
    limiter = RateLimiter(wall, Calendar(UTC), lambda: True)
    limiter.restore([RecentUse("k", "u", wall.now_ms() // 1000, 1, 1)])
    limiter.sweep()
    assert limiter.in_use("user:u").rpm == 1
    mock_clock.jump(WINDOW_SECONDS + 2)
    limiter.sweep()
    assert not limiter._minutes


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia"]
MIDNIGHTS = [datetime(2027, month, 1, tzinfo=UTC) for month in (1, 4, 11)] + [
    datetime(2027, 3, 28, tzinfo=UTC),  # Beirut skips this midnight
    datetime(2027, 3, 14, tzinfo=UTC),
    datetime(2027, 10, 31, tzinfo=UTC),
    datetime(2027, 11, 7, tzinfo=UTC),
]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("midnight", MIDNIGHTS, ids=str)
async def test_periods_roll_over_at_local_midnight(
    zone: str, midnight: datetime, mock_clock: MockClock
) -> None:
    local = ZoneInfo(zone)
    at = midnight.replace(tzinfo=local).astimezone(UTC)
    wall = Wall(at - timedelta(milliseconds=1))
    caller = make_caller(tokens_per_day=10, user=LimitSet(tokens_per_month=15))
    limiter = open_limiter(caller, wall=wall, zone=local)
    running = limiter.reserve(caller, SMALL)
    exc = rejection(limiter, caller, Estimate(5, 5))
    assert (exc.code, exc.headers["retry-after"]) == ("daily_token_quota_exceeded", "1")
    wall.at = at
    if midnight.day == 1:
        second = limiter.reserve(caller, SMALL)
        assert second.month != running.month
    else:
        second = limiter.reserve(caller, Estimate(5, 5))
        assert second.month == running.month
        rejection(limiter, caller, Estimate(1, 1))
    assert (running.day, second.day) == (
        (midnight - timedelta(days=1)).date().isoformat(),
        midnight.date().isoformat(),
    )
    running.settle(0)
    assert rejection(limiter, caller, Estimate(10, 10)).code.endswith("quota_exceeded")


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1), timedelta(1), timedelta(-1)])
async def test_wall_clock_jump_grants_no_quota_twice(jump: timedelta, mock_clock: MockClock) -> None:
    wall = Wall()
    caller = make_caller(rpm=2, user=LimitSet(tokens_per_day=100))
    limiter = open_limiter(caller, wall=wall)
    for _ in range(2):
        limiter.reserve(caller, SMALL).settle(40)
    wall.at += jump
    assert rejection(limiter, caller).code == "rate_limit_exceeded"
    mock_clock.jump(WINDOW_SECONDS + 1)
    limiter.reserve(caller, SMALL).settle(10)
    new_day = jump == timedelta(1)
    wall.at -= jump
    mock_clock.jump(WINDOW_SECONDS + 1)
    left = 90 if new_day else 10
    assert rejection(limiter, caller, Estimate(left + 1, 0)).code == "daily_token_quota_exceeded"
    limiter.reserve(caller, Estimate(left, 0))


async def test_wall_clock_set_back_into_the_month_before_grants_no_quota_twice(mock_clock: MockClock) -> None:
    wall = Wall(datetime(2027, 2, 1, tzinfo=UTC))
    caller = make_caller(tokens_per_month=100)
    limiter = open_limiter(caller, wall=wall)
    limiter.reserve(caller, SMALL).settle(90)
    wall.at -= timedelta(hours=1)
    assert rejection(limiter, caller, Estimate(11, 0)).code == "monthly_token_quota_exceeded"
    limiter.reserve(caller, Estimate(10, 0))


@pytest.mark.parametrize(("name", "wait"), [("tokens_per_day", 36), ("usd_per_month", 36 + 15 * 24)])
async def test_wall_clock_set_back_reports_later_period_end(
    name: str, wait: int, mock_clock: MockClock
) -> None:
    """The account stays in the later day."""
    wall = Wall()
    caller = make_caller(**{name: 10})
    limiter = open_limiter(caller, wall=wall)
    wall.at += timedelta(days=1)
    limiter.reserve(caller, SMALL).settle(10, 10)
    wall.at -= timedelta(days=1)
    headers = int(rejection(limiter, caller).headers["retry-after"])
    assert headers == wait * 3600
    wall.at += timedelta(seconds=headers - 1)
    rejection(limiter, caller)
    wall.at += timedelta(seconds=1)
    limiter.reserve(caller, SMALL)


async def test_rate_headers_show_tighter_limit_of_each_request(mock_clock: MockClock) -> None:
    caller = make_caller(rpm=10, tpm=1000, user=LimitSet(rpm=3, tpm=5000))
    limiter = open_limiter(caller)
    first = limiter.reserve(caller, Estimate(200, 0))
    second = limiter.reserve(caller, Estimate(300, 0))
    headers = headers_of(second)
    assert headers == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": headers["x-ratelimit-reset-requests"],
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset-ms": headers["x-ratelimit-reset-ms"],
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": headers["x-ratelimit-reset-tokens"],
    }
    second.settle(50)
    assert headers_of(second)["x-ratelimit-remaining-tokens"] == "750"
    assert headers_of(first)["x-ratelimit-remaining-tokens"] == "800"
    first.settle(5000)
    assert headers_of(first)["x-ratelimit-remaining-tokens"] == "0"
    assert dict(limiter.headers(caller))[b"x-ratelimit-remaining-tokens"] == b"0"
    assert dict(limiter.headers(caller))[b"x-ratelimit-remaining-requests"] == b"1"


async def test_rate_header_durations_use_openai_format(mock_clock: MockClock) -> None:
    resets = {}
    for start in (0.0, 0.5, 0.999):
        mock_clock.jump(1000 - trio.current_time() % 1000 + start)
        resets[start] = headers_of(open_limiter().reserve(make_caller(rpm=5), SMALL))
    assert resets[0.0]["x-ratelimit-reset-requests"] == "1m1s"
    assert resets[0.5]["x-ratelimit-reset-requests"] == "1m0.5s"
    assert resets[0.5]["x-ratelimit-reset-ms"] == "60500"
    assert open_limiter().reserve(make_caller(), SMALL).headers == []


async def test_sweep_closes_only_idle_accounts(mock_clock: MockClock) -> None:
    busy, idle = make_caller(key_id="busy", rpm=5), make_caller(key_id="idle", user_id="idle", rpm=5)
    limiter = open_limiter(busy, idle)
    running = limiter.reserve(busy, SMALL)
    limiter.reserve(idle, SMALL).settle()
    mock_clock.jump(IDLE_SECONDS - 1)
    limiter.sweep()
    assert limiter.is_open(idle, limiter.monotonic())
    mock_clock.jump(2)
    limiter.sweep()
    assert limiter.is_open(idle, limiter.monotonic())  # the lookup keeps it open
    mock_clock.jump(IDLE_SECONDS + 1)
    limiter.sweep()
    assert not limiter.is_open(idle, limiter.monotonic())
    assert limiter.is_open(busy, limiter.monotonic())
    with pytest.raises(Unavailable, match="Limits"):
        limiter.reserve(idle, SMALL)
    running.settle(10, 10)
    assert limiter.running == 0


async def test_sweep_keeps_accounts_with_unwritten_rows(mock_clock: MockClock) -> None:
    """An account that is reopened from the store would not count rows that are not stored yet."""
    late, idle = make_caller(key_id="late", user_id="late"), make_caller(key_id="idle", user_id="idle")
    limiter = open_limiter(late, idle)
    limiter.reserve(idle, SMALL).settle(10)
    mock_clock.jump(1)
    limiter.reserve(late, SMALL).settle(10)
    unwritten = trio.current_time()
    mock_clock.jump(IDLE_SECONDS + 1)
    limiter.sweep(unwritten)
    assert list(limiter._accounts) == ["key:late", "user:late"]
    limiter.sweep()
    assert not limiter._accounts


async def test_reserve_without_lease_allows_only_unlimited_callers() -> None:
    caller = make_caller(user=LimitSet(rpm=5))
    leased = True
    limiter = RateLimiter(Wall(), Calendar(UTC), lambda: leased)
    limiter.open_account("key:k", None)
    limiter.open_account("user:u", None)
    limiter.reserve(caller, SMALL)
    leased = False
    with pytest.raises(Unavailable) as caught:
        limiter.reserve(caller, SMALL)
    assert (caught.value.status, caught.value.code) == (503, "limits_unavailable")
    limiter.reserve(make_caller(), SMALL)


def two_accounts(limits: LimitSet) -> tuple[RateLimiter, list[Caller]]:
    """A limiter with a budget of the tier "pro", and callers of two accounts with this tier."""
    limiter = RateLimiter(Wall(), Calendar(UTC), lambda: True, tier_budgets={"pro": limits})
    callers = []
    for name in ("a", "b"):
        caller = structs.replace(make_caller(key_id=name, user_id=name), tier="pro")
        limiter.open_account(f"key:{name}", None)
        limiter.open_account(f"user:{name}", None)
        callers.append(caller)
    return limiter, callers


async def test_budget_of_a_tier_is_shared_by_its_accounts(mock_clock: MockClock) -> None:
    limiter, (one, other) = two_accounts(LimitSet(usd_per_day=100))
    first = limiter.reserve(one, Estimate(1, 60))
    assert (first.tier, first.has_budget, limiter.money_left(other)) == ("pro", True, 40)
    exc = rejection(limiter, other, Estimate(1, 41))
    assert (exc.status, exc.code) == (429, "tier_budget_exceeded")
    assert "100" not in exc.message and "40" not in exc.message and "Resets at 00:00 UTC" in exc.message
    second = limiter.reserve(other, Estimate(1, 40))
    assert not second.extend(41)
    first.settle(1, 50)
    assert second.extend(50) and not second.extend(51)
    assert first.charged is None
    free = structs.replace(other, tier="")
    assert limiter.reserve(free, Estimate(1, 1000)).tier == ""
    assert rejection(limiter, one, Estimate(1, None)).code == "model_not_priced"


async def test_use_of_a_tier_is_restored_and_starts_again_with_the_month(mock_clock: MockClock) -> None:
    wall = Wall()
    stored = QuotaRow("tier:pro", "2027-01-15", 0, 5, "2027-01", 0, 95, 0, 95)
    limiter = RateLimiter(
        wall, Calendar(UTC), lambda: True, tier_budgets={"pro": LimitSet(usd_per_month=100)}
    )
    limiter.restore_tiers({"tier:pro": stored})
    caller = structs.replace(make_caller(), tier="pro")
    limiter.open_account("key:k", None)
    limiter.open_account("user:u", None)
    limiter.reserve(caller, Estimate(1, 5)).settle(1, 5)
    assert rejection(limiter, caller, Estimate(1, 1)).code == "tier_budget_exceeded"
    wall.at = wall.at.replace(month=2)
    limiter.reserve(caller, Estimate(1, 100))
