"""May this request pass now? One synchronous step: every limit of key and account is checked and taken, or
nothing is.

There is no await between check and take, so 500 racing requests admit exactly the limit. A refused request
costs nothing. Minutes live on Trio's monotonic clock, so the wall clock can jump; days and months are the
calendar's. An account is opened with what the store says was used, and kept as long as it is of use: its
figures are the truth while this process holds the lease on them. Limits come with every request and are kept
nowhere here, so changing one resets nothing.
"""

import math
from collections.abc import Callable, Sequence

import trio

from bluesminds.common.clock import Calendar, Clock
from bluesminds.common.errors import GatewayError, Unavailable
from bluesminds.common.values import NO_LIMITS, Caller, InUse, LimitSet
from bluesminds.gateway.limits.counters import Estimate, Hold, MinuteWindow, UsageCounters
from bluesminds.gateway.limits.errors import PeriodEnds, refusal
from bluesminds.gateway.limits.headers import Headers, Rates, rate_headers, rates_of
from bluesminds.gateway.limits.keyless import AddressLimits
from storage.base import Store
from storage.keys import KeyHolder
from storage.quotas import QuotaRow, RecentUse, select_holder_with_quotas

KEPT_SECONDS = 3600.0  # how long an account stays open without being of use

KEY, USER = "key:", "user:"
_KEY_AND_USER = ("this API key", "the account of this API key")
_VISITOR = ("your address",)
_NOTHING = Estimate(0, 0)

LimitedAccount = tuple[tuple[UsageCounters, LimitSet], ...]


class Reservation:
    """An admitted request's place. `settle` closes it once; `day` and `month` are those it counts in."""

    __slots__ = ("_back", "_held", "_holds", "_limiter", "_rates", "day", "month")

    def __init__(
        self, limiter: "RateLimiter", held: int, holds: Sequence[Hold], account: UsageCounters, rates: Rates
    ) -> None:
        self._limiter = limiter
        self._held = held
        self._holds = holds
        self._rates = rates
        self._back = 0
        self.day = account.day.name
        self.month = account.month.name

    @property
    def headers(self) -> Headers:
        """The rate headers of the answer to this request."""
        return rate_headers(self._rates, self._limiter.monotonic(), self._back)

    def settle(self, tokens: int = 0, nano: int = 0) -> None:
        """Give back what was held and count what was used: nothing, for a request without an answer."""
        if not self._holds:
            return
        holds, self._holds = self._holds, ()
        self._limiter.running -= 1
        now = self._limiter.monotonic()
        for hold in holds:
            hold.settle(tokens, nano, now)
        self._back = self._held - tokens


