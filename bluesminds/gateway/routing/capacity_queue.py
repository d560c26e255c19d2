"""Requests that wait because every server that could serve them is at a cap.

The order is round robin between accounts, and first come, first served within an account. A slot that becomes
free goes to the next request that can use it, and only this request is woken. The slot is taken for it in the
same step, so that no new request can take it before.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import trio
from msgspec import Struct

from bluesminds.common.errors import UpstreamFailed, retry_headers
from bluesminds.gateway.routing.load import LoadRegistry, RunningAttempt
from bluesminds.gateway.routing.plans import Target

QueueOutcome = Literal["served", "timeout", "left", "full", "account_full"]
LONGEST_RETRY_AFTER: Final = 60.0  # seconds
_SMOOTHING: Final = 0.2  # share of the newest interval between two slots


class QueueLimits(Struct, frozen=True):
    """`timeout`: seconds that a request waits at most; 0: it does not wait. `size`: requests that wait at
    once, and `per_account` those of one account.
    """

    timeout: float
    size: int
    per_account: int


class QueuedRequest(Struct, frozen=True):
    """`account` is the account, or the address of a client without one. `model`: the client's name. `route`:
    the name of its route. `timeout` and `size` are those of the route, or None.
    """

    account: str
    model: str
    stream: bool
    route: str = ""
    timeout: float | None = None
    size: int | None = None


class _Waiter:
    """`slot` is set together with `target` when a server has room."""

    __slots__ = ("request", "slot", "target", "targets", "woken")

    def __init__(self, request: QueuedRequest, targets: Sequence[Target]) -> None:
        self.request = request
        self.targets = {target.server.name: target for target in reversed(targets)}  # the first one of each
        self.woken = trio.Event()
        self.target: Target | None = None
        self.slot: RunningAttempt | None = None


_ByAccount = OrderedDict[str, OrderedDict[_Waiter, None]]


class CapacityQueue:
    """`observe` is called with each outcome and the seconds that the request has waited."""

    def __init__(
        self, load: LoadRegistry, limits: QueueLimits, observe: Callable[[QueueOutcome, float], None]
    ) -> None:
        self._load = load
        self._limits = limits
        self._observe = observe
        self._by_server: dict[str, _ByAccount] = {}
        self._accounts: Counter[str] = Counter()
        self._routes: Counter[str] = Counter()
        self._models: dict[str, Counter[str]] = {}  # of waiting requests: servers by model
        self._lengths: Counter[str] = Counter()  # of waiting requests, by model
        self._length = 0
        self._interval = 1.0  # seconds between two slots, smoothed
        self._granted_at = -math.inf
        self._changed = trio.Event()

    @property
    def length(self) -> int:
        return self._length

    def waiting(self) -> Mapping[str, tuple[int, Sequence[str]]]:
        """The number of waiting requests of each model, and the servers that they wait for."""
        return {model: (count, sorted(self._models[model])) for model, count in self._lengths.items()}

    def begin(self, target: Target, request: QueuedRequest) -> RunningAttempt | None:
        """A slot at the server; None if the server is at a cap. Requests that wait for it come first."""
        server = target.server.name
        if self._by_server:
            self._grant(server)
        if self._load.is_full(server):
            return None
        return self._load.begin(server, target.model or request.model, stream=request.stream)

    async def wait(self, targets: Sequence[Target], request: QueuedRequest) -> tuple[Target, RunningAttempt]:
        """Wait for a slot at one of the servers, all of which are at a cap. If several have one, the first
        target is used.

        Raises UpstreamFailed if the queue is full, or if there is no slot in time.
        """
        timeout = self._limits.timeout if request.timeout is None else request.timeout
        if timeout <= 0:
            raise self._busy(targets)
        self._check_size(targets, request)
        waiter, begun = _Waiter(request, targets), self._load.monotonic()
        self._add(waiter)
        try:
            with trio.move_on_after(timeout):
                await waiter.woken.wait()
        except BaseException:
            if waiter.slot is None:
                self._remove(waiter)
            else:
                waiter.slot.end()
            self._observe("left", self._load.monotonic() - begun)
            raise
        seconds = self._load.monotonic() - begun
        if waiter.slot is None or waiter.target is None:
            error = self._busy(targets)
            self._remove(waiter)
            self._observe("timeout", seconds)
            raise error
        self._observe("served", seconds)
        return waiter.target, waiter.slot

    async def run(self) -> None:
        """Give out the slots of servers with a cap per minute when they become free. Run until cancelled."""
        while True:
            self._changed = trio.Event()
            room = min(map(self._load.rate_room_at, self._by_server), default=math.inf)
            with trio.move_on_at(room):
                await self._changed.wait()
            self.caps_changed()

    def room(self, server: str) -> None:
        """A request of the server has ended."""
        self._grant(server)

    def caps_changed(self) -> None:
        for server in list(self._by_server):
            self._grant(server)

    def _grant(self, server: str) -> None:
        """Give the free slots of a server to the requests whose turn it is."""
        while (accounts := self._by_server.get(server)) and not self._load.is_full(server):
            account, waiters = next(iter(accounts.items()))
            waiter = next(iter(waiters))
            accounts.move_to_end(account)
            self._remove(waiter)
            target = waiter.targets[server]
            request = waiter.request
            waiter.target = target
            waiter.slot = self._load.begin(server, target.model or request.model, stream=request.stream)
            waiter.woken.set()
            now = self._load.monotonic()
            interval = min(now - self._granted_at, LONGEST_RETRY_AFTER)
            self._interval += _SMOOTHING * (interval - self._interval)
            self._granted_at = now

    def _add(self, waiter: _Waiter) -> None:
        request = waiter.request
        if not self._length:
            self._granted_at = self._load.monotonic()
        self._length += 1
        self._accounts[request.account] += 1
        self._routes[request.route] += 1
        self._lengths[request.model] += 1
        servers = self._models.setdefault(request.model, Counter())
        for server in waiter.targets:
            servers[server] += 1
            accounts = self._by_server.setdefault(server, OrderedDict())
            accounts.setdefault(request.account, OrderedDict())[waiter] = None
        self._load.listener = self
        self._changed.set()

    def _remove(self, waiter: _Waiter) -> None:
        request = waiter.request
        self._length -= 1
        _decrement(self._accounts, request.account)
        _decrement(self._routes, request.route)
        _decrement(self._lengths, request.model)
        servers = self._models[request.model]
        for server in waiter.targets:
            _decrement(servers, server)
            accounts = self._by_server[server]
            del accounts[request.account][waiter]
            if not accounts[request.account]:
                del accounts[request.account]
            if not accounts:
                del self._by_server[server]
        if not servers:
            del self._models[request.model]
        if not self._length:
            self._load.listener = None

    def _check_size(self, targets: Sequence[Target], request: QueuedRequest) -> None:
        """Raises UpstreamFailed."""
        full = self._length >= self._limits.size
        full = full or (request.size is not None and self._routes[request.route] >= request.size)
        if not full and self._accounts[request.account] < self._limits.per_account:
            return
        self._observe("full" if full else "account_full", 0.0)
        whose = "Too many requests" if full else "Too many of your requests"
        message = f"{whose} are waiting for a server. Try again later, or send fewer at once."
        raise UpstreamFailed(503, "queue_full", message, headers=self._retry_after(targets))

    def _busy(self, targets: Sequence[Target]) -> UpstreamFailed:
        message = "All servers of this model are at their limits. Try again in a few seconds."
        return UpstreamFailed(503, "servers_busy", message, headers=self._retry_after(targets))

    def _retry_after(self, targets: Sequence[Target]) -> dict[str, str]:
        """The time that the waiting requests need at the present pace, and at least until a server is below
        its cap per minute.
        """
        seconds = self._interval * (self._length + 1)
        rooms = [self._load.rate_room_at(one.server.name) for one in targets]
        if all(map(math.isfinite, rooms)):
            seconds = max(seconds, min(rooms, default=0.0) - self._load.monotonic())
        return retry_headers(min(max(1.0, seconds), LONGEST_RETRY_AFTER))


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
