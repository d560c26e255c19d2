"""The health of servers, as observed by requests and probes. Circuits are per server and model.

A circuit opens (the server is ejected for this model) after `eject_after` failures in a row, or if more than
half of at least MIN_REQUESTS requests within WINDOW_SECONDS fail. It is open for `eject_seconds` times n, at
most MAX_EJECTION_FACTOR times; n starts at 1 and grows by one for each 2 * `eject_seconds` that the server
has been ejected. Then it is half open: one request at a time is sent, TRIALS successes in a row close it, and
a failure opens it again. A closed circuit gets half of its weight for SLOW_START_SECONDS.

Probes are counted separately, because a server can pass probes and fail requests: after `eject_after` failed
probes in a row a server is ejected until a probe succeeds. If only ejected servers are left, they are still
tried. At most half of the targets of a model are left out.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import trio
from msgspec import Struct

from bluesminds.common.values import is_own_name

MAX_EJECTION_FACTOR: Final = 20
WINDOW_SECONDS: Final = 30.0
MIN_REQUESTS: Final = 20  # in the window, before the share of failures counts
TRIALS: Final = 3  # successes in a row that close a half-open circuit
TRIAL_SECONDS: Final = 30.0  # how long a trial request keeps others away if its end is not reported
SLOW_START_SECONDS: Final = 30.0
FIRST_REST: Final = 1.0  # seconds; after a rate limit without a time
LONGEST_REST: Final = 60.0  # seconds
MAX_CIRCUITS: Final = 10_000  # clients choose the model names of a prefix route

CircuitState = Literal["closed", "open", "half_open", "slow_start", "resting"]
Served = tuple[str, str]  # server, its name of the model


class ServerStatus(Struct, frozen=True):
    """The result of the last probe. `unusable`: the gateway has no readable API key for the server.
    `model_count` is None if it is unknown. `last_error` may contain text from the server.
    """

    state: Literal["up", "down", "unknown", "unusable"]
    model_count: int | None = None
    last_error: str | None = None


UNKNOWN: Final = ServerStatus("unknown")


class HealthChange(Struct, frozen=True):
    """A circuit has changed its state. `seconds`: how long it will be open."""

    server: str
    model: str
    state: Literal["open", "half_open", "closed"]
    reason: str
    seconds: float = 0.0


class CircuitStatus(Struct, frozen=True):
    """`failures` in a row. `seconds` until the next request is tried. `last_error` is a status or a kind of
    failure, never text from a server.
    """

    server: str
    model: str
    state: CircuitState
    failures: int
    seconds: float
    last_error: str | None


@dataclass(slots=True)
class _Second:
    at: int
    requests: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Circuit:
    """Times are on Trio's clock. `opened` is the time of the first ejection since it was closed."""

    failures: int = 0  # in a row
    last_error: str | None = None
    opened: float | None = None
    until: float = 0.0
    successes: int = 0  # in a row while it is half open
    trial_until: float = 0.0
    slow_until: float = 0.0
    window: deque[_Second] = field(default_factory=deque)

    def state(self, now: float) -> CircuitState:
        if self.opened is not None:
            return "open" if now < self.until else "half_open"
        return "slow_start" if now < self.slow_until else "closed"

    def count(self, now: float, *, failed: bool) -> None:
        window, second = self.window, int(now)
        if not window or window[-1].at != second:
            window.append(_Second(second))
        window[-1].requests += 1
        window[-1].failed += failed
        while window[0].at <= now - WINDOW_SECONDS:
            window.popleft()

    def fails_mostly(self) -> bool:
        requests = sum(second.requests for second in self.window)
        return requests >= MIN_REQUESTS and 2 * sum(second.failed for second in self.window) > requests

    def is_idle(self, now: float) -> bool:
        """Whether nothing needs to be remembered."""
        if self.failures or self.state(now) != "closed":
            return False
        return not any(second.failed for second in self.window if second.at > now - WINDOW_SECONDS)