class RateLimiter:
    """The accounts of all keys, users and visitors of this process. While `leased` says no, limited callers
    are refused: somebody else may be counting. `monotonic` is Trio's clock, in seconds.
    """

    def __init__(
        self,
        clock: Clock,
        calendar: Calendar,
        leased: Callable[[], bool],
        monotonic: Callable[[], float] = trio.current_time,
    ) -> None:
        self._clock = clock
        self._calendar = calendar
        self._limits_lease = leased
        self.monotonic = monotonic
        self._accounts: dict[str, UsageCounters] = {}
        self._minutes: dict[str, MinuteWindow] = {}  # of accounts that have not been opened yet
        self._visitors = AddressLimits()
        self.running = 0

    def resume(self, recent: Sequence[RecentUse]) -> None:
        """Go on in the minute that the process before this one was in. `recent` is in the order of seconds.

        Each request counts from its end, and so no shorter than in the process before. To be called before
        any account is opened.
        """
        now = self.monotonic()
        ahead = self._clock.now_ms() / 1000 - now
        for use in recent:
            at = min(now, use.second + 1 - ahead)
            for subject in (KEY + use.key_id, USER + use.user_id):
                minute = self._minutes.setdefault(subject, MinuteWindow())
                minute.requests.add(at, use.requests)
                minute.tokens.add(at, use.tokens)

    def open(self, subject: str, stored: QuotaRow | None) -> None:
        """Go on from what the store has counted, unless the account is open: then it knows better."""
        if subject not in self._accounts:
            minute = self._minutes.pop(subject, None)
            self._accounts[subject] = UsageCounters(stored, self.monotonic(), minute)

    async def look_up(self, store: Store, digest: bytes) -> KeyHolder | None:
        """The key with this digest, with its accounts opened. Raises StorageError."""
        found = await store.read(select_holder_with_quotas, digest)
        if found is None:
            return None
        holder, key, user = found
        self.open(KEY + holder.key.id, key)
        self.open(USER + holder.key.user_id, user)
        return holder

    def holds(self, caller: Caller) -> bool:
        """Whether the caller's accounts are open; they stay so for as long as a request may take."""
        now = self.monotonic()
        for subject in _subjects(caller):
            account = self._accounts.get(subject)
            if account is None:
                return False
            account.seen = now
        return True

    def admit(self, caller: Caller, demand: Estimate, model: str = "") -> Reservation:
        """Raises RateLimited, Forbidden for a model without a price, or Unavailable: nothing was taken."""
        now = self.monotonic()
        accounts = self._counted(caller, now)
        self._require_fit(caller, accounts, demand, model, now)
        holds = [account.take(demand, now) for account, _ in accounts]
        self.running += 1
        return Reservation(self, demand.tokens, holds, accounts[-1][0], rates_of(accounts, now))

    def require_room(self, caller: Caller) -> None:
        """Raises as `admit` does for a caller of whom nothing more is admitted now, however small."""
        now = self.monotonic()
        self._require_fit(caller, self._known(caller, now), _NOTHING, "", now)

    def headers(self, caller: Caller) -> Headers:
        """The rate headers of an answer that takes nothing."""
        now = self.monotonic()
        return rate_headers(rates_of(self._known(caller, now), now), now)

    def in_use(self, subject: str) -> InUse:
        now = self.monotonic()
        account = self._accounts.get(subject)
        minute = account or self._minutes.get(subject)
        if minute is None:
            return InUse()
        running = 0 if account is None else account.running
        return InUse(minute.requests.taken(now), minute.tokens.taken(now), running)

    def sweep(self, unwritten: float = math.inf) -> None:
        """Close accounts that have not been of use for long. `unwritten`: since when rows wait to be stored;
        an account that may have counted one of them stays, as only it knows.
        """
        now = self.monotonic()
        self._minutes = {key: minute for key, minute in self._minutes.items() if minute.requests.taken(now)}
        over = min(now - KEPT_SECONDS, unwritten)
        idle = [
            subject
            for subject, account in self._accounts.items()
            if not account.running and account.seen < over
        ]
        for subject in idle:
            del self._accounts[subject]

    def sweep_visitors(self) -> None:
        """Make room for new addresses."""
        self._visitors.sweep(self.monotonic(), self._calendar.date(self._clock.now_ms()).day)

    def _counted(self, caller: Caller, now: float) -> LimitedAccount:
        """The accounts to count in, with the limits of each. None when they are not open."""
        if caller.address:
            return ((self._visitors.account(caller.address, now), caller.key_limits),)
        return self._known(caller, now)

    def _require_fit(
        self, caller: Caller, accounts: LimitedAccount, demand: Estimate, model: str, now: float
    ) -> None:
        """Turn the accounts to the date. Raises unless all limits allow it."""
        if not accounts or (not self._limits_lease() and _is_limited(caller)):
            raise Unavailable("limits_unavailable", "Limits cannot be checked right now. Try again shortly.")
        last = accounts[-1][0]
        date = self._calendar.date(self._clock.now_ms())
        last.turn(date.day, date.month)
        day, month = last.day.name, last.month.name
        for account, _ in accounts:
            account.turn(day, month)
        for account, limits in accounts:
            if not account.allows(limits, demand, now):
                raise self._refusal(caller, accounts, demand, model, now)

    def _known(self, caller: Caller, now: float) -> LimitedAccount:
        """The same to look at: an address that nothing is known of has used nothing."""
        if caller.address:
            return ((self._visitors.find(caller.address) or UsageCounters(None, now), caller.key_limits),)
        key = self._accounts.get(KEY + caller.key_id)
        user = self._accounts.get(USER + caller.user_id)
        if key is None or user is None:
            return ()
        return (key, caller.key_limits), (user, caller.user_limits)

    def _refusal(
        self, caller: Caller, accounts: LimitedAccount, demand: Estimate, model: str, now: float
    ) -> GatewayError:
        wall, calendar, last = self._clock.now_ms(), self._calendar, accounts[-1][0]
        ends = PeriodEnds(
            day=_seconds(calendar.end_of_day(last.day.name) - wall),
            month=_seconds(calendar.end_of_month(last.month.name) - wall),
        )
        words = _VISITOR if caller.address else _KEY_AND_USER
        named = [(word, account, limits) for word, (account, limits) in zip(words, accounts, strict=True)]
        return refusal(named, demand, model, now, ends)


def _subjects(caller: Caller) -> tuple[str, str]:
    return KEY + caller.key_id, USER + caller.user_id


def _is_limited(caller: Caller) -> bool:
    return caller.key_limits != NO_LIMITS or caller.user_limits != NO_LIMITS


def _seconds(milliseconds: int) -> float:
    return max(1.0, math.ceil(milliseconds / 1000))
