"""A state machine: in any order of events no limit is exceeded, errors are true and counters return to zero.

Rows are stored in a real database. Accounts are opened from it after an idle hour and after a restart. The
expected usage is computed from plain lists.
"""

import copy
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from bluesminds.common.clock import Calendar
from bluesminds.common.errors import RateLimited
from bluesminds.common.values import Caller, LimitSet
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.reserve import IDLE_SECONDS, RateLimiter, Reservation
from bluesminds.gateway.limits.window import WINDOW_SECONDS
from storage.migrate import load, shipped
from storage.quotas import SELECT_RECENT, QuotaRow, RecentUse
from storage.usage import INSERT_SQLITE
from tests.storage.samples import usage

OWNERS = {"k1": "u1", "k2": "u1", "k3": "u2"}
SUBJECTS = [f"key:{key}" for key in OWNERS] + ["user:u1", "user:u2"]
MINUTE = (WINDOW_SECONDS + 1) * 1000
START = int(datetime(2027, 1, 31, 23, 30, tzinfo=UTC).timestamp())

NAMED = {
    "rate_limit_exceeded": "rpm",
    "token_rate_limit_exceeded": "tpm",
    "concurrency_limit_exceeded": "concurrency",
    "daily_token_quota_exceeded": "tokens_per_day",
    "monthly_token_quota_exceeded": "tokens_per_month",
    "daily_budget_exceeded": "usd_per_day",
    "monthly_budget_exceeded": "usd_per_month",
    "budget_exceeded": "usd_total",
}

FIGURES = {
    "rpm": st.sampled_from([0, 1, 3, 5]),
    "tpm": st.sampled_from([0, 30, 60]),
    "concurrency": st.sampled_from([0, 1, 3]),
    "tokens_per_day": st.sampled_from([0, 40, 150]),
    "tokens_per_month": st.sampled_from([0, 200]),
    "usd_per_day": st.sampled_from([0, 50, 100]),
    "usd_per_month": st.sampled_from([0, 200]),
    "usd_total": st.sampled_from([0, 150, 500]),
}
# The tightest of many limits hides the others, so often there is only one.
limit_sets = st.one_of(
    *(st.builds(LimitSet, **{name: figures}) for name, figures in FIGURES.items()),
    st.builds(LimitSet, **FIGURES),
)
estimates = st.builds(Estimate, tokens=st.integers(1, 35), nano=st.integers(0, 40))


@dataclass
class Times:
    """Both clocks, in seconds."""

    mono: float = 100.0
    wall: float = START

    def now_ms(self) -> int:
        return int(self.wall * 1000)

    def now(self) -> float:
        return self.mono


@dataclass
class Reserved:
    """The expected state of one running request."""

    reservation: Reservation
    subjects: tuple[str, str]
    at: float
    arrived: int  # wall time in ms
    estimate: Estimate
    days: dict[str, str]


@dataclass
class Ledger:
    """Everything that happened to one subject."""

    requests: list[float] = field(default_factory=list)
    tokens: list[tuple[float, int]] = field(default_factory=list)  # settled
    settled: list[tuple[int, int, int]] = field(default_factory=list)  # arrived and ended in wall ms, tokens
    truth: list[tuple[float, int, int]] = field(default_factory=list)  # settled: when, tokens, requests
    rows: list[tuple[str, str, int, int]] = field(default_factory=list)  # day, month, tokens, nano
    day: str = ""


def _sums(rows: list[tuple[str, str, int, int]]) -> tuple[int, int]:
    return sum(row[2] for row in rows), sum(row[3] for row in rows)


@cache
def empty_database() -> bytes:
    with closing(sqlite3.connect(":memory:")) as database:
        for migration in load(shipped(), "sqlite"):
            database.executescript(migration.sql)
        return database.serialize()