class HealthView(Protocol):
    """What the selection of targets reads."""

    @property
    def flawless(self) -> bool:
        """Whether no server has failed lately, so that no circuit has to be checked."""

    def is_usable(self, server: str, model: str) -> bool: ...

    def is_healthy(self, server: str, model: str) -> bool: ...

    def is_slow_start(self, server: str, model: str) -> bool:
        """Whether the server has recovered a moment ago and should get half of its share."""

    def left_out(self, targets: Sequence[Served]) -> frozenset[Served]:
        """The ejected ones among the targets of a model, at most half of them."""


class ServerHealthRegistry:
    """`on_change` is called when a circuit changes its state. `monotonic` is Trio's clock in seconds."""

    def __init__(
        self,
        *,
        eject_after: int,
        eject_seconds: float,
        on_change: Callable[[HealthChange], None] = lambda change: None,
        monotonic: Callable[[], float] = trio.current_time,
    ) -> None:
        self._eject_after = eject_after
        self._eject_seconds = eject_seconds
        self._on_change = on_change
        self._now = monotonic
        self._circuits: dict[Served, _Circuit] = {}
        self._probe_failures: dict[str, int] = {}  # in a row; servers whose last probe succeeded are missing
        self._resting: dict[Served, tuple[float, int]] = {}  # until when, and how often in a row

    @property
    def flawless(self) -> bool:
        return not (self._circuits or self._probe_failures or self._resting)

    def is_up(self, server: str) -> bool:
        """Whether the server passes probes."""
        return self._probe_failures.get(server, 0) < self._eject_after

    def is_usable(self, server: str, model: str) -> bool:
        return self.flawless or (not self._rests(server, model) and self.is_healthy(server, model))

    def is_healthy(self, server: str, model: str) -> bool:
        """Whether the server is not ejected. It may be resting because of a rate limit."""
        if not self.is_up(server):
            return False
        circuit = self._circuits.get((server, model))
        if circuit is None or circuit.opened is None:
            return True
        now = self._now()
        return circuit.until <= now and circuit.trial_until <= now

    def _rests(self, server: str, model: str) -> bool:
        resting = self._resting.get((server, model))
        return resting is not None and resting[0] > self._now()

    def rest(self, server: str, model: str, seconds: float | None) -> None:
        """The server is rate limited. It is left out for the time that it has named, or for FIRST_REST and
        then twice as long each time, until it answers. No failure counts. Requests that fail together count
        once.
        """
        now = self._now()
        until, times = self._resting.get((server, model), (now, 0))
        if times == 0 and len(self._resting) >= MAX_CIRCUITS:
            self._resting = {served: one for served, one in self._resting.items() if one[0] > now}
            if len(self._resting) >= MAX_CIRCUITS:
                return
        if until <= now:
            until, times = now, times + 1
            rest = FIRST_REST * 2.0 ** min(times - 1, 10) if seconds is None else seconds
        else:
            rest = seconds or 0.0
        self._resting[server, model] = max(until, now + min(rest, LONGEST_REST)), times

    def seconds_until_trial(self, server: str, model: str) -> float:
        """Until an ejected server is tried again; 0 for a server that is not ejected."""
        circuit = self._circuits.get((server, model))
        return 0.0 if circuit is None or circuit.opened is None else max(0.0, circuit.until - self._now())

    def is_slow_start(self, server: str, model: str) -> bool:
        circuit = self._circuits.get((server, model))
        return circuit is not None and circuit.state(self._now()) == "slow_start"

    def left_out(self, targets: Sequence[Served]) -> frozenset[Served]:
        """Of more than half, the ones that were ejected first."""
        if self.flawless:
            return frozenset()
        ejected = [served for served in targets if not self.is_usable(*served)]
        if len(ejected) > len(targets) // 2:
            ejected.sort(key=self._ejected_since)
            del ejected[max(1, len(targets) // 2) :]
        return frozenset(ejected)

    def begin(self, server: str, model: str) -> None:
        """A request is sent to the server. If its circuit is half open, it is the trial request."""
        if not self._circuits or (circuit := self._circuits.get((server, model))) is None:
            return
        now = self._now()
        if circuit.state(now) == "half_open":
            if not circuit.successes and not circuit.trial_until:
                self._on_change(HealthChange(server, model, "half_open", circuit.last_error or ""))
            circuit.trial_until = now + TRIAL_SECONDS

    def release(self, server: str, model: str) -> None:
        """A request has ended, and its end says nothing about the server."""
        if self._circuits and (circuit := self._circuits.get((server, model))) is not None:
            circuit.trial_until = min(circuit.trial_until, self._now())

    def record_success(self, server: str, model: str) -> None:
        if self.flawless:
            return
        self._probe_failures.pop(server, None)
        now = self._now()
        if (resting := self._resting.get((server, model))) is not None and resting[0] <= now:
            del self._resting[server, model]
        if (circuit := self._circuits.get((server, model))) is None:
            return
        circuit.count(now, failed=False)
        circuit.failures = 0
        if circuit.opened is not None:
            circuit.until, circuit.trial_until = min(circuit.until, now), now
            circuit.successes += 1
            if circuit.successes >= TRIALS:
                self._close(server, model, circuit, now)
        elif circuit.is_idle(now):
            del self._circuits[server, model]

    def record_failure(self, server: str, model: str, reason: str) -> None:
        circuit = self._circuit(server, model)
        now = self._now()
        circuit.count(now, failed=True)
        circuit.failures += 1
        circuit.last_error = reason
        match circuit.state(now):
            case "half_open":
                self._open(server, model, circuit, now)
            case "closed" | "slow_start" if circuit.failures >= self._eject_after or circuit.fails_mostly():
                self._open(server, model, circuit, now)

    def record_probe(self, server: str, *, alive: bool) -> None:
        if alive:
            self._probe_failures.pop(server, None)
        else:
            self._probe_failures[server] = self._probe_failures.get(server, 0) + 1

    def circuits(self) -> list[CircuitStatus]:
        """Every circuit that is not closed or has failed lately, by server and model. Servers that rest
        because of a rate limit are `resting`.
        """
        now = self._now()
        resting = [
            CircuitStatus(server, model, "resting", 0, until - now, "rate limited")
            for (server, model), (until, _) in sorted(self._resting.items())
            if until > now
        ]
        return resting + [
            CircuitStatus(
                server,
                model,
                circuit.state(now),
                circuit.failures,
                max(0.0, circuit.until - now) if circuit.opened is not None else 0.0,
                circuit.last_error,
            )
            for (server, model), circuit in sorted(self._circuits.items())
            if not circuit.is_idle(now)
        ]

    def ejected(self) -> Iterable[Served]:
        """The servers and models that are ejected or half open."""
        return [served for served, circuit in self._circuits.items() if circuit.opened is not None]

    def keep_only(self, servers: set[str]) -> None:
        """Drop servers that are no longer configured."""
        self._circuits = {served: one for served, one in self._circuits.items() if served[0] in servers}
        self._resting = {served: one for served, one in self._resting.items() if served[0] in servers}
        self._probe_failures = {
            name: count for name, count in self._probe_failures.items() if name in servers
        }

    def _circuit(self, server: str, model: str) -> _Circuit:
        circuit = self._circuits.get((server, model))
        if circuit is None:
            if len(self._circuits) >= MAX_CIRCUITS:
                del self._circuits[self._least_needed()]
            circuit = self._circuits[server, model] = _Circuit()
        return circuit

    def _least_needed(self) -> Served:
        """The oldest circuit of a user's own key, else the oldest one."""
        oldest = next(iter(self._circuits))
        return next((served for served in self._circuits if is_own_name(served[0])), oldest)

    def _open(self, server: str, model: str, circuit: _Circuit, now: float) -> None:
        if circuit.opened is None:
            circuit.opened = now
        factor = 1 + int((now - circuit.opened) // (2 * self._eject_seconds))
        seconds = self._eject_seconds * min(factor, MAX_EJECTION_FACTOR)
        circuit.until, circuit.trial_until, circuit.successes = now + seconds, 0.0, 0
        self._on_change(HealthChange(server, model, "open", circuit.last_error or "", seconds))

    def _close(self, server: str, model: str, circuit: _Circuit, now: float) -> None:
        reason = circuit.last_error or ""
        self._circuits[server, model] = _Circuit(last_error=reason, slow_until=now + SLOW_START_SECONDS)
        self._on_change(HealthChange(server, model, "closed", reason))

    def _ejected_since(self, served: Served) -> float:
        circuit = self._circuits.get(served)
        return 0.0 if circuit is None or circuit.opened is None else circuit.opened
