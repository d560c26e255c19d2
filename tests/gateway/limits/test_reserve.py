"""Limits hold in every race, and what is refused can pass when it was told to."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
import trio
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


def caller(*, key_id: str = "k", user_id: str = "u", user: LimitSet = NO_LIMITS, **own: int) -> Caller:
    """`own` are limits of the key."""
    return Caller(
        key_id=key_id,
        user_id=user_id,
        key_limits=LimitSet(**own),
        user_limits=user,
        expires_at=None,
    )


def opened(
    *callers: Caller,
    wall: Wall | None = None,
    zone: tzinfo = UTC,
    stored: Mapping[str, QuotaRow] | None = None,
) -> RateLimiter:
    """An admission with the accounts of these callers."""
    limiter = RateLimiter(wall or Wall(), Calendar(zone), lambda: True)
    for who in callers or (caller(),):
        for subject in (f"key:{who.key_id}", f"user:{who.user_id}"):
            limiter.open_account(subject, (stored or {}).get(subject))
    return limiter


def refusal(limiter: RateLimiter, who: Caller, demand: Estimate = SMALL) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        limiter.reserve(who, demand, "m")
    return caught.value


def headers_of(reservation: Reservation) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in reservation.headers}


async def test_after_the_wait_it_was_told_the_next_request_passes(mock_clock: MockClock) -> None:
    limiter = opened()
    who = caller(rpm=3)
    mock_clock.jump(0.7)
    for _ in range(3):
        limiter.reserve(who, SMALL).settle()
        mock_clock.jump(5.3)
    exc = refusal(limiter, who)
    assert (exc.status, exc.code, exc.kind) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert exc.message.startswith("This API key is limited to 3 requests per minute")
    wait = int(exc.headers["retry-after-ms"]) / 1000
    assert wait <= int(exc.headers["retry-after"]) < wait + 1
    mock_clock.jump(wait - 0.01)
    refusal(limiter, who)
    mock_clock.jump(0.01)
    limiter.reserve(who, SMALL)
    refusal(limiter, who)


async def test_of_two_waits_the_longer_is_told(mock_clock: MockClock) -> None:
    who = caller(rpm=2, user=LimitSet(tpm=100))
    limiter = opened(who)
    limiter.reserve(who, Estimate(5, 0)).settle(5)
    mock_clock.jump(20)
    limiter.reserve(who, Estimate(90, 0)).settle(90)
    exc = refusal(limiter, who, Estimate(20, 0))
    assert exc.code == "token_rate_limit_exceeded"
    assert "The account of this API key is limited to 100 tokens per minute" in exc.message
    mock_clock.jump(int(exc.headers["retry-after-ms"]) / 1000)
    limiter.reserve(who, Estimate(20, 0))


async def test_a_refusal_costs_nothing(mock_clock: MockClock) -> None:
    limiter = opened()
    who = caller(rpm=2, concurrency=1, tpm=1000, tokens_per_day=1000, usd_total=1000)
    reservation = limiter.reserve(who, SMALL)
    for _ in range(50):
        assert refusal(limiter, who).code == "concurrency_limit_exceeded"
    reservation.settle()
    limiter.reserve(who, SMALL).settle()
    assert refusal(limiter, who).code == "rate_limit_exceeded"
    assert limiter.running == 0


async def test_all_or_nothing_of_key_and_account(mock_clock: MockClock) -> None:
    """What the account refuses has taken nothing of the key, and the other way round."""
    one = caller(rpm=5, user=LimitSet(rpm=2))
    other = caller(key_id="other", rpm=1, user=LimitSet(rpm=2))
    limiter = opened(one, other)
    limiter.reserve(other, SMALL).settle()
    for _ in range(5):
        refusal(limiter, other)
    limiter.reserve(one, SMALL).settle()
    for _ in range(9):
        refusal(limiter, one)
    assert limiter.in_use("key:k").rpm == 1
    assert limiter.in_use("user:u").rpm == 2


QUOTAS = [
    ("tokens_per_day", 25, "daily_token_quota_exceeded", 43_200),
    ("tokens_per_month", 25, "monthly_token_quota_exceeded", 16 * 86_400 + 43_200),
    ("usd_per_day", 25, "daily_budget_exceeded", 43_200),
    ("usd_per_month", 25, "monthly_budget_exceeded", 16 * 86_400 + 43_200),
    ("usd_total", 25, "budget_exceeded", None),
]


@pytest.mark.parametrize("whose", ["key", "user"])
@pytest.mark.parametrize(("name", "limit", "code", "wait"), QUOTAS)
async def test_quotas_and_budgets(
    whose: str, name: str, limit: int, code: str, wait: int | None, mock_clock: MockClock
) -> None:
    limits = LimitSet(**{name: limit})
    who = caller(**{name: limit}) if whose == "key" else caller(user=limits)
    limiter = opened(who)
    first, second = limiter.reserve(who, SMALL), limiter.reserve(who, SMALL)
    exc = refusal(limiter, who)
    assert (exc.status, exc.code, exc.headers["x-should-retry"]) == (429, code, "false")
    assert exc.headers.get("retry-after") == (None if wait is None else str(wait))
    assert exc.message.startswith("This API key" if whose == "key" else "The account of this API key")
    assert "while others are running. Wait for one to finish" in exc.message
    first.settle(3, 3)
    limiter.reserve(who, SMALL).settle(0, 0)
    second.settle(20, 20)
    exc = refusal(limiter, who, Estimate(3, 3))
    assert ("Wait for the next" in exc.message, "running" in exc.message) == (wait is not None, False)
    limiter.reserve(who, Estimate(2, 2)).settle(2, 2)
    mock_clock.jump(3600)
    refusal(limiter, who, Estimate(1, 1))


async def test_what_can_never_fit_is_not_told_to_wait() -> None:
    for limits in ("tpm", "tokens_per_day", "tokens_per_month", "usd_per_day", "usd_per_month", "usd_total"):
        limiter = opened()
        exc = refusal(limiter, caller(rpm=5, **{limits: 9}))
        assert exc.code == "request_too_large_for_limit"
        assert exc.headers["x-should-retry"] == "false"
        assert "retry-after" not in exc.headers


async def test_a_budget_needs_a_price() -> None:
    limiter = opened()
    unpriced = Estimate(tokens=10, nano=None)
    limiter.reserve(caller(tpm=100), unpriced).settle(10)
    with pytest.raises(Forbidden) as caught:
        limiter.reserve(caller(user=LimitSet(usd_total=10**9)), unpriced, "secret-model")
    assert (caught.value.code, "`secret-model`" in caught.value.message) == ("model_not_priced", True)


async def test_tokens_are_settled_to_the_truth(mock_clock: MockClock) -> None:
    """Less than reserved is given back in the minute it was taken in; more counts at once."""
    limiter = opened()
    who = caller(tpm=100)
    limiter.reserve(who, Estimate(90, 0)).settle(30)
    big = limiter.reserve(who, Estimate(70, 0))
    assert refusal(limiter, who, Estimate(1, 0)).code == "token_rate_limit_exceeded"
    mock_clock.jump(30)
    big.settle(170)
    mock_clock.jump(30.5)
    assert limiter.in_use("key:k").tpm == 100 + 100
    mock_clock.jump(1)
    assert limiter.in_use("key:k").tpm == 100
    refusal(limiter, who, Estimate(1, 0))
    mock_clock.jump(30)
    limiter.reserve(who, Estimate(100, 0))


RACES = [
    (caller(rpm=100), Estimate(1, 1), 100),
    (caller(concurrency=100), Estimate(1, 1), 100),
    (caller(tpm=1000), Estimate(10, 1), 100),
    (caller(tokens_per_day=1009), Estimate(10, 1), 100),
    (caller(usd_total=1009), Estimate(1, 10), 100),
    (caller(rpm=400, user=LimitSet(usd_per_month=1000, rpm=499)), Estimate(1, 10), 100),
]


@pytest.mark.parametrize(("who", "demand", "admitted"), RACES)
async def test_a_race_admits_exactly_the_limit(who: Caller, demand: Estimate, admitted: int) -> None:
    limiter = opened(who)
    tickets: list[Reservation] = []
    refused = 0

    async def race() -> None:
        nonlocal refused
        await trio.lowlevel.checkpoint()
        try:
            tickets.append(limiter.reserve(who, demand))
        except RateLimited:
            refused += 1
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(race)
    assert (len(tickets), refused) == (admitted, 500 - admitted)
    for reservation in tickets:
        reservation.settle()
    assert limiter.running == 0


async def test_five_large_requests_at_once_do_not_slip_through_a_limit_for_one() -> None:
    limiter = opened()
    who = caller(tpm=1000)
    tickets = [limiter.reserve(who, Estimate(600, 0))]
    for _ in range(4):
        refusal(limiter, who, Estimate(600, 0))
    tickets[0].settle(600)
    refusal(limiter, who, Estimate(600, 0))


async def test_a_slot_returns_once() -> None:
    limiter = opened()
    who = caller(concurrency=2)
    first, second = limiter.reserve(who, SMALL), limiter.reserve(who, SMALL)
    assert refusal(limiter, who).headers["retry-after"] == "1"
    for _ in range(3):
        first.settle(5, 5)
    limiter.reserve(who, SMALL)
    refusal(limiter, who)
    second.settle()
    assert limiter.running == 1


async def test_keys_share_the_limits_of_their_account_and_no_others() -> None:
    limits = LimitSet(rpm=2)
    callers = [caller(rpm=1, user=limits), caller(key_id="other", rpm=5, user=limits)]
    stranger = caller(key_id="strange", user_id="stranger", rpm=1, user=limits)
    limiter = opened(*callers, stranger)
    limiter.reserve(callers[0], SMALL)
    limiter.reserve(callers[1], SMALL)
    assert "The account" in refusal(limiter, callers[1]).message
    limiter.reserve(stranger, SMALL)


async def test_changing_a_limit_resets_nothing() -> None:
    limiter = opened()
    for _ in range(5):
        limiter.reserve(caller(), SMALL).settle(10, 10)
    assert refusal(limiter, caller(rpm=5)).code == "rate_limit_exceeded"
    assert refusal(limiter, caller(tokens_per_day=55)).code == "daily_token_quota_exceeded"
    assert refusal(limiter, caller(user=LimitSet(usd_total=55))).code == "budget_exceeded"
    limiter.reserve(caller(rpm=6, tokens_per_day=60, user=LimitSet(usd_total=60)), SMALL)


async def test_a_restart_goes_on_from_what_was_stored() -> None:
    row = QuotaRow("user:u", "2027-01-15", 90, 900, "2027-01", 190, 1900, 290, 2900)
    who = caller(user=LimitSet(tokens_per_day=100, tokens_per_month=205, usd_total=3000))
    limiter = opened(who, stored={"user:u": row})
    assert refusal(limiter, who, Estimate(11, 0)).code == "daily_token_quota_exceeded"
    assert refusal(limiter, who, Estimate(1, 101)).code == "budget_exceeded"
    limiter.reserve(who, Estimate(10, 100)).settle(10, 100)
    tomorrow = opened(who, stored={"user:u": row}, wall=Wall(datetime(2027, 1, 16, tzinfo=UTC)))
    tomorrow.admit(who, Estimate(15, 0)).settle(15)
    assert refusal(tomorrow, who, Estimate(1, 0)).code == "monthly_token_quota_exceeded"
    next_month = opened(who, stored={"user:u": row}, wall=Wall(datetime(2027, 2, 1, tzinfo=UTC)))
    next_month.admit(who, Estimate(100, 100)).settle(100, 0)
    assert refusal(next_month, who, Estimate(1, 1)).code == "daily_token_quota_exceeded"


async def test_a_restart_goes_on_in_the_minute_it_was_in(mock_clock: MockClock) -> None:
    mock_clock.jump(1000)
    wall, who = Wall(), caller(rpm=5, user=LimitSet(tpm=60))
    noon = wall.now_ms() // 1000
    limiter = RateLimiter(wall, Calendar(UTC), lambda: True)
    limiter.restore(
        [
            RecentUse("k", "u", noon - 100, 9, 9),  # a minute of before
            RecentUse("k", "u", noon - 40, 3, 30),
            RecentUse("other", "u", noon - 10, 1, 20),
            RecentUse("k", "u", noon, 1, 0),
        ]
    )
    assert limiter.in_use("key:k") == InUse(rpm=4, tpm=30)
    assert limiter.in_use("user:u") == InUse(rpm=5, tpm=50)
    for subject in ("key:k", "user:u"):
        limiter.open_account(subject, None)
    assert refusal(limiter, who, Estimate(11, 0)).code == "token_rate_limit_exceeded"
    limiter.reserve(who, Estimate(10, 0)).settle(10)
    exc = refusal(limiter, who)
    assert (exc.code, exc.headers["retry-after"]) == ("rate_limit_exceeded", "22"), (
        "the 40 s ago, to the second"
    )
    mock_clock.jump(22)
    limiter.reserve(who, SMALL)


async def test_a_minute_that_is_over_is_forgotten(mock_clock: MockClock) -> None:
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
TURNS = [datetime(2027, month, 1, tzinfo=UTC) for month in (1, 4, 11)] + [
    datetime(2027, 3, 28, tzinfo=UTC),  # Beirut skips this midnight
    datetime(2027, 3, 14, tzinfo=UTC),
    datetime(2027, 10, 31, tzinfo=UTC),
    datetime(2027, 11, 7, tzinfo=UTC),
]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("turn", TURNS, ids=str)
async def test_periods_turn_over_to_the_millisecond(zone: str, turn: datetime, mock_clock: MockClock) -> None:
    place = ZoneInfo(zone)
    moment = turn.replace(tzinfo=place).astimezone(UTC)
    wall = Wall(moment - timedelta(milliseconds=1))
    who = caller(tokens_per_day=10, user=LimitSet(tokens_per_month=15))
    limiter = opened(who, wall=wall, zone=place)
    running = limiter.reserve(who, SMALL)
    exc = refusal(limiter, who, Estimate(5, 5))
    assert (exc.code, exc.headers["retry-after"]) == ("daily_token_quota_exceeded", "1")
    wall.at = moment
    if turn.day == 1:
        second = limiter.reserve(who, SMALL)
        assert second.month != running.month
    else:
        second = limiter.reserve(who, Estimate(5, 5))
        assert second.month == running.month
        refusal(limiter, who, Estimate(1, 1))
    assert (running.day, second.day) == (
        (turn - timedelta(days=1)).date().isoformat(),
        turn.date().isoformat(),
    )
    running.settle(0)
    assert refusal(limiter, who, Estimate(10, 10)).code.endswith("quota_exceeded")


@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1), timedelta(1), timedelta(-1)])
async def test_a_wall_clock_that_jumps_grants_nothing_twice_and_locks_nobody_out(
    jump: timedelta, mock_clock: MockClock
) -> None:
    wall = Wall()
    who = caller(rpm=2, user=LimitSet(tokens_per_day=100))
    limiter = opened(who, wall=wall)
    for _ in range(2):
        limiter.reserve(who, SMALL).settle(40)
    wall.at += jump
    assert refusal(limiter, who).code == "rate_limit_exceeded"
    mock_clock.jump(WINDOW_SECONDS + 1)
    limiter.reserve(who, SMALL).settle(10)
    new_day = jump == timedelta(1)
    wall.at -= jump
    mock_clock.jump(WINDOW_SECONDS + 1)
    left = 90 if new_day else 10
    assert refusal(limiter, who, Estimate(left + 1, 0)).code == "daily_token_quota_exceeded"
    limiter.reserve(who, Estimate(left, 0))


@pytest.mark.parametrize(("name", "wait"), [("tokens_per_day", 36), ("usd_per_month", 36 + 15 * 24)])
async def test_a_clock_that_was_ahead_makes_the_wait_longer_and_not_untrue(
    name: str, wait: int, mock_clock: MockClock
) -> None:
    """The account stays in the later day."""
    wall = Wall()
    who = caller(**{name: 10})
    limiter = opened(who, wall=wall)
    wall.at += timedelta(days=1)
    limiter.reserve(who, SMALL).settle(10, 10)
    wall.at -= timedelta(days=1)
    told = int(refusal(limiter, who).headers["retry-after"])
    assert told == wait * 3600
    wall.at += timedelta(seconds=told - 1)
    refusal(limiter, who)
    wall.at += timedelta(seconds=1)
    limiter.reserve(who, SMALL)


async def test_rate_headers_are_of_the_tighter_and_right_for_the_request(mock_clock: MockClock) -> None:
    who = caller(rpm=10, tpm=1000, user=LimitSet(rpm=3, tpm=5000))
    limiter = opened(who)
    first = limiter.reserve(who, Estimate(200, 0))
    second = limiter.reserve(who, Estimate(300, 0))
    told = headers_of(second)
    assert told == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": told["x-ratelimit-reset-requests"],
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset-ms": told["x-ratelimit-reset-ms"],
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": told["x-ratelimit-reset-tokens"],
    }
    second.settle(50)
    assert headers_of(second)["x-ratelimit-remaining-tokens"] == "750"
    assert headers_of(first)["x-ratelimit-remaining-tokens"] == "800"
    first.settle(5000)
    assert headers_of(first)["x-ratelimit-remaining-tokens"] == "0"
    assert dict(limiter.headers(who))[b"x-ratelimit-remaining-tokens"] == b"0"
    assert dict(limiter.headers(who))[b"x-ratelimit-remaining-requests"] == b"1"


async def test_durations_are_written_as_openai_writes_them(mock_clock: MockClock) -> None:
    resets = {}
    for start in (0.0, 0.5, 0.999):
        mock_clock.jump(1000 - trio.current_time() % 1000 + start)
        resets[start] = headers_of(opened().admit(caller(rpm=5), SMALL))
    assert resets[0.0]["x-ratelimit-reset-requests"] == "1m1s"
    assert resets[0.5]["x-ratelimit-reset-requests"] == "1m0.5s"
    assert resets[0.5]["x-ratelimit-reset-ms"] == "60500"
    assert opened().admit(caller(), SMALL).headers == []


async def test_idle_accounts_are_closed_and_busy_ones_are_not(mock_clock: MockClock) -> None:
    busy, idle = caller(key_id="busy", rpm=5), caller(key_id="idle", user_id="idle", rpm=5)
    limiter = opened(busy, idle)
    running = limiter.reserve(busy, SMALL)
    limiter.reserve(idle, SMALL).settle()
    mock_clock.jump(IDLE_SECONDS - 1)
    limiter.sweep()
    assert limiter.is_open(idle)
    mock_clock.jump(2)
    limiter.sweep()
    assert limiter.is_open(idle)  # it has been asked for
    mock_clock.jump(IDLE_SECONDS + 1)
    limiter.sweep()
    assert not limiter.is_open(idle)
    assert limiter.is_open(busy)
    with pytest.raises(Unavailable, match="Limits"):
        limiter.reserve(idle, SMALL)
    running.settle(10, 10)
    assert limiter.running == 0


async def test_an_account_stays_open_until_what_it_counted_is_stored(mock_clock: MockClock) -> None:
    """Also when it takes longer than an account is kept: opened again it would not know of it."""
    late, idle = caller(key_id="late", user_id="late"), caller(key_id="idle", user_id="idle")
    limiter = opened(late, idle)
    limiter.reserve(idle, SMALL).settle(10)
    mock_clock.jump(1)
    limiter.reserve(late, SMALL).settle(10)
    unwritten = trio.current_time()
    mock_clock.jump(IDLE_SECONDS + 1)
    limiter.sweep(unwritten)
    assert list(limiter._accounts) == ["key:late", "user:late"]
    limiter.sweep()
    assert not limiter._accounts


async def test_without_the_lease_only_the_unlimited_pass() -> None:
    who = caller(user=LimitSet(rpm=5))
    leased = True
    limiter = RateLimiter(Wall(), Calendar(UTC), lambda: leased)
    limiter.open_account("key:k", None)
    limiter.open_account("user:u", None)
    limiter.reserve(who, SMALL)
    leased = False
    with pytest.raises(Unavailable) as caught:
        limiter.reserve(who, SMALL)
    assert (caught.value.status, caught.value.code) == (503, "limits_unavailable")
    limiter.reserve(caller(), SMALL)
