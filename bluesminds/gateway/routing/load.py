"""How busy and how fast servers are, as measured by requests.

The time to the first token is a peak-EWMA: a slower answer counts in full at once, a faster one gradually,
and without answers the figure decays (Twitter's Finagle, load balancer "peak EWMA"). For an answer that is
not streamed it is the time until it is complete, so both kinds have their own figure. A request that waits
for its first token counts with the time that it has waited. Otherwise the figure of a server that hangs would
decay, and the server would get most requests.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeVar

import trio

from bluesminds.common.values import Server
from bluesminds.gateway.limits.window import SlidingWindow

K = TypeVar("K")

DECAY_SECONDS: Final = 10.0
FAILURE_SECONDS: Final = 5.0  # a failure counts like so slow an answer: failing fast must attract no requests
MAX_FIGURES: Final = 10_000  # clients choose the model names of a prefix route

Served = tuple[str, str, bool]  # server, its name of the model, whether the answer is streamed


class _PeakEWMA:
    __slots__ = ("at", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.at = 0.0

    def observe(self, seconds: float, now: float) -> None:
        if seconds > self.decayed(now):
            self.seconds = seconds
        else:
            kept = math.exp((self.at - now) / DECAY_SECONDS)
            self.seconds = self.seconds * kept + seconds * (1.0 - kept)
        self.at = now

    def decayed(self, now: float) -> float:
        return self.seconds * math.exp((self.at - now) / DECAY_SECONDS)


class RunningAttempt:
    """One request at a server, from its start to the end of its answer."""

    __slots__ = ("_load", "_served", "_started")

    def __init__(self, load: "LoadRegistry", served: Served, started: float) -> None:
        self._load: LoadRegistry | None = load
        self._served = served
        self._started = started

    @property
    def started(self) -> float:
        return self._started

    def answered(self) -> None:
        """The first token, or the complete answer, is there."""
        if self._load is not None:
            self._load.stop_waiting(self._served, self)
            self._load.observe(self._served, self._load.monotonic() - self._started)

    def failed(self) -> None:
        if self._load is not None:
            elapsed = self._load.monotonic() - self._started
            self._load.observe(self._served, max(elapsed, FAILURE_SECONDS))

    def overtaken(self) -> None:
        """Another attempt of the request has answered first: the server takes at least the time so far."""
        if self._load is not None:
            elapsed = self._load.monotonic() - self._started
            self._load.observe_at_least(self._served, elapsed)

    def end(self) -> None:
        """Later calls do nothing."""
        if self._load is not None:
            self._load.stop_waiting(self._served, self)
            self._load.release(self._served)
            self._load = None


class RoomListener(Protocol):
    """Is called when a server may have room again."""

    def room(self, server: str) -> None: ...

    def caps_changed(self) -> None: ...


class LoadRegistry:
    """`enabled`: whether requests are measured; they need not be without routes and caps. `capped`: whether a
    server has a cap. `listener` is None while no request waits for room. `monotonic` is Trio's clock in
    seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = trio.current_time) -> None:
        self.enabled = False
        self.capped = False
        self.listener: RoomListener | None = None
        self._caps: dict[str, Server] = {}
        self._minutes: dict[str, SlidingWindow] = {}  # of servers with a cap of requests per minute
        self.monotonic = monotonic
        self._by_server: Counter[str] = Counter()
        self._running: Counter[Served] = Counter()
        self._latencies: dict[Served, _PeakEWMA] = {}
        self._waiting: dict[Served, dict[RunningAttempt, None]] = {}  # for the first token, oldest first

    def begin(self, server: str, model: str, *, stream: bool) -> RunningAttempt:
        served = (server, model, stream)
        self._by_server[server] += 1
        self._running[served] += 1
        if (minute := self._minutes.get(server)) is not None:
            minute.add(self.monotonic(), 1)
        running = RunningAttempt(self, served, self.monotonic())
        self._waiting.setdefault(served, {})[running] = None
        return running

    def set_caps(self, servers: Iterable[Server]) -> None:
        """What was counted before stays."""
        self._caps = {one.name: one for one in servers if one.max_concurrency or one.rpm}
        self.capped = bool(self._caps)
        self._minutes = {
            server.name: self._minutes.get(server.name) or SlidingWindow()
            for server in self._caps.values()
            if server.rpm
        }
        if self.listener is not None:
            self.listener.caps_changed()

    def is_full(self, server: str) -> bool:
        """Whether the server is at one of its caps."""
        if (caps := self._caps.get(server)) is None:
            return False
        if caps.max_concurrency and self._by_server[server] >= caps.max_concurrency:
            return True
        return bool(caps.rpm) and self._minutes[server].used(self.monotonic()) >= caps.rpm

    def rate_room_at(self, server: str) -> float:
        """When a server that is at its cap per minute has room again; infinity if it is not."""
        caps = self._caps.get(server)
        if caps is None or not caps.rpm:
            return math.inf
        now = self.monotonic()
        seconds = self._minutes[server].wait(now, caps.rpm)
        return now + seconds if seconds > 0 else math.inf

    def stop_waiting(self, served: Served, running: RunningAttempt) -> None:
        if (waiting := self._waiting.get(served)) is not None:
            waiting.pop(running, None)
            if not waiting:
                del self._waiting[served]

    def release(self, served: Served) -> None:
        """End one of the running requests."""
        _decrement(self._by_server, served[0])
        _decrement(self._running, served)
        if self.listener is not None:
            self.listener.room(served[0])

    def observe(self, served: Served, seconds: float) -> None:
        latency = self._latencies.get(served)
        if latency is None:
            if len(self._latencies) >= MAX_FIGURES:
                del self._latencies[next(iter(self._latencies))]
            latency = self._latencies[served] = _PeakEWMA()
        latency.observe(seconds, self.monotonic())

    def observe_at_least(self, served: Served, seconds: float) -> None:
        latency = self._latencies.get(served)
        if latency is None or latency.decayed(self.monotonic()) < seconds:
            self.observe(served, seconds)

    def in_flight(self, server: str) -> int:
        """The number of requests that the server is working on."""
        return self._by_server[server]

    def expected_seconds(self, server: str, model: str, *, stream: bool) -> float:
        """The time to the first token, times the requests in flight and this one. It is at least the time for
        which the oldest request waits. Without a figure it is 0 for the first request, and endless for others
        until the first has its answer.
        """
        served = (server, model, stream)
        latency, running = self._latencies.get(served), self._running[served]
        if latency is None:
            return math.inf if running else 0.0
        now = self.monotonic()
        seconds = latency.decayed(now)
        if (waiting := self._waiting.get(served)) is not None:
            seconds = max(seconds, now - next(iter(waiting)).started)
        return seconds * (running + 1)

    def keep_only(self, servers: set[str]) -> None:
        """Drop the figures of servers that no longer exist."""
        self._latencies = {
            served: latency for served, latency in self._latencies.items() if served[0] in servers
        }


def _decrement(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
