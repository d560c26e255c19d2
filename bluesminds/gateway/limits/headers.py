"""The rate headers: what is left of the minute's requests and tokens, by the tighter of the accounts.

What is left is read when a request is admitted, and put into words when its answer leaves: most of the work
is in the words, and an answer in one piece is settled by then.
"""

from collections.abc import Iterable

from bluesminds.common.values import LimitSet
from bluesminds.gateway.limits.counters import UsageCounters
from bluesminds.gateway.limits.window import SlidingWindow

Headers = list[tuple[bytes, bytes]]
Left = tuple[int, int, SlidingWindow]  # what is left, of which limit, counted where
Rates = tuple[Left | None, Left | None]  # of requests and of tokens; None where there is no limit


def rates_of(accounts: Iterable[tuple[UsageCounters, LimitSet]], now: float) -> Rates:
    requests: Left | None = None
    tokens: Left | None = None
    for account, limits in accounts:
        if limit := limits.rpm:
            left = limit - account.requests.taken(now)
            if requests is None or left < requests[0]:
                requests = (left, limit, account.requests)
        if limit := limits.tpm:
            left = limit - account.tokens.taken(now)
            if tokens is None or left < tokens[0]:
                tokens = (left, limit, account.tokens)
    return requests, tokens


def rate_headers(rates: Rates, now: float, back: int = 0) -> Headers:
    """As OpenAI names them; none where there is no limit. A reset is when the window will be empty. `back`:
    so many of the tokens taken were given back since; a negative number is more taken.
    """
    requests, tokens = rates
    headers: Headers = []
    reset, duration = 0, b"0ms"
    if requests is not None:
        left, limit, window = requests
        reset = _milliseconds(window.reset(now))
        remaining, duration = b"%d" % max(0, left), _go_duration(reset)
        headers += (
            (b"x-ratelimit-limit-requests", b"%d" % limit),
            (b"x-ratelimit-remaining-requests", remaining),
            (b"x-ratelimit-reset-requests", duration),
            (b"x-ratelimit-remaining", remaining),
            (b"x-ratelimit-reset-ms", b"%d" % reset),
        )
    if tokens is not None:
        left, limit, window = tokens
        if (of_tokens := _milliseconds(window.reset(now))) != reset:
            duration = _go_duration(of_tokens)
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % min(limit, max(0, left + back))),
            (b"x-ratelimit-reset-tokens", duration),
        )
    return headers


def _milliseconds(seconds: float) -> int:
    return -int(-seconds * 1000 // 1)


def _go_duration(milliseconds: int) -> bytes:
    """As OpenAI writes them: 12ms, 1.5s, 1m0s."""
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, 60_000)
    seconds, thousandths = divmod(rest, 1000)
    text = b"%d" % seconds
    if thousandths:
        text += (b".%03d" % thousandths).rstrip(b"0")
    return b"%dm%ss" % (minutes, text) if minutes else text + b"s"
