"""May this request pass now? One synchronous step: every limit is checked and taken, or nothing is.

There is no await between check and take, so 500 racing requests admit exactly the limit. The window counts
by whole seconds and keeps the oldest second until all of it is 60 s old: never above the limit in any 60 s,
at most 1 s (1/60) stricter. A refused request costs nothing. Windows live on Trio's monotonic clock, so the
wall clock can jump.
"""

import math
from collections import deque

import trio

from bluesminds.errors import RateLimited
from bluesminds.values import Caller

WINDOW = 60  # seconds


class SlidingWindow:
    """How much was taken in the last 60 s, in one-second buckets."""

    __slots__ = ("_buckets", "_taken")

    def __init__(self) -> None:
        self._buckets: deque[list[int]] = deque()  # [second, amount], oldest first
        self._taken = 0

    def taken(self, now: float) -> int:
        oldest = int(now) - WINDOW
        buckets = self._buckets
        while buckets and buckets[0][0] < oldest:
            self._taken -= buckets.popleft()[1]
        return self._taken

    def add(self, now: float, amount: int) -> None:
        second = int(now)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1][1] += amount
        else:
            self._buckets.append([second, amount])
        self._taken += amount

    def wait(self, now: float, limit: int) -> float:
        """Seconds from now until one more fits under limit."""
        over = self.taken(now) + 1 - limit
        for second, amount in self._buckets:
            over -= amount
            if over <= 0:
                return max(0.0, second + WINDOW + 1 - now)
        return 0.0

    def reset(self, now: float) -> float:
        """Seconds from now until the window is empty."""
        return max(0.0, self._buckets[-1][0] + WINDOW + 1 - now) if self._buckets else 0.0


class _Account:
    """What one key has in use."""

    __slots__ = ("running", "window")

    def __init__(self) -> None:
        self.window = SlidingWindow()
        self.running = 0


Headers = list[tuple[bytes, bytes]]


class Ticket:
    """An admitted request's place. `release` gives it back exactly once, on whichever exit comes first."""

    __slots__ = ("_account", "headers")

    def __init__(self, account: _Account, headers: Headers) -> None:
        self._account: _Account | None = account
        self.headers = headers  # the rate headers every answer to this request carries

    def release(self) -> None:
        if self._account is not None:
            self._account.running -= 1
            self._account = None


class Admission:
    """The limits of all keys of this process."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    @property
    def running(self) -> int:
        return sum(account.running for account in self._accounts.values())

    def admit(self, caller: Caller) -> Ticket:
        """Raises RateLimited; then nothing was taken."""
        now = trio.current_time()
        account = self._accounts.get(caller.key_id)
        if account is None:
            account = self._accounts[caller.key_id] = _Account()
        taken = account.window.taken(now)
        limit = caller.requests_per_minute
        if limit and taken >= limit:
            raise RateLimited(
                "rate_limit_exceeded",
                f"This API key is limited to {limit} requests per minute. Wait and try again.",
                retry_after=account.window.wait(now, limit),
                headers=_as_text(_rate_headers(limit, 0, account.window.reset(now))),
            )
        if caller.concurrency and account.running >= caller.concurrency:
            raise RateLimited(
                "concurrency_limit_exceeded",
                f"This API key may run {caller.concurrency} requests at once. Wait for one to finish.",
                retry_after=1.0,
                headers=_as_text(_rate_headers(limit, limit - taken, account.window.reset(now))),
            )
        account.window.add(now, 1)
        account.running += 1
        return Ticket(account, _rate_headers(limit, limit - taken - 1, account.window.reset(now)))

    def sweep(self) -> None:
        """Forget keys with nothing in use and nothing in their window."""
        now = trio.current_time()
        idle = [
            key
            for key, account in self._accounts.items()
            if not account.running and not account.window.taken(now)
        ]
        for key in idle:
            del self._accounts[key]


def _rate_headers(limit: int, remaining: int, reset: float) -> Headers:
    if not limit:
        return []
    left = b"%d" % remaining
    return [
        (b"x-ratelimit-limit-requests", b"%d" % limit),
        (b"x-ratelimit-remaining-requests", left),
        (b"x-ratelimit-reset-requests", _go_duration(reset)),
        (b"x-ratelimit-remaining", left),
        (b"x-ratelimit-reset-ms", b"%d" % math.ceil(reset * 1000)),
    ]


def _go_duration(seconds: float) -> bytes:
    """As OpenAI writes them: 12ms, 1.5s, 1m0s."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    return f"{minutes}m{text}".encode() if minutes else text.encode()


def _as_text(headers: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
