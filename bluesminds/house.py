"""The rooms of a running gateway and the doors between them, built from the core in one place."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio
from prometheus_client import CollectorRegistry

from bluesminds.core import Core, keyless_limits, prices_of, timeouts
from bluesminds.gateway.admit import Admission
from bluesminds.gateway.bodies import BodyBudget
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.health import Health
from bluesminds.gateway.identify import KeyRing
from bluesminds.gateway.keepers import MAX_BACKOFF, Keepers, Prober, Pulse, Sweeper
from bluesminds.gateway.lease import Lease
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.probe import Probe, probe
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.send import Sender
from bluesminds.gateway.servers import Shelf
from bluesminds.gateway.settle import Books
from bluesminds.gateway.walk import Gateway
from bluesminds.gateway.window import WINDOW
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.limits import Stats
from bluesminds.networks import Networks
from bluesminds.values import InUse, Server
from bluesminds.web import (
    audit,
    auth,
    control,
    invites,
    keys,
    limits,
    ops,
    pages,
    servers,
    sessions,
    setup,
    usage,
    users,
)
from bluesminds.web.address import Proxies
from bluesminds.web.edge import Edge
from bluesminds.web.guard import Guard
from bluesminds.web.reference import Reference
from bluesminds.web.routes import Route
from storage.base import StorageError
from storage.members import has_admin
from storage.quotas import select_recent

STORE_SECONDS = 2.0  # the longest /ready waits for the store
LONGEST_SECONDS = 3600.0  # of a request in the log that a start looks for: it must not read a day of it


class House:
    """Attributes are the rooms; methods are what more than one of them has to do."""

    def __init__(
        self,
        core: Core,
        configured: list[Server],
        metrics: Metrics,
        recorder: Recorder,
        keepers: Keepers,
        lease: Lease,
    ) -> None:
        settings = core.settings
        self.core = core
        self.recorder = recorder
        self.keepers = keepers
        self.lease = lease
        self.pulse = Pulse(recorder, limit=MAX_BACKOFF + 2 * settings.storage.settle_timeout)
        self.stats = Stats()
        self.admission = admission = Admission(core.clock, core.calendar, lease.held)
        self.keys = KeyRing(
            partial(admission.look_up, core.store),
            pepper=core.pepper,
            clock=core.clock,
            cache_seconds=settings.keys.cache_seconds,
            tiers=core.limits.tiers,
            is_open=admission.holds,
            keyless=keyless_limits(settings),
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
        self.sweeper = Sweeper(core.store, self.keys, admission, recorder)
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
                estimator=Estimator(
                    prices_of(settings), default_completion=settings.limits.default_max_tokens
                ),
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
        trusted = Networks.read(settings.server.trusted_proxies)
        self.edge = Edge(
            self.gateway,
            self.site,
            bodies=bodies,
            clock=core.clock,
            log=core.log,
            proxies=Proxies(trusted) if trusted else None,
        )

    def _site(self, metrics: Metrics, admission: Admission, bodies: BodyBudget) -> ASGIApp:
        metrics.gauge("bluesminds_requests_running", "Requests being answered.", lambda: admission.running)
        metrics.gauge("bluesminds_usage_rows_held", "Usage rows not yet durable.", lambda: self.recorder.held)
        metrics.gauge("bluesminds_body_bytes_held", "Bytes of request bodies held.", lambda: bodies.held)
        registry = CollectorRegistry()
        registry.register(metrics)
        registry.register(ops.ListenerMetrics(self.stats))
        core = self.core
        routes = [
            *ops.routes(ops.OpsDesk(self.readiness, registry)),
            *offices(core, self.servers_now, self.servers_changed, admission.in_use),
        ]
        reference = Reference(routes, url=core.settings.server.public_url or "/")
        mounted = [*routes, *reference.routes, *pages.routes()]
        return control.create(mounted, guard(core), clock=core.clock, log=core.log)

    async def resume(self) -> None:
        """Count on where the process before this one ended. What took longer than this one lets requests
        take, or than an hour, is not found. Raises StorageError.
        """
        longest = min(self.core.settings.upstream.total_timeout, LONGEST_SECONDS)
        select = partial(select_recent, within=(WINDOW + 1) * 1000, longest=round(longest * 1000))
        recent = await self.core.store.read(select, self.core.clock.now_ms())
        self.admission.resume(recent)

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
            "limits": "ok" if self.lease.held() else "another gateway may be counting",
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


def offices(
    core: Core,
    servers_now: Callable[[], Awaitable[list[Server]]],
    servers_changed: Callable[[], Awaitable[None]],
    in_use: Callable[[str], InUse],
) -> list[Route]:
    """The routes of what people do, in a running gateway or without one."""

    def try_out(server: Server) -> Awaitable[Probe]:
        return probe(core.pool, server, seconds=core.settings.upstream.probe_timeout, list_models=True)

    return [
        *setup.routes(setup.SetupDesk(core.members, core.passwords, core.throttle)),
        *keys.routes(core.keys, core.members),
        *auth.routes(auth.AuthDesk(core.auth, core.mailboxes, core.members)),
        *sessions.routes(sessions.SessionDesk(core.sessions, core.members)),
        *users.routes(users.UserDesk(core.members, core.passwords, core.mailboxes)),
        *invites.routes(invites.InviteDesk(core.invitations)),
        *servers.routes(servers.ServerDesk(core.servers, servers_now, servers_changed, try_out)),
        *usage.routes(usage.UsageDesk(core.usage)),
        *limits.routes(limits.LimitDesk(core.limits, in_use)),
        *audit.routes(audit.AuditDesk(core.audit)),
    ]


def guard(core: Core) -> Guard:
    return Guard(core.sessions, core.throttle, public_url=core.settings.server.public_url)
