"""What one subject (an API key, a user account or a client address) has used and holds now.

A `Hold` is the share of one running request. It remembers the window bucket and the periods it was taken
from, so that settling it later corrects those, whatever the date is by then. Periods never go back: if the
wall clock does, the later period stays current, so that no quota is granted twice.
"""

from typing import Final

from msgspec import Struct

from bluesminds.common.money import Price
from bluesminds.common.values import LimitSet
from bluesminds.gateway.limits.window import SlidingWindow, WindowBucket
from storage.quotas import QuotaRow


class Estimate(Struct, frozen=True, gc=False):
    """What is reserved for a request. `tokens`: the maximum that it is expected to use. `nano`: nano-USD for
    `input` and `output` tokens at the `price`; None if its model has no price.
    """

    tokens: int
    nano: int | None
    input: int = 0
    output: int = 0
    price: Price | None = None


class PeriodCounter:
    """Usage of one day, one month or all time, and what running requests hold of it."""

    __slots__ = ("held_nano", "held_tokens", "name", "nano", "tokens")

    def __init__(self, name: str, tokens: int = 0, nano: int = 0) -> None:
        self.name = name
        self.tokens = tokens
        self.nano = nano
        self.held_tokens = 0
        self.held_nano = 0


class Credit:
    """Prepaid credit of one account, in nano-USD. `held`: reserved by running requests. `revision`: as in
    WalletRow.
    """

    __slots__ = ("balance", "held", "revision")

    def __init__(self, balance: int, revision: int = 0) -> None:
        self.balance = balance
        self.held = 0
        self.revision = revision

    @property
    def available(self) -> int:
        return self.balance - self.held

    def charge(self, held: int, nano: int) -> int:
        """Release `held` and pay a cost. Returns what was paid: what other requests have reserved is not
        touched, and the balance does not become negative.
        """
        self.held -= held
        paid = max(0, min(nano, self.available))
        self.balance -= paid
        return paid


class MinuteWindow:
    """Requests and tokens of the last 60 s."""

    __slots__ = ("requests", "tokens")

    def __init__(self) -> None:
        self.requests = SlidingWindow()
        self.tokens = SlidingWindow()


class UsageCounters:
    """All counters of one subject. `minute` holds usage from before the counters were opened; `last_used` is
    on Trio's clock.
    """

    __slots__ = ("credit", "day", "last_used", "month", "requests", "running", "tokens", "total")

    def __init__(self, stored: QuotaRow | None, now: float, minute: MinuteWindow | None = None) -> None:
        minute = minute or MinuteWindow()
        self.requests = minute.requests
        self.tokens = minute.tokens
        self.running = 0
        self.last_used = now
        self.credit: Credit | None = None  # None: the account is not charged
        if stored is None:
            self.day, self.month, self.total = PeriodCounter(""), PeriodCounter(""), PeriodCounter("")
        else:
            self.day = PeriodCounter(stored.day, stored.day_tokens, stored.day_nano)
            self.month = PeriodCounter(stored.month, stored.month_tokens, stored.month_nano)
            self.total = PeriodCounter("", stored.total_tokens, stored.total_nano)

    def roll_over(self, day: str, month: str) -> None:
        """Begin the given day and month unless the same or a later one is current."""
        if day > self.day.name:
            self.day = PeriodCounter(day)
        if month > self.month.name:
            self.month = PeriodCounter(month)

    def allows(self, limits: LimitSet, estimate: Estimate, now: float) -> bool:
        """Whether all limits allow the request. Call `roll_over` first."""
        tokens = estimate.tokens
        if (
            (limits.rpm and self.requests.used(now) >= limits.rpm)
            or (limits.concurrency and self.running >= limits.concurrency)
            or (limits.tpm and self.tokens.used(now) + tokens > limits.tpm)
        ):
            return False
        day, month = self.day, self.month
        if (limits.tokens_per_day and day.tokens + day.held_tokens + tokens > limits.tokens_per_day) or (
            limits.tokens_per_month and month.tokens + month.held_tokens + tokens > limits.tokens_per_month
        ):
            return False
        credit = self.credit
        if not (limits.usd_per_day or limits.usd_per_month or limits.usd_total or credit is not None):
            return True
        nano = estimate.nano
        if not nano:  # a free request is allowed even if a budget is exceeded
            return nano is not None
        if credit is not None and nano > credit.available:
            return False
        total = self.total
        return not (
            (limits.usd_per_day and day.nano + day.held_nano + nano > limits.usd_per_day)
            or (limits.usd_per_month and month.nano + month.held_nano + nano > limits.usd_per_month)
            or (limits.usd_total and total.nano + total.held_nano + nano > limits.usd_total)
        )

    def money_left(self, limits: LimitSet) -> int | None:
        """What no request has used or reserved, in nano-USD; None without a budget and credit. Call
        `roll_over` first.
        """
        left = [
            limit - period.nano - period.held_nano
            for limit, period in (
                (limits.usd_per_day, self.day),
                (limits.usd_per_month, self.month),
                (limits.usd_total, self.total),
            )
            if limit
        ]
        if self.credit is not None:
            left.append(self.credit.available)
        return min(left) if left else None

    def hold(self, estimate: Estimate, now: float, share: "Share") -> "Hold":
        return Hold(self, estimate.tokens, estimate.nano or 0, now, share)


