"""The rate limit headers: requests and tokens left in this minute, for the tighter of the caller's limits.

The figures are read when a request is reserved and formatted when its response starts: formatting is most of
the work, and a JSON response is settled by then.
"""

from bluesminds.gateway.limits.counters import LimitedAccounts
from bluesminds.gateway.limits.window import SlidingWindow

Headers = list[tuple[bytes, bytes]]
Remaining = tuple[int, int, SlidingWindow]  # what is left, the limit, the window that counts it
RemainingRates = tuple[Remaining | None, Remaining | None]  # of requests and tokens; None: not limited


def as_text(headers: Headers) -> dict[str, str]:
    """Headers for an error."""
    return {name.decode(): value.decode() for name, value in headers}


def remaining_rates(accounts: LimitedAccounts, now: float) -> RemainingRates:
    requests: Remaining | None = None
    tokens: Remaining | None = None
    for counters, limits in accounts:
        if limit := limits.rpm:
            remaining = limit - counters.requests.used(now)
            if requests is None or remaining < requests[0]:
                requests = (remaining, limit, counters.requests)
        if limit := limits.tpm:
            remaining = limit - counters.tokens.used(now)
            if tokens is None or remaining < tokens[0]:
                tokens = (remaining, limit, counters.tokens)
    return requests, tokens


def rate_headers(rates: RemainingRates, now: float, returned: int = 0) -> Headers:
    """The headers as OpenAI names them, only for limits that exist. A reset is when the window is empty.

    `returned`: tokens given back since the rates were read; negative if more were used than reserved.
    """
    requests, tokens = rates
    headers: Headers = []
    reset, duration = 0, b"0ms"
    if requests is not None:
        remaining, limit, window = requests
        reset = _milliseconds(window.reset(now))
        remaining_text, duration = b"%d" % max(0, remaining), _go_duration(reset)
        headers += (
            (b"x-ratelimit-limit-requests", b"%d" % limit),
            (b"x-ratelimit-remaining-requests", remaining_text),
            (b"x-ratelimit-reset-requests", duration),
            (b"x-ratelimit-remaining", remaining_text),
            (b"x-ratelimit-reset-ms", b"%d" % reset),
        )
    if tokens is not None:
        remaining, limit, window = tokens
        if (token_reset := _milliseconds(window.reset(now))) != reset:
            duration = _go_duration(token_reset)
        headers += (
            (b"x-ratelimit-limit-tokens", b"%d" % limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % min(limit, max(0, remaining + returned))),
            (b"x-ratelimit-reset-tokens", duration),
        )
    return headers


def _milliseconds(seconds: float) -> int:
    """Rounded up."""
    return -int(-seconds * 1000 // 1)


def _go_duration(milliseconds: int) -> bytes:
    """The format of OpenAI's reset headers: 12ms, 1.5s, 1m0s."""
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, remaining_text = divmod(milliseconds, 60_000)
    seconds, thousandths = divmod(remaining_text, 1000)
    text = b"%d" % seconds
    if thousandths:
        text += (b".%03d" % thousandths).rstrip(b"0")
    return b"%dm%ss" % (minutes, text) if minutes else text + b"s"
