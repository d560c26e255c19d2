"""Background tasks: their supervisor, and the tasks that check servers and clean up.

A task that fails is restarted, and reported in /ready.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Literal

import trio
from msgspec import structs

from bluesminds.common.log import Log
from bluesminds.common.values import Server
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.probe import ProbeResult, probe
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.routing.health import UNKNOWN, ServerHealthRegistry, ServerStatus
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.http.client.pool import Pool
from storage.base import StorageBroken, StorageUnavailable, Store
from storage.keys import KeyUse, touch_keys

INITIAL_BACKOFF, MAX_BACKOFF = 0.5, 30.0  # seconds
SWEEP_SECONDS = 30.0
MAX_CONCURRENT_PROBES = 16


class TaskSupervisor:
    """Restarts named tasks that fail. `down` has the error type of each task that waits for its restart, and
    `restarts` how often each task has failed.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.down: dict[str, str] = {}
        self.restarts: dict[str, int] = {}

    async def run(self, name: str, task: Callable[[], Awaitable[None]]) -> None:
        """Run the task until it returns. If it raises, restart it with exponential back-off."""
        backoff = INITIAL_BACKOFF
        self.restarts.setdefault(name, 0)
        while True:
            try:
                self.down.pop(name, None)
                return await task()
            except Exception as exc:
                self.down[name] = type(exc).__name__
                self.restarts[name] += 1
                self._log.exception("background_task_failed", exc, task=name)
                await trio.sleep(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF)


class Watchdog:
    """Whether the recorder task is making progress. A failing database is no reason to restart the process,
    which would lose the rows in memory; a recorder that does not try to commit for `limit` seconds while rows
    wait is. `limit` must exceed the duration of one commit plus MAX_BACKOFF.
    """

    def __init__(self, recorder: Recorder, *, limit: float) -> None:
        self._recorder = recorder
        self._limit = limit
        self._attempts = recorder.attempts
        self._since = trio.current_time()

    def healthy(self) -> bool:
        """Compares the recorder with the previous call, so call it repeatedly."""
        now = trio.current_time()
        if self._attempts != self._recorder.attempts or not self._recorder.has_work:
            self._attempts, self._since = self._recorder.attempts, now
        return now - self._since <= self._limit


class HealthChecker:
    """Probes every server and lists its models, every `interval` seconds with 10 % of jitter."""

    def __init__(
        self,
        pool: Pool,
        registry: ServerRegistry,
        health: ServerHealthRegistry,
        keys: ServerKeyRegistry,
        *,
        interval: float,
        timeout: float,
        log: Log,
    ) -> None:
        self._log = log
        self._statuses: dict[str, ServerStatus] = {}
        self._pool = pool
        self._registry = registry
        self._health = health
        self._keys = keys
        self._interval = interval
        self._timeout = timeout
        self._limit = trio.CapacityLimiter(MAX_CONCURRENT_PROBES)
        self._random = random.Random()  # noqa: S311 - jitter, not a secret

    async def run(self) -> None:
        while True:
            await self._registry.reload()
            await self.probe_all()
            await trio.sleep(self._interval * self._random.uniform(0.9, 1.1))

    async def probe_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for server in self._registry.catalog.servers:
                nursery.start_soon(self._probe, server)

    def status(self, server: str) -> ServerStatus:
        return self._statuses.get(server, UNKNOWN)

    def _set_status(self, server: Server, result: ProbeResult) -> None:
        """Store the result and log a change between up and down."""
        before = self.status(server.name)
        count = len(server.models) or before.model_count
        if result.models is not None:
            count = len(result.models)
        state: Literal["up", "down"] = "up" if result.error is None else "down"
        self._statuses[server.name] = ServerStatus(state, count, result.error)
        if state == "down" != before.state:
            self._log.warning("server_down", server=server.name, reason=result.error)
        elif state == "up" and before.state == "down":
            self._log.info("server_up", server=server.name)

    async def _probe(self, server: Server) -> None:
        async with self._limit:
            result = await self._probe_keys(server)
        if not result.local:
            self._health.record_probe(server.name, alive=result.error is None)
            self._set_status(server, result)
        if result.models is not None:
            self._registry.set_discovered(server.name, result.models)

    async def _probe_keys(self, server: Server) -> ProbeResult:
        """With the next key of a server that has several. If it is refused, it rests, and another is used."""
        lists = not server.models
        if not server.more_keys:
            return await probe(self._pool, server, seconds=self._timeout, list_models=lists)
        while True:
            key = self._keys.choose(server)
            probed = structs.replace(server, api_key=key)
            result = await probe(self._pool, probed, seconds=self._timeout, list_models=lists)
            if not result.key_refused:
                return result
            self._keys.rest(server, key, "refused")
            if self._keys.seconds_until_usable(server):
                return result


class IdleSweeper:
    """Stores when API keys were last used, and closes idle accounts."""

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
        self._limiter.sweep(self._recorder.oldest_waiting)
        self._limiter.sweep_addresses()
        last_used, self._keys.last_used = self._keys.last_used, {}
        if last_used:
            try:
                await self._store.write(touch_keys, [KeyUse(*use) for use in last_used.items()])
            except (StorageUnavailable, StorageBroken):
                self._keys.last_used = last_used | self._keys.last_used