LimitUse = tuple[int, int, int]  # the limit, what was used before a request, and with it
LimitedAccounts = tuple[tuple[UsageCounters, LimitSet], ...]


class Share(Struct, frozen=True, gc=False):
    """What a hold counts as: requests of the last minute, and requests that run at once."""

    requests: int = 1
    running: int = 1


WHOLE_REQUEST: Final = Share()


class Hold:
    """What one running request has reserved in one set of counters."""

    __slots__ = ("_bucket", "_counters", "_credit", "_day", "_month", "_nano", "_running", "_tokens")

    def __init__(
        self, counters: UsageCounters, tokens: int, nano: int, now: float, share: Share = WHOLE_REQUEST
    ) -> None:
        self._counters = counters
        self._running = share.running
        self._tokens = tokens
        self._nano = nano
        self._day = counters.day
        self._month = counters.month
        self._bucket: WindowBucket = counters.tokens.add(now, tokens)
        counters.requests.add(now, share.requests)
        counters.running += share.running
        day, month, total = self._day, self._month, counters.total
        day.held_tokens += tokens
        month.held_tokens += tokens
        total.held_tokens += tokens
        self._credit = counters.credit
        if nano:
            if self._credit is not None:
                self._credit.held += nano
            day.held_nano += nano
            month.held_nano += nano
            total.held_nano += nano

    def uses(self, limits: LimitSet, tokens: int, nano: int, now: float) -> dict[str, LimitUse]:
        """The use of each limit by its name, if the request used so much. Call it before `settle`. What other
        requests have reserved does not count, except in the last minute.
        """
        counters, day, month, total = self._counters, self._day, self._month, self._counters.total
        found: dict[str, LimitUse] = {}
        if limits.rpm:
            used = counters.requests.used(now)
            found["rpm"] = (limits.rpm, used - 1, used)
        if limits.tpm:
            used = counters.tokens.used(now) - self._tokens
            found["tpm"] = (limits.tpm, used, used + tokens)
        if limits.concurrency:
            found["concurrency"] = (limits.concurrency, counters.running - 1, counters.running)
        if limits.tokens_per_day:
            found["tokens_per_day"] = (limits.tokens_per_day, day.tokens, day.tokens + tokens)
        if limits.tokens_per_month:
            found["tokens_per_month"] = (limits.tokens_per_month, month.tokens, month.tokens + tokens)
        if limits.usd_per_day:
            found["usd_per_day"] = (limits.usd_per_day, day.nano, day.nano + nano)
        if limits.usd_per_month:
            found["usd_per_month"] = (limits.usd_per_month, month.nano, month.nano + nano)
        if limits.usd_total:
            found["usd_total"] = (limits.usd_total, total.nano, total.nano + nano)
        return found

    @property
    def reserved_nano(self) -> int:
        return self._nano

    @property
    def has_credit(self) -> bool:
        return self._credit is not None

    def may_extend(self, limits: LimitSet, nano: int) -> bool:
        """Whether the limits allow that `nano` more is reserved."""
        if self._credit is not None and nano > self._credit.available:
            return False
        return not any(
            limit and period.nano + period.held_nano + nano > limit
            for limit, period in (
                (limits.usd_per_day, self._day),
                (limits.usd_per_month, self._month),
                (limits.usd_total, self._counters.total),
            )
        )

    def extend(self, nano: int) -> None:
        self._nano += nano
        if self._credit is not None:
            self._credit.held += nano
        for period in (self._day, self._month, self._counters.total):
            period.held_nano += nano

    def settle(self, tokens: int, nano: int, now: float) -> int | None:
        """Replace the reserved amounts by the used ones; tokens beyond the reservation count from now.
        Returns what was paid with prepaid credit, None without any.
        """
        counters = self._counters
        counters.running -= self._running
        counters.last_used = now
        if tokens < self._tokens:
            counters.tokens.give_back(self._bucket, self._tokens - tokens)
        elif tokens > self._tokens:
            counters.tokens.add(now, tokens - self._tokens)
        for period in (self._day, self._month, counters.total):
            period.held_tokens -= self._tokens
            period.held_nano -= self._nano
            period.tokens += tokens
            period.nano += nano
        return None if self._credit is None else self._credit.charge(self._nano, nano)
