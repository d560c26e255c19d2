"""The rooms of a running gateway and the doors between them, built from the core in one place."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio
from prometheus_client import CollectorRegistry

from bluesminds.app.services import Services, keyless_limits, prices_of, timeouts
from bluesminds.common.networks import Networks
from bluesminds.common.values import InUse, Server
from bluesminds.gateway.accounting import UsageAccounting
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.bodies import BodyMemory
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.limits.lease import Lease
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.limits.window import WINDOW_SECONDS
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.probe import ProbeResult, probe
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.supervision import MAX_BACKOFF, HealthChecker, IdleSweeper, TaskSupervisor, Watchdog
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.server.limits import ListenerStats
from bluesminds.web import app
from bluesminds.web.api import audit, auth, invites, keys, limits, ops, servers, sessions, setup, usage, users
from bluesminds.web.data_plane import DataPlane
from bluesminds.web.docs.reference import Reference
from bluesminds.web.forwarded import ProxyHeaders
from bluesminds.web.guard import Guard
from bluesminds.web.pages import account_pages
from bluesminds.web.routes import Route
from storage.base import StorageError
from storage.quotas import select_recent
from storage.users import has_admin

STORE_SECONDS = 2.0  # the longest /ready waits for the store
LONGEST_SECONDS = 3600.0  # of a request in the log that a start looks for: it must not read a day of it


class GatewayApp:
    """Attributes are the rooms; methods are what more than one of them has to do."""

    def __init__(
        self,
        core: Services,
        configured: list[Server],
        metrics: Metrics,
        recorder: Recorder,
        tasks: TaskSupervisor,
        lease: Lease,
    ) -> None:
        settings = core.settings
        self.core = core
        self.recorder = recorder
        self.tasks = tasks
        self.lease = lease
        self.watchdog = Watchdog(recorder, limit=MAX_BACKOFF + 2 * settings.storage.settle_timeout)
        self.stats = ListenerStats()
        self.limiter = limiter = RateLimiter(core.clock, core.calendar, lease.held)
        self.keys = KeyAuthenticator(
            partial(limiter.look_up_key, core.store),
            pepper=core.pepper,
            clock=core.clock,
            cache_seconds=settings.keys.cache_seconds,
            tiers=core.limits.tiers,
            is_open=limiter.is_open,
            keyless=keyless_limits(settings),
        )
        self.health = ServerHealthRegistry(
            eject_after=settings.upstream.eject_after, eject_seconds=settings.upstream.eject_seconds
        )
        self.registry = ServerRegistry(configured, core.servers.load, self.health)
        self.health_checker = HealthChecker(
            core.pool,
            self.registry,
            self.health,
            interval=settings.upstream.probe_interval,
            timeout=settings.upstream.probe_timeout,
        )
        self.idle_sweeper = IdleSweeper(core.store, self.keys, limiter, recorder)
        self.gateway = Gateway(
            keys=self.keys,
            registry=self.registry,
            health=self.health,
            limiter=limiter,
            sender=Sender(
                core.pool,
                self.health,
                timeouts=timeouts(settings),
                attempts=settings.upstream.attempts,
                metrics=metrics,
                log=core.log,
            ),
            accounting=UsageAccounting(
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
        bodies = BodyMemory(settings.server.max_buffered_bytes)
        self.site = self._site(metrics, limiter, bodies)
        trusted = Networks.read(settings.server.trusted_proxies)
        self.edge = DataPlane(
            self.gateway,
            self.site,
            bodies=bodies,
            clock=core.clock,
            log=core.log,
            proxies=ProxyHeaders(trusted) if trusted else None,
        )

    def _site(self, metrics: Metrics, limiter: RateLimiter, bodies: BodyMemory) -> ASGIApp:
        metrics.gauge("bluesminds_requests_running", "Requests in progress.", lambda: limiter.running)
        metrics.gauge(
            "bluesminds_usage_rows_held",
            "Usage rows reserved or not committed yet.",
            lambda: self.recorder.held,
        )
        metrics.gauge("bluesminds_body_bytes_held", "Bytes of request bodies in memory.", lambda: bodies.held)
        registry = CollectorRegistry()
        registry.register(metrics)
        registry.register(ops.ListenerMetrics(self.stats))
        core = self.core
        routes = [
            *ops.routes(ops.OpsHandlers(self.readiness, registry)),
            *api_routes(core, self.list_servers, self.servers_changed, limiter.in_use),
        ]
        reference = Reference(routes, url=core.settings.server.public_url or "/")
        mounted = [*routes, *reference.routes, *account_pages.routes()]
        return app.create_app(mounted, guard(core), clock=core.clock, log=core.log)

    async def restore(self) -> None:
        """Count on where the process before this one ended. What took longer than this one lets requests
        take, or than an hour, is not found. Raises StorageError.
        """
        longest = min(self.core.settings.upstream.total_timeout, LONGEST_SECONDS)
        select = partial(select_recent, within=(WINDOW_SECONDS + 1) * 1000, longest=round(longest * 1000))
        recent = await self.core.store.read(select, self.core.clock.now_ms())
        self.limiter.restore(recent)

    async def discover_models(self, seconds: float) -> None:
        """Learn what servers and models there are, without waiting long for any of them."""
        await self.registry.reload()
        with trio.move_on_after(seconds):
            await self.health_checker.probe_all()

    async def list_servers(self) -> list[Server]:
        return list(self.registry.catalog.servers)

    async def servers_changed(self) -> None:
        await self.registry.reload()
        await self.health_checker.probe_all()

    async def readiness(self) -> dict[str, str]:
        return {
            "store": "failing" if self.recorder.failing else await self._check_store(),
            "limits": "ok" if self.lease.held() else "another gateway may be counting",
            "tasks": ", ".join(sorted(self.tasks.down)) + " down" if self.tasks.down else "ok",
            "servers": "ok" if self.registry.has_usable() else self._describe_unavailability(),
        }

    def _describe_unavailability(self) -> str:
        locked = len(self.core.servers.locked)
        return "no usable server" + (f"; {locked} with a key of another master key" if locked else "")

    async def _check_store(self) -> str:
        try:
            with trio.fail_after(STORE_SECONDS):
                await self.core.store.read(has_admin)
        except (StorageError, trio.TooSlowError):
            return "does not answer"
        return "ok"


def api_routes(
    core: Services,
    list_servers: Callable[[], Awaitable[list[Server]]],
    servers_changed: Callable[[], Awaitable[None]],
    in_use: Callable[[str], InUse],
) -> list[Route]:
    """The routes of what people do, in a running gateway or without one."""

    def try_out(server: Server) -> Awaitable[ProbeResult]:
        return probe(core.pool, server, seconds=core.settings.upstream.probe_timeout, list_models=True)

    return [
        *setup.routes(setup.SetupHandlers(core.members, core.passwords, core.throttle)),
        *keys.routes(core.keys, core.members),
        *auth.routes(auth.AuthHandlers(core.auth, core.mailboxes, core.members)),
        *sessions.routes(sessions.SessionHandlers(core.sessions, core.members)),
        *users.routes(users.UserHandlers(core.members, core.passwords, core.mailboxes)),
        *invites.routes(invites.InviteHandlers(core.invitations)),
        *servers.routes(servers.ServerHandlers(core.servers, list_servers, servers_changed, try_out)),
        *usage.routes(usage.UsageHandlers(core.usage)),
        *limits.routes(limits.LimitHandlers(core.limits, in_use)),
        *audit.routes(audit.AuditHandlers(core.audit)),
    ]


def guard(core: Services) -> Guard:
    return Guard(core.sessions, core.throttle, public_url=core.settings.server.public_url)
