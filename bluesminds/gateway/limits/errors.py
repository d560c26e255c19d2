"""Why a request does not fit, in words and figures: only asked once it is certain that it does not.

Of several reasons the one that lasts longest is told, because only after that wait is the request admitted.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from bluesminds.common.errors import Forbidden, GatewayError, RateLimited
from bluesminds.common.money import write_usd
from bluesminds.common.values import LimitSet
from bluesminds.gateway.limits.counters import Estimate, UsageCounters

CONCURRENCY_WAIT: Final = 1.0  # seconds; when a running request ends is not known
_FOR_EVER: Final = float("inf")


class PeriodEnds(Struct, frozen=True):
    """Seconds from now until the day and the month are over."""

    day: float
    month: float


class _Reason(Struct, frozen=True):
    code: str
    message: str
    wait: float  # seconds
    retry: bool  # whether a program should try again by itself


def refusal(
    accounts: list[tuple[str, UsageCounters, LimitSet]],
    demand: Estimate,
    model: str,
    now: float,
    ends: PeriodEnds,
) -> GatewayError:
    """For accounts that have turned to the date, with the words for whose each is; one of them is full.

    Forbidden for a limit in money when the model has no price, else RateLimited, without rate headers.
    """
    reasons: list[_Reason] = []
    for whose, account, limits in accounts:
        if demand.nano is None and (limits.usd_per_day or limits.usd_per_month or limits.usd_total):
            return Forbidden(
                "model_not_priced",
                f"The budget of {whose} cannot be kept for `{model[:200]}`, because this gateway has no price"
                " for it. Use another model, or ask the operator to add its price.",
            )
        reasons += _too_large(whose, limits, demand)
        reasons += _of_now(whose, account, limits, demand, now)
        reasons += _of_periods(whose, account, limits, demand, ends)
    worst = max(reasons, key=lambda reason: reason.wait)
    return RateLimited(
        worst.code,
        worst.message,
        retry_after=None if worst.wait == _FOR_EVER else worst.wait,
        retry=worst.retry,
    )


def _too_large(whose: str, limits: LimitSet, demand: Estimate) -> Iterator[_Reason]:
    sizes = (
        (demand.tokens, limits.tpm, "tokens per minute"),
        (demand.tokens, limits.tokens_per_day, "tokens per day"),
        (demand.tokens, limits.tokens_per_month, "tokens per month"),
    )
    for size, limit, unit in sizes:
        if limit and size > limit:
            asked = f"This request may need {size} tokens, more than the {limit} {unit} of {whose}."
            yield _never(f"{asked} Send less text or a smaller `max_tokens`.")
    nano = demand.nano or 0
    sums = (
        (limits.usd_per_day, " per day"),
        (limits.usd_per_month, " per month"),
        (limits.usd_total, " in all"),
    )
    for limit, unit in sums:
        if limit and nano > limit:
            asked = f"This request may cost {write_usd(nano)} USD, more than the {write_usd(limit)} USD{unit}"
            yield _never(f"{asked} of {whose}. Send less text or a smaller `max_tokens`.")


def _begin(whose: str) -> str:
    return whose[0].upper() + whose[1:]


def _never(message: str) -> _Reason:
    return _Reason("request_too_large_for_limit", message, _FOR_EVER, retry=False)


def _of_now(
    whose: str, account: UsageCounters, limits: LimitSet, demand: Estimate, now: float
) -> Iterator[_Reason]:
    if limits.concurrency and account.running >= limits.concurrency:
        message = f"{_begin(whose)} may run {limits.concurrency} requests at once. Wait for one to finish."
        yield _Reason("concurrency_limit_exceeded", message, CONCURRENCY_WAIT, retry=True)
    if limits.rpm and account.requests.taken(now) >= limits.rpm:
        message = f"{_begin(whose)} is limited to {limits.rpm} requests per minute. Wait and try again."
        yield _Reason("rate_limit_exceeded", message, account.requests.wait(now, limits.rpm), retry=True)
    if limits.tpm and limits.tpm - account.tokens.taken(now) < demand.tokens <= limits.tpm:
        message = (
            f"{_begin(whose)} is limited to {limits.tpm} tokens per minute, and this request may need"
            f" {demand.tokens}. Wait and try again."
        )
        wait = account.tokens.wait(now, limits.tpm, demand.tokens)
        yield _Reason("token_rate_limit_exceeded", message, wait, retry=True)


class _Quota(Struct, frozen=True):
    code: str
    unit: str


_TOKENS: Final = (
    _Quota("daily_token_quota_exceeded", " a day"),
    _Quota("monthly_token_quota_exceeded", " a month"),
)
_MONEY: Final = (
    _Quota("daily_budget_exceeded", " a day"),
    _Quota("monthly_budget_exceeded", " a month"),
    _Quota("budget_exceeded", " in all"),
)


def _of_periods(
    whose: str, account: UsageCounters, limits: LimitSet, demand: Estimate, ends: PeriodEnds
) -> Iterator[_Reason]:
    periods = ((account.day, ends.day), (account.month, ends.month), (account.total, _FOR_EVER))
    of_tokens = (limits.tokens_per_day, limits.tokens_per_month)
    for quota, limit, (period, wait) in zip(_TOKENS, of_tokens, periods[:2], strict=True):
        left = limit - period.tokens - demand.tokens  # but for what is held
        if limit and left < period.held_tokens:
            allowed = f"{_begin(whose)} may use {limit} tokens{quota.unit}, and too few are left"
            yield _spent(quota.code, allowed, wait, others_hold=left >= 0)
    of_money = (limits.usd_per_day, limits.usd_per_month, limits.usd_total)
    for quota, limit, (period, wait) in zip(_MONEY, of_money, periods, strict=True):
        left = limit - period.nano - (demand.nano or 0)
        if limit and left < period.held_nano:
            allowed = f"{_begin(whose)} may use {write_usd(limit)} USD{quota.unit}, and too little is left"
            yield _spent(quota.code, allowed, wait, others_hold=left >= 0)


def _spent(code: str, allowed: str, wait: float, *, others_hold: bool) -> _Reason:
    """`others_hold`: it would fit if the requests that are running came to use nothing."""
    if others_hold:
        why = "while others are running. Wait for one to finish, or ask the operator for more."
    elif wait == _FOR_EVER:
        why = "for this request. Ask the operator for more."
    else:
        why = "for this request. Wait for the next, or ask the operator for more."
    return _Reason(code, f"{allowed} {why}", wait, retry=False)
