"""What one subject (a key, a user, an address) has used and holds at this moment.

A `Hold` is what one running request has taken of one account, with the very window bucket and periods it was
taken from: settled later, it corrects those, whatever the date is by then. Periods never go back: when the
wall clock does, the later one stays in force, so a clock that jumps grants nothing twice.
"""

from msgspec import Struct

from bluesminds.common.values import LimitSet
from bluesminds.gateway.limits.window import LeakyBucket, SlidingWindow
from storage.quotas import QuotaRow


class Estimate(Struct, frozen=True, gc=False):
    """What a request may come to use. `nano`: nano-USD; None when its model has no price."""

    tokens: int
    nano: int | None


class PeriodCounter:
    """Use within a day, a month, or all time; what is held may yet be used."""

    __slots__ = ("held_nano", "held_tokens", "name", "nano", "tokens")

    def __init__(self, name: str, tokens: int = 0, nano: int = 0) -> None:
        self.name = name
        self.tokens = tokens
        self.nano = nano
        self.held_tokens = 0
        self.held_nano = 0


class MinuteWindow:
    """Requests and tokens of the last 60 s."""

    __slots__ = ("requests", "tokens")

    def __init__(self) -> None:
        self.requests = SlidingWindow()
        self.tokens = SlidingWindow()


class UsageCounters:
    """`seen`: when the account was last of use, on Trio's clock. `minute`: what was used before it opened."""

    __slots__ = ("day", "month", "requests", "running", "seen", "tokens", "total")

    def __init__(self, stored: QuotaRow | None, now: float, minute: MinuteWindow | None = None) -> None:
        minute = minute or MinuteWindow()
        self.requests = minute.requests
        self.tokens = minute.tokens
        self.running = 0
        self.seen = now
        if stored is None:
            self.day, self.month, self.total = PeriodCounter(""), PeriodCounter(""), PeriodCounter("")
        else:
            self.day = PeriodCounter(stored.day, stored.day_tokens, stored.day_nano)
            self.month = PeriodCounter(stored.month, stored.month_tokens, stored.month_nano)
            self.total = PeriodCounter("", stored.total_tokens, stored.total_nano)

    def turn(self, day: str, month: str) -> None:
        """Begin the period of this date unless it or a later one has begun."""
        if day > self.day.name:
            self.day = PeriodCounter(day)
        if month > self.month.name:
            self.month = PeriodCounter(month)

    def allows(self, limits: LimitSet, demand: Estimate, now: float) -> bool:
        """Whether all limits allow it. The account must have turned to the date."""
        tokens = demand.tokens
        if (
            (limits.rpm and self.requests.taken(now) >= limits.rpm)
            or (limits.concurrency and self.running >= limits.concurrency)
            or (limits.tpm and self.tokens.taken(now) + tokens > limits.tpm)
        ):
            return False
        day, month = self.day, self.month
        if (limits.tokens_per_day and day.tokens + day.held_tokens + tokens > limits.tokens_per_day) or (
            limits.tokens_per_month and month.tokens + month.held_tokens + tokens > limits.tokens_per_month
        ):
            return False
        if not (limits.usd_per_day or limits.usd_per_month or limits.usd_total):
            return True
        nano = demand.nano
        if nano is None:
            return False
        total = self.total
        return not (
            (limits.usd_per_day and day.nano + day.held_nano + nano > limits.usd_per_day)
            or (limits.usd_per_month and month.nano + month.held_nano + nano > limits.usd_per_month)
            or (limits.usd_total and total.nano + total.held_nano + nano > limits.usd_total)
        )

    def take(self, demand: Estimate, now: float) -> "Hold":
        return Hold(self, demand.tokens, demand.nano or 0, now)


class Hold:
    """What one request has taken of an account."""

    __slots__ = ("_account", "_bucket", "_day", "_month", "_nano", "_tokens")

    def __init__(self, account: UsageCounters, tokens: int, nano: int, now: float) -> None:
        self._account = account
        self._tokens = tokens
        self._nano = nano
        self._day = account.day
        self._month = account.month
        self._bucket: LeakyBucket = account.tokens.add(now, tokens)
        account.requests.add(now, 1)
        account.running += 1
        day, month, total = self._day, self._month, account.total
        day.held_tokens += tokens
        month.held_tokens += tokens
        total.held_tokens += tokens
        if nano:
            day.held_nano += nano
            month.held_nano += nano
            total.held_nano += nano

    def settle(self, tokens: int, nano: int, now: float) -> None:
        """Replace what was held by what was used; more than was held counts from now."""
        account = self._account
        account.running -= 1
        account.seen = now
        if tokens < self._tokens:
            account.tokens.give_back(self._bucket, self._tokens - tokens)
        elif tokens > self._tokens:
            account.tokens.add(now, tokens - self._tokens)
        for period in (self._day, self._month, account.total):
            period.held_tokens -= self._tokens
            period.held_nano -= self._nano
            period.tokens += tokens
            period.nano += nano
