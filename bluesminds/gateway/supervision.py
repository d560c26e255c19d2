"""The background tasks of the gateway. Each runs for ever in main's nursery; one that fails is restarted
and shows in /ready.
"""

import random
from collections.abc import Awaitable, Callable

import trio

from bluesminds.common.log import Log
from bluesminds.common.values import Server
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.probe import probe
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.routing.health import Health
from bluesminds.gateway.routing.registry import ServerRegistry
from bluesminds.http.client.pool import Pool
from storage.base import StorageBroken, StorageUnavailable, Store
from storage.keys import KeyUse, touch_keys

MAX_BACKOFF = 30.0  # seconds
SWEEP_SECONDS = 30.0
PROBES_AT_ONCE = 16


class TaskSupervisor:
    """Runs named tasks and knows which are down."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.down: dict[str, str] = {}  # name to the kind of error

    async def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run work until it returns; when it raises, run it again after a growing pause."""
        pause = 0.5
        while True:
            try:
                self.down.pop(name, None)
                return await work()
            except Exception as exc:
                self.down[name] = type(exc).__name__
                self._log.exception("keeper_failed", exc, keeper=name)
                await trio.sleep(pause)
                pause = min(pause * 2, MAX_BACKOFF)


class Watchdog:
    """Whether the recorder's task turns. A database that fails is no reason for a restart, which would lose
    the rows kept in memory; a task that makes no attempt for `limit` seconds while rows wait is one. `limit`
    is longer than an attempt and the longest pause after an error of ours.
    """

    def __init__(self, recorder: Recorder, *, limit: float) -> None:
        self._recorder = recorder
        self._limit = limit
        self._attempts = recorder.attempts
        self._since = trio.current_time()

    def beats(self) -> bool:
        """To be asked now and then; what happened between is what it judges."""
        now = trio.current_time()
        if self._attempts != self._recorder.attempts or not self._recorder.has_work:
            self._attempts, self._since = self._recorder.attempts, now
        return now - self._since <= self._limit


class HealthChecker:
    """Active health checks and model discovery, every `interval` seconds with a tenth of jitter."""

    def __init__(
        self, pool: Pool, registry: ServerRegistry, health: Health, *, interval: float, timeout: float
    ) -> None:
        self._pool = pool
        self._registry = registry
        self._health = health
        self._interval = interval
        self._timeout = timeout
        self._limit = trio.CapacityLimiter(PROBES_AT_ONCE)
        self._dice = random.Random()  # noqa: S311 - jitter, not a secret

    async def run(self) -> None:
        while True:
            await self._registry.reload()
            await self.probe_all()
            await trio.sleep(self._interval * self._dice.uniform(0.9, 1.1))

    async def probe_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for server in self._registry.catalog.servers:
                nursery.start_soon(self._probe, server)

    async def _probe(self, server: Server) -> None:
        async with self._limit:
            found = await probe(self._pool, server, seconds=self._timeout, list_models=not server.models)
        self._health.probed(server.name, alive=found.problem is None)
        if found.models is not None:
            self._registry.discovered(server.name, found.models)


class IdleSweeper:
    """Stores when keys were last used, and closes idle accounts."""

    def __init__(
        self, store: Store, keys: KeyAuthenticator, limiter: RateLimiter, recorder: Recorder
    ) -> None:
        self._store = store
        self._keys = keys
        self._limiter = limiter
        self._recorder = recorder

    async def run(self) -> None:
        while True:
            await trio.sleep(SWEEP_SECONDS)
            await self.sweep()

    async def sweep(self) -> None:
        self._limiter.sweep(self._recorder.oldest)
        self._limiter.sweep_visitors()
        used, self._keys.used = self._keys.used, {}
        if used:
            try:
                await self._store.write(touch_keys, [KeyUse(*use) for use in used.items()])
            except (StorageUnavailable, StorageBroken):
                self._keys.used = {**used, **self._keys.used}
