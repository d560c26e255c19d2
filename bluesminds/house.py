"""The rooms of a running gateway and the doors between them, built from the core in one place."""

from collections.abc import Awaitable, Callable

import trio
from prometheus_client import CollectorRegistry

from bluesminds.core import Core, timeouts
from bluesminds.gateway.admit import Admission
from bluesminds.gateway.bodies import BodyBudget
from bluesminds.gateway.health import Health
from bluesminds.gateway.identify import KeyRing
from bluesminds.gateway.keepers import MAX_BACKOFF, Keepers, Prober, Pulse, Sweeper
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.probe import probe
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.send import Sender
from bluesminds.gateway.servers import Shelf
from bluesminds.gateway.settle import Books
from bluesminds.gateway.walk import Gateway
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.limits import Stats
from bluesminds.values import Server
from bluesminds.web import admin, control, ops, setup
from bluesminds.web.edge import Edge
from storage.base import StorageError
from storage.keys import select_key_by_digest
from storage.members import has_admin

STORE_SECONDS = 2.0  # the longest /ready waits for the store


class House:
    """Attributes are the rooms; methods are what more than one of them has to do."""

    def __init__(
        self, core: Core, configured: list[Server], metrics: Metrics, recorder: Recorder, keepers: Keepers
    ) -> None:
        settings = core.settings
        self.core = core
        self.recorder = recorder
        self.keepers = keepers
        self.pulse = Pulse(recorder, limit=MAX_BACKOFF + 2 * settings.storage.settle_timeout)
        self.stats = Stats()
        self.keys = KeyRing(
            lambda digest: core.store.read(select_key_by_digest, digest),
            pepper=core.pepper,
            clock=core.clock,
            cache_seconds=settings.keys.cache_seconds,
            requests_per_minute=settings.limits.requests_per_minute,
            concurrency=settings.limits.concurrency,
        )
        self.health = Health(
            eject_after=settings.upstream.eject_after, eject_seconds=settings.upstream.eject_seconds
        )
        self.shelf = Shelf(configured, core.servers.load, self.health)
        self.prober = Prober(
            core.pool,
            self.shelf,
            self.health,
            interval=settings.upstream.probe_interval,
            timeout=settings.upstream.probe_timeout,
        )
        admission = Admission()
        self.sweeper = Sweeper(core.store, self.keys, admission)
        self.gateway = Gateway(
            keys=self.keys,
            shelf=self.shelf,
            health=self.health,
            admission=admission,
            sender=Sender(
                core.pool,
                self.health,
                timeouts=timeouts(settings),
                attempts=settings.upstream.attempts,
                metrics=metrics,
                log=core.log,
            ),
            books=Books(
                recorder=recorder,
                metrics=metrics,
                log=core.log,
                strict=settings.storage.durability == "strict",
                log_requests=settings.log.requests,
            ),
            total_timeout=settings.upstream.total_timeout,
            expose_server=settings.server.expose_server,
        )
        bodies = BodyBudget(settings.server.max_buffered_bytes)
        self.site = self._site(metrics, admission, bodies)
        self.edge = Edge(self.gateway, self.site, bodies=bodies, clock=core.clock, log=core.log)

    def _site(self, metrics: Metrics, admission: Admission, bodies: BodyBudget) -> ASGIApp:
        metrics.gauge("bluesminds_requests_running", "Requests being answered.", lambda: admission.running)
        metrics.gauge("bluesminds_usage_rows_held", "Usage rows not yet durable.", lambda: self.recorder.held)
        metrics.gauge("bluesminds_body_bytes_held", "Bytes of request bodies held.", lambda: bodies.held)
        registry = CollectorRegistry()
        registry.register(metrics)
        registry.register(ops.ListenerMetrics(self.stats))
        core = self.core
        return control.create(
            ops.blueprint(self.readiness, registry),
            setup.blueprint(core.members, core.passwords),
            admin.blueprint(desk(core, self.servers_now, self.servers_changed)),
            clock=core.clock,
            log=core.log,
        )

    async def look_around(self, seconds: float) -> None:
        """Learn what servers and models there are, without waiting long for any of them."""
        await self.shelf.reload()
        with trio.move_on_after(seconds):
            await self.prober.probe_all()

    async def servers_now(self) -> list[Server]:
        return list(self.shelf.catalogue.servers)

    async def servers_changed(self) -> None:
        await self.shelf.reload()
        await self.prober.probe_all()

    async def readiness(self) -> dict[str, str]:
        return {
            "store": "failing" if self.recorder.failing else await self._store_answers(),
            "keepers": ", ".join(sorted(self.keepers.down)) + " down" if self.keepers.down else "ok",
            "servers": "ok" if self.shelf.has_usable() else self._why_no_server(),
        }

    def _why_no_server(self) -> str:
        locked = len(self.core.servers.locked)
        return "no usable server" + (f"; {locked} with a key of another master key" if locked else "")

    async def _store_answers(self) -> str:
        try:
            with trio.fail_after(STORE_SECONDS):
                await self.core.store.read(has_admin)
        except (StorageError, trio.TooSlowError):
            return "does not answer"
        return "ok"


def desk(
    core: Core,
    servers_now: Callable[[], Awaitable[list[Server]]],
    servers_changed: Callable[[], Awaitable[None]],
) -> admin.Desk:
    """What the operator's API works with, in a running gateway or without one."""
    return admin.Desk(
        keys=core.keys,
        members=core.members,
        servers=core.servers,
        usage=core.usage,
        passwords=core.passwords,
        servers_now=servers_now,
        servers_changed=servers_changed,
        probe=lambda server: probe(
            core.pool, server, seconds=core.settings.upstream.probe_timeout, list_models=True
        ),
    )
