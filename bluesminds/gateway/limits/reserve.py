"""Decides whether a request may run now, and reserves its usage in the same synchronous step.

There is no await between check and reservation, so racing requests never exceed a limit, and a rejected
request changes no counter. Minute windows use Trio's monotonic clock, days and months the wall clock's date.

Counters are opened with the stored usage and stay in memory while they are in use: they are the truth for as
long as this process holds the lease. Limits arrive with every request, so changing one resets nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import trio

from bluesminds.common.clock import Calendar, Clock
from bluesminds.common.errors import GatewayError, Unavailable
from bluesminds.common.values import NO_LIMITS, Caller, InUse, LimitSet
from bluesminds.gateway.limits.counters import (
    WHOLE_REQUEST,
    Credit,
    Estimate,
    Hold,
    LimitedAccounts,
    LimitUse,
    MinuteWindow,
    Share,
    UsageCounters,
)
from bluesminds.gateway.limits.errors import TIER_OWNER, PeriodEnds, limit_error
from bluesminds.gateway.limits.headers import Headers, RemainingRates, rate_headers, remaining_rates
from bluesminds.gateway.limits.keyless import AddressLimits
from storage.base import Store
from storage.keys import KeyHolder
from storage.ledger import WalletRow
from storage.quotas import QuotaRow, RecentUse, select_holder_with_quotas

IDLE_SECONDS = 3600.0  # how long unused counters stay open

KEY, USER, TIER = "key:", "user:", "tier:"
_TIER_KEY_AND_USER = (TIER_OWNER, "this API key", "the account of this API key")
_ADDRESS = ("your address",)
_NO_USE = Estimate(0, 0)
_WITH_TIER: Final = 3  # levels of a caller whose tier has a common budget
NO_BUDGETS: Final[Mapping[str, LimitSet]] = MappingProxyType({})


class Reservation:
    """The reserved usage of one running request, settled once. Its usage counts in `day` and `month`.
    `has_budget`: money is limited on one of the levels. `tier`: whose common budget is one of them, "" for
    none. `charged`: nano-USD that the settlement took from
    prepaid credit; None: the account has none.
    """

    __slots__ = (
        *("_holds", "_limiter", "_limits", "_rates", "_returned", "_running", "_tokens"),
        *("charged", "has_budget", "day", "month", "tier"),
    )

    def __init__(
        self,
        limiter: "RateLimiter",
        tokens: int,
        holds: Sequence[Hold],
        accounts: LimitedAccounts,
        rates: RemainingRates,
        running: int,
        tier: str,
    ) -> None:
        counters = accounts[-1][0]
        self._limits = [limits for _, limits in accounts]
        self.has_budget = counters.credit is not None or any(
            limits.usd_total or limits.usd_per_month or limits.usd_per_day for limits in self._limits
        )
        self._limiter = limiter
        self._running = running
        self._tokens = tokens
        self._holds = holds
        self._rates = rates
        self._returned = 0
        self.tier = tier
        self.charged: int | None = None
        self.day = counters.day.name
        self.month = counters.month.name

    @property
    def headers(self) -> Headers:
        """The rate headers of the response."""
        return rate_headers(self._rates, self._limiter.monotonic(), self._returned)

    @property
    def reserved(self) -> tuple[int, int]:
        """Tokens and nano-USD. No money is reserved any more once it is settled."""
        return self._tokens, max((hold.reserved_nano for hold in self._holds), default=0)

    def uses(self, caller: Caller, tokens: int, nano: int) -> dict[str, dict[str, LimitUse]]:
        """The use of each limit of the caller, by "key", "account" and "tier", or by "address". Call it
        before `settle`.
        """
        now = self._limiter.monotonic()
        if caller.address:
            owners: tuple[tuple[str, LimitSet], ...] = (("address", caller.key_limits),)
        else:
            owners = (("key", caller.key_limits), ("account", caller.user_limits))
            if self.tier:
                owners = (("tier", self._limits[0]), *owners)
        found = {}
        for (name, limits), hold in zip(owners, self._holds, strict=False):
            if limits is not NO_LIMITS and (uses := hold.uses(limits, tokens, nano, now)):
                found[name] = uses
        return found

    @property
    def has_credit(self) -> bool:
        """Whether the account pays with prepaid credit. Call it before `settle`."""
        return bool(self._holds) and self._holds[-1].has_credit

    def extend(self, nano: int) -> bool:
        """Reserve `nano` in total, on every level or on none. False if a level does not allow it."""
        pairs = list(zip(self._holds, self._limits, strict=True))
        if not pairs or not all(hold.may_extend(limits, nano - hold.reserved_nano) for hold, limits in pairs):
            return False
        for hold, _ in pairs:
            hold.extend(nano - hold.reserved_nano)
        return True

    def settle(self, tokens: int = 0, nano: int = 0) -> None:
        """Replace the reservation by the actual usage. Later calls do nothing."""
        if not self._holds:
            return
        holds, self._holds = self._holds, ()
        self._limiter.running -= self._running
        now = self._limiter.monotonic()
        for hold in holds:
            self.charged = hold.settle(tokens, nano, now)  # the last one is that of the account
        self._returned = self._tokens - tokens


class RateLimiter:
    """The usage counters of all API keys, accounts and client addresses of this process.

    While `has_lease` is false, callers with limits are rejected, because another process may count their
    usage. `monotonic` is Trio's clock in seconds. `tier_budgets`: what all accounts with a tier may use
    together, by the name of the tier. `running` is the number of unsettled reservations.
    """

    def __init__(
        self,
        clock: Clock,
        calendar: Calendar,
        has_lease: Callable[[], bool],
        monotonic: Callable[[], float] = trio.current_time,
        tier_budgets: Mapping[str, LimitSet] = NO_BUDGETS,
    ) -> None:
        self._clock = clock
        self._calendar = calendar
        self._has_lease = has_lease
        self.monotonic = monotonic
        self._accounts: dict[str, UsageCounters] = {}
        self._minutes: dict[str, MinuteWindow] = {}  # of accounts that are not open yet
        self._addresses = AddressLimits()
        self._tiers = {name: (UsageCounters(None, 0.0), limits) for name, limits in tier_budgets.items()}
        self.running = 0

    @property
    def tiers(self) -> Sequence[str]:
        """The subjects of the tiers with a common budget."""
        return [TIER + name for name in self._tiers]

    def restore_tiers(self, stored: Mapping[str, QuotaRow]) -> None:
        """Start from the stored usage of `tiers`, by subject, before the first request."""
        now = self.monotonic()
        for name, (_, limits) in self._tiers.items():
            self._tiers[name] = (UsageCounters(stored.get(TIER + name), now), limits)

    def restore(self, recent: Sequence[RecentUse]) -> None:
        """Count the last minute of the previous process, oldest second first, before an account is opened.

        Each request counts from its end, so at least as long as it would have in the previous process.
        """
        now = self.monotonic()
        offset = self._clock.now_ms() / 1000 - now
        for use in recent:
            at = min(now, use.second + 1 - offset)
            for subject in (KEY + use.key_id, USER + use.user_id):
                minute = self._minutes.setdefault(subject, MinuteWindow())
                minute.requests.add(at, use.requests)
                minute.tokens.add(at, use.tokens)

    def open_account(self, subject: str, stored: QuotaRow | None, wallet: WalletRow | None = None) -> None:
        """Start from the stored usage, unless the account is open: memory is ahead of the store."""
        if subject not in self._accounts:
            minute = self._minutes.pop(subject, None)
            account = self._accounts[subject] = UsageCounters(stored, self.monotonic(), minute)
            if wallet is not None:
                account.credit = Credit(wallet.balance_nano, wallet.revision)

    def credit_changed(self, user_id: str, nano: int, revision: int) -> None:
        """The store has a new entry of a user that is not a charge. `revision`: of the wallet, afterwards."""
        account = self._accounts.get(USER + user_id)
        if account is None:
            return
        credit = account.credit
        if credit is None:
            credit = account.credit = Credit(0)
        if revision > credit.revision:
            credit.balance += nano
            credit.revision = revision

    async def look_up_key(self, store: Store, digest: bytes) -> KeyHolder | None:
        """Find the API key with this digest and open its accounts. Raises StorageError."""
        found = await store.read(select_holder_with_quotas, digest)
        if found is None:
            return None
        holder, key, user, wallet = found
        self.open_account(KEY + holder.key.id, key)
        self.open_account(USER + holder.key.user_id, user, wallet)
        return holder

    def is_open(self, caller: Caller, now: float) -> bool:
        """Whether the caller's accounts are open. They then stay open for IDLE_SECONDS from `now`."""
        for subject in (KEY + caller.key_id, USER + caller.user_id):
            account = self._accounts.get(subject)
            if account is None:
                return False
            account.last_used = now
        return True

    def reserve(
        self,
        caller: Caller,
        estimate: Estimate,
        model: str = "",
        *,
        share: Share = WHOLE_REQUEST,
        enforce: bool = True,
    ) -> Reservation:
        """Reserve the estimated usage, or change nothing and raise. `share`: what it counts as. Without
        `enforce` the limits need not allow it.

        Raises RateLimited, Forbidden (a budget, and a model without a price) or Unavailable.
        """
        now = self.monotonic()
        accounts: LimitedAccounts
        if caller.address:
            accounts = ((self._addresses.open(caller.address, now), caller.key_limits),)
        else:
            accounts = self._key_accounts(caller)
        if enforce:
            self._check_limits(caller, accounts, estimate, model, now)
        else:
            self._roll_over(accounts)
        holds = [counters.hold(estimate, now, share) for counters, _ in accounts]
        self.running += share.running
        rates = remaining_rates(accounts, now)
        tier = caller.tier if len(accounts) == _WITH_TIER else ""
        return Reservation(self, estimate.tokens, holds, accounts, rates, share.running, tier)

    def money_left(self, caller: Caller) -> int | None:
        """The nano-USD that are left on every level; None without a budget and credit."""
        accounts = self._find_accounts(caller, self.monotonic())
        left = [found for one, limits in accounts if (found := one.money_left(limits)) is not None]
        return min(left) if left else None

    def check_exhausted(self, caller: Caller) -> None:
        """Raises as `reserve` does if not even the smallest request would be allowed now."""
        now = self.monotonic()
        self._check_limits(caller, self._find_accounts(caller, now), _NO_USE, "", now)

    def headers(self, caller: Caller) -> Headers:
        """The rate headers of a response without a reservation."""
        now = self.monotonic()
        return rate_headers(remaining_rates(self._find_accounts(caller, now), now), now)

    def in_use(self, subject: str) -> InUse:
        now = self.monotonic()
        account = self._accounts.get(subject)
        minute = account or self._minutes.get(subject)
        if minute is None:
            return InUse()
        running = 0 if account is None else account.running
        return InUse(minute.requests.used(now), minute.tokens.used(now), running)

    def sweep(self, oldest_unwritten: float = math.inf) -> None:
        """Close accounts that are idle for IDLE_SECONDS.

        `oldest_unwritten`: when the oldest usage row that is not stored yet was recorded, on Trio's clock. An
        account used since then stays open, because reopening it from the store would miss that row.
        """
        now = self.monotonic()
        self._minutes = {key: minute for key, minute in self._minutes.items() if minute.requests.used(now)}
        idle_since = min(now - IDLE_SECONDS, oldest_unwritten)
        idle = [
            subject
            for subject, account in self._accounts.items()
            if not account.running and account.last_used < idle_since
        ]
        for subject in idle:
            del self._accounts[subject]

    def sweep_addresses(self) -> None:
        """Drop addresses whose usage no longer counts."""
        self._addresses.sweep(self.monotonic(), self._calendar.date(self._clock.now_ms()).day)

    def _check_limits(
        self, caller: Caller, accounts: LimitedAccounts, estimate: Estimate, model: str, now: float
    ) -> None:
        """Roll the counters over to the current date and check every limit."""
        if not accounts or (not self._has_lease() and _is_limited(accounts)):
            raise _limits_unavailable()
        self._roll_over(accounts)
        for counters, limits in accounts:
            if not counters.allows(limits, estimate, now):
                raise self._limit_error(caller, accounts, estimate, model, now)

    def _roll_over(self, accounts: LimitedAccounts) -> None:
        if not accounts:
            raise _limits_unavailable()
        last = accounts[-1][0]
        date = self._calendar.date(self._clock.now_ms())
        last.roll_over(date.day, date.month)
        day, month = last.day.name, last.month.name
        for counters, _ in accounts:
            counters.roll_over(day, month)

    def _find_accounts(self, caller: Caller, now: float) -> LimitedAccounts:
        """For reading only: an unknown address has empty counters, which are not kept."""
        if caller.address:
            return ((self._addresses.find(caller.address) or UsageCounters(None, now), caller.key_limits),)
        return self._key_accounts(caller)

    def _key_accounts(self, caller: Caller) -> LimitedAccounts:
        """Empty unless the accounts are open. The last one is that of the user."""
        key = self._accounts.get(KEY + caller.key_id)
        user = self._accounts.get(USER + caller.user_id)
        if key is None or user is None:
            return ()
        if self._tiers and (tier := self._tiers.get(caller.tier)) is not None:
            return tier, (key, caller.key_limits), (user, caller.user_limits)
        return (key, caller.key_limits), (user, caller.user_limits)

    def _limit_error(
        self, caller: Caller, accounts: LimitedAccounts, estimate: Estimate, model: str, now: float
    ) -> GatewayError:
        calendar, last = self._calendar, accounts[-1][0]
        ends = PeriodEnds(
            calendar=calendar,
            now_ms=self._clock.now_ms(),
            day=calendar.end_of_day(last.day.name),
            month=calendar.end_of_month(last.month.name),
        )
        owners = _ADDRESS if caller.address else _TIER_KEY_AND_USER[-len(accounts) :]
        named = ((owner, *account) for owner, account in zip(owners, accounts, strict=True))
        return limit_error(named, estimate, model, now, ends)


def _limits_unavailable() -> Unavailable:
    return Unavailable("limits_unavailable", "Limits cannot be checked. Try again in a few seconds.")


def _is_limited(accounts: LimitedAccounts) -> bool:
    return any(limits != NO_LIMITS or counters.credit is not None for counters, limits in accounts)
