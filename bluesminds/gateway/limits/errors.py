"""Builds the error for a request that exceeds a limit.

Of several reasons the error states the one that lasts longest, because the request is allowed only after it.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from bluesminds.common.clock import Calendar
from bluesminds.common.errors import Forbidden, GatewayError, InsufficientCredit, RateLimited
from bluesminds.common.money import write_usd
from bluesminds.common.values import LimitSet
from bluesminds.gateway.limits.counters import Credit, Estimate, UsageCounters

TIER_OWNER: Final = "the tier of the account"
CONCURRENCY_WAIT: Final = 1.0  # seconds; the end of a running request is not known
_FOREVER: Final = float("inf")


class PeriodEnds(Struct, frozen=True):
    """When the current day and month end. All times are wall time in milliseconds."""

    calendar: Calendar
    now_ms: int
    day: int
    month: int

    def wait(self, end: int | None) -> float:
        """Seconds, rounded up; None never ends."""
        return _FOREVER if end is None else max(1.0, math.ceil((end - self.now_ms) / 1000))

    def advice(self, end: int | None) -> str:
        if end is None:
            return "Ask the operator to raise it."
        return f"Resets {self.calendar.describe(end, self.now_ms)}."


def no_price_error(model: str) -> Forbidden:
    """For an operator who refuses models without a price."""
    message = f"The model `{model[:200]}` has no price, so it cannot be used. Ask the operator to set one."
    return Forbidden("model_not_priced", message)


def _insufficient_credit(credit: Credit, nano: int) -> InsufficientCredit:
    figures = f"({write_usd(max(0, credit.available))} USD left, {write_usd(nano)} USD needed)"
    if credit.balance >= nano:
        advice = "Running requests reserve the rest. Try again when one has finished."
    else:
        advice = "Add credit, send less text, or send a smaller `max_tokens`."
    message = f"The credit of the account does not cover this request {figures}. {advice}"
    return InsufficientCredit("insufficient_credit", message)


class _Reason(Struct, frozen=True):
    code: str
    message: str
    wait: float  # seconds
    retry: bool  # whether an SDK should retry by itself


def limit_error(
    accounts: Iterable[tuple[str, UsageCounters, LimitSet]],
    estimate: Estimate,
    model: str,
    now: float,
    ends: PeriodEnds,
) -> GatewayError:
    """`accounts` are names ("this API key"), counters after `roll_over`, and limits; one of them is exceeded.

    Returns Forbidden for a budget and a model without a price, InsufficientCredit, or RateLimited without
    rate headers.
    """
    reasons: list[_Reason] = []
    for owner, counters, limits in accounts:
        budget = limits.usd_per_day or limits.usd_per_month or limits.usd_total
        credit = counters.credit
        if estimate.nano is None and (budget or credit is not None):
            return Forbidden(
                "model_not_priced",
                f"{_capitalized(owner)} has a budget or prepaid credit, but `{model[:200]}` has no price.",
            )
        if credit is not None and estimate.nano and estimate.nano > credit.available:
            return _insufficient_credit(credit, estimate.nano)
        if owner == TIER_OWNER:
            reasons += _tier_reasons(counters, limits, estimate, ends)
            continue
        reasons += _size_reasons(owner, limits, estimate)
        reasons += _rate_reasons(owner, counters, limits, estimate, now)
        reasons += _quota_reasons(owner, counters, limits, estimate, ends)
    longest = max(reasons, key=lambda reason: reason.wait)
    return RateLimited(
        longest.code,
        longest.message,
        retry_after=None if longest.wait == _FOREVER else longest.wait,
        retry=longest.retry,
    )


def _tier_reasons(
    counters: UsageCounters, limits: LimitSet, estimate: Estimate, ends: PeriodEnds
) -> Iterator[_Reason]:
    """Without figures: users must not learn what all accounts use together."""
    for name, limit, period, end in (
        ("day", limits.usd_per_day, counters.day, ends.day),
        ("month", limits.usd_per_month, counters.month, ends.month),
    ):
        if limit and estimate.nano and period.nano + period.held_nano + estimate.nano > limit:
            message = (
                f"The budget of the {name} that all accounts of this tier share does not cover this request."
            )
            wait = ends.wait(end)
            yield _Reason("tier_budget_exceeded", f"{message} {ends.advice(end)}", wait, retry=False)


def _size_reasons(owner: str, limits: LimitSet, estimate: Estimate) -> Iterator[_Reason]:
    tokens, nano = estimate.tokens, estimate.nano or 0
    for limit, period in (
        (limits.tpm, "per minute"),
        (limits.tokens_per_day, "per day"),
        (limits.tokens_per_month, "per month"),
    ):
        if limit and tokens > limit:
            yield _too_large_error(
                f"need {_count(tokens, 'token')}, more than the {_count(limit, 'token')} {period} of {owner}"
            )
    for limit, period in (
        (limits.usd_per_day, "per day"),
        (limits.usd_per_month, "per month"),
        (limits.usd_total, "in total"),
    ):
        if limit and nano > limit:
            yield _too_large_error(
                f"cost {write_usd(nano)} USD, more than the {write_usd(limit)} USD {period} of {owner}"
            )


def _too_large_error(excess: str) -> _Reason:
    message = f"This request may {excess}. Send less text or a smaller `max_tokens`."
    return _Reason("request_too_large_for_limit", message, _FOREVER, retry=False)


def _rate_reasons(
    owner: str, counters: UsageCounters, limits: LimitSet, estimate: Estimate, now: float
) -> Iterator[_Reason]:
    limited = f"{_capitalized(owner)} is limited to"
    if limits.concurrency and counters.running >= limits.concurrency:
        allowed = _count(limits.concurrency, "concurrent request")
        message = f"{limited} {allowed}. Try again when a request has finished."
        yield _Reason("concurrency_limit_exceeded", message, CONCURRENCY_WAIT, retry=True)
    if limits.rpm and counters.requests.used(now) >= limits.rpm:
        wait = counters.requests.wait(now, limits.rpm)
        message = f"{limited} {_count(limits.rpm, 'request')} per minute. {_try_again(wait)}"
        yield _Reason("rate_limit_exceeded", message, wait, retry=True)
    remaining = limits.tpm - counters.tokens.used(now)
    if limits.tpm and remaining < estimate.tokens <= limits.tpm:
        wait = counters.tokens.wait(now, limits.tpm, estimate.tokens)
        figures = f"({max(0, remaining)} left, {estimate.tokens} needed)"
        message = f"{limited} {_count(limits.tpm, 'token')} per minute {figures}. {_try_again(wait)}"
        yield _Reason("token_rate_limit_exceeded", message, wait, retry=True)


class _Quota(Struct, frozen=True):
    code: str
    name: str
    money: bool = False  # else tokens


_DAILY_TOKENS: Final = _Quota("daily_token_quota_exceeded", "Daily limit")
_MONTHLY_TOKENS: Final = _Quota("monthly_token_quota_exceeded", "Monthly limit")
_DAILY_BUDGET: Final = _Quota("daily_budget_exceeded", "Daily budget", money=True)
_MONTHLY_BUDGET: Final = _Quota("monthly_budget_exceeded", "Monthly budget", money=True)
_TOTAL_BUDGET: Final = _Quota("budget_exceeded", "Total budget", money=True)


def _quota_reasons(
    owner: str, counters: UsageCounters, limits: LimitSet, estimate: Estimate, ends: PeriodEnds
) -> Iterator[_Reason]:
    for quota, limit, period, end in (
        (_DAILY_TOKENS, limits.tokens_per_day, counters.day, ends.day),
        (_MONTHLY_TOKENS, limits.tokens_per_month, counters.month, ends.month),
        (_DAILY_BUDGET, limits.usd_per_day, counters.day, ends.day),
        (_MONTHLY_BUDGET, limits.usd_per_month, counters.month, ends.month),
        (_TOTAL_BUDGET, limits.usd_total, counters.total, None),
    ):
        needed = (estimate.nano or 0) if quota.money else estimate.tokens
        if quota.money and not needed:
            continue
        held = period.held_nano if quota.money else period.held_tokens
        remaining = limit - held - (period.nano if quota.money else period.tokens)
        if limit and remaining < needed:
            if remaining + held >= needed:
                advice = "Running requests reserve the rest. Try again when one has finished."
            else:
                advice = ends.advice(end)
            message = f"{_quota_exceeded(quota, owner, limit, remaining, needed)}. {advice}"
            yield _Reason(quota.code, message, ends.wait(end), retry=False)


def _quota_exceeded(quota: _Quota, owner: str, limit: int, remaining: int, needed: int) -> str:
    amount, write = (f"{write_usd(limit)} USD", write_usd) if quota.money else (_count(limit, "token"), str)
    figures = f" ({write(max(0, remaining))} left, {write(needed)} needed)" if needed else ""
    return f"{quota.name} of {amount} reached for {owner}{figures}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _try_again(wait: float) -> str:
    return f"Try again in {math.ceil(wait)} s."


def _capitalized(owner: str) -> str:
    return owner[0].upper() + owner[1:]