class Limits(RuleBasedStateMachine):
    reservations: Bundle[Reserved] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.times = Times()
        self.ledgers = {subject: Ledger() for subject in SUBJECTS}
        self.limits = dict.fromkeys(SUBJECTS, LimitSet())
        self.running: list[Reserved] = []
        self.set_back = 0  # seconds of the wall clock, since the truth is known
        self.serials = count()
        self.database = sqlite3.connect(":memory:")
        self.database.deserialize(empty_database())
        self.restart()

    @initialize(found=st.lists(limit_sets, min_size=len(SUBJECTS), max_size=len(SUBJECTS)))
    def begin(self, found: list[LimitSet]) -> None:
        self.limits = dict(zip(SUBJECTS, found, strict=True))

    @rule()
    def restart(self) -> None:
        """Running requests are lost and cost nothing; requests of the last minute count from their end."""
        self.running = []
        self.limiter = RateLimiter(self.times, Calendar(UTC), lambda: True, self.times.now)
        now = self.times.now_ms()
        self.limiter.restore(self.recent(now))
        for subject, ledger in self.ledgers.items():
            self.limiter.open_account(subject, self.stored(subject))
            kept = [row for row in ledger.settled if row[0] <= now + MINUTE and row[1] > now - MINUTE]
            ends = [
                min(self.times.mono, self.times.mono - now / 1000 + end // 1000 + 1) for _, end, _ in kept
            ]
            ledger.requests = ends
            ledger.tokens = [(at, tokens) for at, (_, _, tokens) in zip(ends, kept, strict=True)]
            ledger.day = max((row[0] for row in ledger.rows), default="")

    @rule()
    def settle_all_and_restart(self) -> None:
        for reserved in list(self.running):
            self.close(reserved, reserved.estimate.tokens, reserved.estimate.nano or 0)
        self.restart()

    def recent(self, now: int) -> list[RecentUse]:
        bounds = {"since": -1, "until": now + MINUTE, "ended": now - MINUTE}
        return [RecentUse(*row) for row in self.database.execute(SELECT_RECENT, bounds).fetchall()]

    def stored(self, subject: str) -> QuotaRow | None:
        columns = ", ".join(QuotaRow.__slots__)
        query = f"SELECT {columns} FROM quota_counters WHERE subject = ?"  # noqa: S608 - names of our own
        row = self.database.execute(query, (subject,)).fetchone()
        rows = self.ledgers[subject].rows
        if row is None:
            assert not rows
            return None
        found, latest = QuotaRow(*row), max(rows)
        assert (found.day, found.month) == latest[:2]
        assert (found.day_tokens, found.day_nano) == _sums([one for one in rows if one[0] == found.day])
        assert (found.month_tokens, found.month_nano) == _sums([one for one in rows if one[1] == found.month])
        assert (found.total_tokens, found.total_nano) == _sums(rows)
        return found

    @rule()
    def idle_for_an_hour(self) -> None:
        """Idle accounts are closed and windows are empty; the latest day is the stored one."""
        self.wait(IDLE_SECONDS + 1)
        self.limiter.sweep()
        for subject, ledger in self.ledgers.items():
            if subject not in self.limiter._accounts:
                ledger.day = max((row[0] for row in ledger.rows), default="")

    @rule(subject=st.sampled_from(SUBJECTS), limits=limit_sets)
    def change_a_limit(self, subject: str, limits: LimitSet) -> None:
        self.limits[subject] = limits

    @rule(seconds=st.one_of(st.floats(0, 2), st.floats(0, 70)))
    def wait(self, seconds: float) -> None:
        self.times.mono += seconds
        self.times.wall += seconds

    @rule(seconds=st.sampled_from([-86_400, -3600, -20, 20, 3600, 86_400]))
    def set_the_wall_clock(self, seconds: int) -> None:
        self.times.wall += seconds
        self.set_back -= seconds
        if seconds > 0 or self.set_back > WINDOW_SECONDS:  # a restart cannot restore these times
            self.set_back = 0
            for ledger in self.ledgers.values():
                ledger.truth.clear()

    @rule(target=reservations, key=st.sampled_from(sorted(OWNERS)), estimate=estimates)
    def reserve(self, key: str, estimate: Estimate) -> object:
        caller = self.caller(key)
        subjects = (f"key:{key}", f"user:{OWNERS[key]}")
        for subject in subjects:  # as in every lookup of a key
            self.limiter.open_account(subject, self.stored(subject))
        try:
            reservation = self.limiter.reserve(caller, estimate)
        except RateLimited as exc:
            self.check_rejection(caller, estimate, exc)
            return multiple()
        self.roll_over(subjects)
        days = {subject: self.ledgers[subject].day for subject in subjects}
        reserved = Reserved(reservation, subjects, self.times.mono, self.times.now_ms(), estimate, days)
        self.running.append(reserved)
        for subject in subjects:
            self.ledgers[subject].requests.append(self.times.mono)
            self.check_limits(subject)
        return reserved

    @rule(reserved=consumes(reservations), tokens=st.integers(0, 50), nano=st.integers(0, 60))
    def settle(self, reserved: Reserved, tokens: int, nano: int) -> None:
        self.close(reserved, tokens, nano)

    @rule(reserved=consumes(reservations))
    def cancel(self, reserved: Reserved) -> None:
        self.close(reserved, 0, 0)

    def close(self, reserved: Reserved, tokens: int, nano: int) -> None:
        if reserved not in self.running:
            return  # it ran in an earlier process
        for _ in range(2):
            reserved.reservation.settle(tokens, nano)
        self.running.remove(reserved)
        key, user = (subject.partition(":")[2] for subject in reserved.subjects)
        day = reserved.reservation.day
        now = self.times.now_ms()
        row = usage(
            next(self.serials),
            at=reserved.arrived,
            duration_ms=max(0, now - reserved.arrived),
            key_id=key,
            user_id=user,
            input_tokens=tokens,
            cost_nano=nano,
            day=day,
        )
        values = asdict(row) | {"output_tokens": None, "month": reserved.reservation.month}
        self.database.executemany(INSERT_SQLITE, [values, values])  # as after a commit with unknown result
        for subject in reserved.subjects:
            ledger = self.ledgers[subject]
            ledger.tokens.append((reserved.at, min(tokens, reserved.estimate.tokens)))
            if tokens > reserved.estimate.tokens:
                ledger.tokens.append((self.times.mono, tokens - reserved.estimate.tokens))
            ledger.rows.append((reserved.reservation.day, reserved.reservation.month, tokens, nano))
            ledger.settled.append((row.at, row.at + row.duration_ms, tokens))
            if row.at <= now + MINUTE:  # otherwise the clock was set back meanwhile
                ledger.truth.append((reserved.at, min(tokens, reserved.estimate.tokens), 1))
                ledger.truth.append((self.times.mono, max(0, tokens - reserved.estimate.tokens), 0))

    def caller(self, key: str) -> Caller:
        return Caller(
            key_id=key,
            user_id=OWNERS[key],
            key_limits=self.limits[f"key:{key}"],
            user_limits=self.limits[f"user:{OWNERS[key]}"],
            expires_at=None,
        )

    def roll_over(self, subjects: tuple[str, str]) -> None:
        """The date of an account never goes back."""
        key, user = (self.ledgers[subject] for subject in subjects)
        today = datetime.fromtimestamp(self.times.wall, UTC).date().isoformat()
        user.day = max(user.day, today)
        key.day = max(key.day, user.day)

    def in_use(self, subject: str, edge: float) -> dict[str, int]:
        """Exact usage now; `edge` is the length of the window."""
        ledger = self.ledgers[subject]
        own = [reserved for reserved in self.running if subject in reserved.subjects]
        since = self.times.mono - edge
        found = {
            "rpm": sum(at > since for at in ledger.requests),
            "tpm": sum(amount for at, amount in ledger.tokens if at > since)
            + sum(reserved.estimate.tokens for reserved in own if reserved.at > since),
            "concurrency": len(own),
            "usd_total": sum(row[3] for row in ledger.rows),
        }
        for unit, position, width in (("day", 0, 10), ("month", 1, 7)):
            period = ledger.day[:width]
            rows = [row for row in ledger.rows if row[position] == period]
            found[f"tokens_per_{unit}"], found[f"usd_per_{unit}"] = _sums(rows)
            held = [reserved.estimate for reserved in own if reserved.days[subject][:width] == period]
            found[f"tokens_per_{unit}"] += sum(estimate.tokens for estimate in held)
            found[f"usd_per_{unit}"] += sum(estimate.nano or 0 for estimate in held)
        found["usd_total"] += sum(reserved.estimate.nano or 0 for reserved in own)
        return found

    def check_limits(self, subject: str) -> None:
        """Called after each reservation."""
        for name, used in self.in_use(subject, WINDOW_SECONDS).items():
            limit = getattr(self.limits[subject], name)
            assert not limit or used <= limit, (subject, name, used, limit)
        last_minute = [
            use for use in self.ledgers[subject].truth if use[0] > self.times.mono - WINDOW_SECONDS
        ]
        limits = self.limits[subject]
        assert not limits.rpm or sum(use[2] for use in last_minute) <= limits.rpm
        assert not limits.tpm or sum(use[1] for use in last_minute) <= limits.tpm

    def check_rejection(self, caller: Caller, estimate: Estimate, exc: RateLimited) -> None:
        subjects = (f"key:{caller.key_id}", f"user:{caller.user_id}")
        self.roll_over(subjects)
        needed = {"rpm": 1, "concurrency": 1}
        needed |= dict.fromkeys(["tpm", "tokens_per_day", "tokens_per_month"], estimate.tokens)
        needed |= dict.fromkeys(["usd_per_day", "usd_per_month", "usd_total"], estimate.nano or 0)
        full = {
            name
            for subject in subjects
            for name, used in self.in_use(subject, WINDOW_SECONDS + 1).items()
            if 0 < getattr(self.limits[subject], name) < used + needed[name]
        }
        named = NAMED.get(exc.code)
        assert full if named is None else named in full
        wait_ms = exc.headers.get("retry-after-ms")
        minute = exc.code in ("rate_limit_exceeded", "token_rate_limit_exceeded")
        if exc.code == "concurrency_limit_exceeded":
            assert wait_ms == "1000"
        else:
            assert exc.headers.get("x-should-retry") == (None if minute else "false")
            assert (wait_ms is None) == (exc.code in ("budget_exceeded", "request_too_large_for_limit"))
            if wait_ms is not None:
                self.check_wait(caller, estimate, int(wait_ms) / 1000, 0.002 if minute else 1.0, full)

    def check_wait(
        self, caller: Caller, estimate: Estimate, wait: float, margin: float, full: set[str]
    ) -> None:
        """The same request is allowed after the wait and rejected `margin` seconds before."""
        for seconds, allowed in ((wait - margin, False), (wait + 1e-6, True)):
            times, limiter = copy.deepcopy((self.times, self.limiter))
            times.mono += seconds
            times.wall += seconds
            try:
                limiter.reserve(caller, estimate)
            except RateLimited as exc:
                assert not allowed or exc.code == "concurrency_limit_exceeded"
                assert not allowed or "concurrency" in full
            else:
                assert allowed

    @invariant()
    def running_requests_are_counted(self) -> None:
        assert self.limiter.running == len(self.running)
        for subject in SUBJECTS:
            own = [reserved for reserved in self.running if subject in reserved.subjects]
            assert self.limiter.in_use(subject).concurrency == len(own)

    def teardown(self) -> None:
        with closing(self.database):
            self.check_counters_return_to_zero()

    def check_counters_return_to_zero(self) -> None:
        for reserved in list(self.running):
            self.close(reserved, 0, 0)
        self.wait(2 * WINDOW_SECONDS)
        for account in self.limiter._accounts.values():
            for period in (account.day, account.month, account.total):
                assert (period.held_tokens, period.held_nano) == (0, 0)
            now = self.times.mono
            assert (account.requests.used(now), account.tokens.used(now), account.running) == (0, 0, 0)


class TestLimits(Limits.TestCase):
    """The same examples in every run are few; `make search` tries as many new ones as the process tests."""

    settings = settings(max_examples=50 if settings().derandomize else 150, stateful_step_count=40)


@pytest.mark.process
class TestLimitsInManyOrders(Limits.TestCase):
    settings = settings(max_examples=150, stateful_step_count=40)
