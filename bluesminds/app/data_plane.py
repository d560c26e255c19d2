"""Builds the gateway from the services: authentication, routing, accounting and the ASGI application."""

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import trio
from msgspec import Struct

from bluesminds.accounts.notices import UsageNotices
from bluesminds.app.alert_measures import AlertMeasures
from bluesminds.app.control_plane import build_control_plane
from bluesminds.app.malloc import HeapTrimmer
from bluesminds.app.prices import PriceLoader, bundled_prices
from bluesminds.app.reload import ConfigReloader, ConfigSource
from bluesminds.app.routing import Routing, log_health, log_key_rest, log_token_failure
from bluesminds.app.runtime import Authentication, Runtime
from bluesminds.app.services import Services
from bluesminds.app.settings_map import (
    configured_prices,
    cors_origins,
    file_routes,
    has_event_consumers,
    keyless_limits,
    notice_policy,
    socket_settings,
    tier_budgets,
    tier_markups,
    upstream_timeouts,
)
from bluesminds.common.money import NANO
from bluesminds.common.networks import Networks
from bluesminds.common.prices import combine
from bluesminds.common.redaction import Redactor
from bluesminds.common.values import LimitSet, Server
from bluesminds.gateway.accounting import UsageAccounting
from bluesminds.gateway.admission import Admission
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.bodies import BodyMemory
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.keep_alive import KeepAlive
from bluesminds.gateway.limits.lease import Lease
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.limits.window import WINDOW_SECONDS
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.observer import RequestObserver
from bluesminds.gateway.open_requests import OpenRequests
from bluesminds.gateway.passthrough.exchange import RelayExchange
from bluesminds.gateway.passthrough.handler import PassthroughHandler
from bluesminds.gateway.passthrough.runner import RelayRunner
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.prices.book import PriceBook, PriceRegistry
from bluesminds.gateway.prompt_log import PromptLog
from bluesminds.gateway.relay import Relay
from bluesminds.gateway.replay import Replayer
from bluesminds.gateway.response_cache import CacheResult, ResponseCache
from bluesminds.gateway.routing.capacity_queue import CapacityQueue, QueueLimits
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.policies import Balancer
from bluesminds.gateway.routing.rotation import RotationRegistry
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.gateway.server_notices import ServerNotices
from bluesminds.gateway.server_objects import ServerObjects
from bluesminds.gateway.sockets.realtime import RealtimeSessions
from bluesminds.gateway.sockets.responses import ResponsesSessions
from bluesminds.gateway.spool import SpoolSpace
from bluesminds.gateway.stored_responses.handler import StoredResponseHandler
from bluesminds.gateway.stored_responses.links import RequestLinks
from bluesminds.gateway.stored_responses.store import ResponseStore
from bluesminds.gateway.stream_relay import StreamRelay
from bluesminds.gateway.supervision import MAX_BACKOFF, HealthChecker, IdleSweeper, Watchdog
from bluesminds.gateway.tracing import CollectorAddress, Tracer
from bluesminds.gateway.traffic import TrafficMonitor
from bluesminds.gateway.upstream.backoff import Backoff
from bluesminds.gateway.upstream.entra import EntraTokens
from bluesminds.gateway.upstream.extra_budget import ExtraBudget
from bluesminds.gateway.upstream.extra_costs import ExtraCosts
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.gateway.upstream.raw import RawSender
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.gateway.upstream.shadow import ShadowTraffic
from bluesminds.gateway.upstream.timeouts import TimeoutTable
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.server.limits import ListenerStats
from bluesminds.web.api import build_guard
from bluesminds.web.data_plane import DataPlane
from bluesminds.web.forwarded import ProxyHeaders
from bluesminds.web.playground import Playground
from storage.keys import select_allowed_origins, select_key_digest
from storage.quotas import select_quotas, select_recent

# Its own generator: a seed that is set elsewhere must not choose the servers.
_RANDOM: Final = random.Random()  # noqa: S311
MAX_RESTORED_SECONDS = 3600.0  # longer requests are not restored: the start must not read a day of usage rows


class DataPlaneParts(Struct, frozen=True):
    """`edge` is the application for the public listener, `control` the one for the operator's socket."""

    authentication: Authentication
    routing: Routing
    capacity_queue: CapacityQueue
    shadow: ShadowTraffic
    idle_sweeper: IdleSweeper
    extra_costs: ExtraCosts
    open_requests: OpenRequests
    prompts: PromptLog | None
    tracer: Tracer | None
    heap_trimmer: HeapTrimmer
    watchdog: Watchdog
    keep_alive: KeepAlive | None
    traffic: TrafficMonitor
    usage_notices: UsageNotices | None
    alert_measures: AlertMeasures
    server_notices: ServerNotices | None
    reloader: ConfigReloader
    stats: ListenerStats
    control: ASGIApp
    edge: ASGIApp


def build_data_plane(
    services: Services, configured: list[Server], runtime: Runtime, backoff: Backoff, source: ConfigSource
) -> DataPlaneParts:
    """`configured` are the servers that are not in the database."""
    settings = services.settings
    authentication = _build_authentication(services, runtime.lease)
    routing = build_routing(services, configured)
    queue = _build_queue(services, routing, runtime.metrics)
    timeouts = TimeoutTable(upstream_timeouts(settings), settings.upstream.first_token_timeout)
    hedges, copies = ExtraBudget(), ExtraBudget()
    outcomes = AttemptOutcomes(routing.health, runtime.metrics, services.log)
    sender = _build_sender(services, outcomes, routing, queue, timeouts, backoff, hedges)
    objects = ServerObjects(
        services.store, clock=services.clock, log=services.log, timeout=settings.storage.settle_timeout
    )
    responses = _build_responses(services, objects)
    bodies, stats = _build_body_memory(services), ListenerStats()
    accounting = _build_accounting(services, runtime, routing.prices, routing.registry)
    shadow = _build_shadow(services, runtime, routing, accounting, timeouts, copies)
    admission = Admission(
        routing.registry,
        routing.balancer,
        authentication.limiter,
        accounting,
        refuse_unpriced=settings.limits.unpriced == "refuse",
    )
    gateway = Gateway(
        keys=authentication.keys,
        admission=admission,
        limiter=authentication.limiter,
        sender=sender,
        relay=Relay(StreamRelay(outcomes), outcomes, expose_server=settings.server.expose_server),
        accounting=accounting,
        shadow=shadow,
        links=RequestLinks(responses, objects, routing.registry, bodies, services.clock),
        total_timeout=settings.upstream.total_timeout,
        cache=_build_cache(services, runtime.metrics),
        prompts=_build_prompt_log(services, runtime.metrics),
    )
    origins = _build_origins(services, authentication.keys)
    sockets = socket_settings(settings)
    realtime = RealtimeSessions(gateway, bodies, origins, sockets, services.clock)
    sessions = ResponsesSessions(gateway, bodies, origins, sockets, services.clock)
    _add_gauges(runtime, authentication.limiter, bodies, lambda: realtime.open + sessions.open)
    _add_server_gauges(runtime.metrics, routing)
    _add_process_gauges(services, runtime.metrics, gateway.accounting)
    traffic = TrafficMonitor(runtime.metrics)
    interval = settings.upstream.keep_alive_interval
    keep_alive = KeepAlive(interval) if interval else None
    use_tiers = partial(_use_tiers, services, authentication.keys)
    reloader = ConfigReloader(services, routing, source, runtime.metrics, use_tiers)
    replayer = Replayer(
        gateway,
        bodies,
        runtime.requests,
        partial(_find_key_digest, services),
        max_bytes=settings.prompt_log.max_bytes,
        clock=services.clock,
    )
    control = build_control_plane(
        services, runtime, authentication, routing, queue, stats, traffic, reloader, replayer, source
    )
    services.key_changes.subscribe(authentication.keys.forget)
    services.accounts.ledger.subscribe(authentication.limiter.credit_changed)
    return DataPlaneParts(
        authentication=authentication,
        routing=routing,
        capacity_queue=queue,
        shadow=shadow,
        idle_sweeper=IdleSweeper(
            services.store, authentication.keys, authentication.limiter, runtime.recorder
        ),
        extra_costs=ExtraCosts(services.store, services.clock, hedges, copies),
        open_requests=OpenRequests(services.store, gateway.accounting.running),
        prompts=gateway.prompts,
        tracer=gateway.accounting.observer.tracer,
        heap_trimmer=HeapTrimmer(bodies),
        watchdog=Watchdog(runtime.recorder, limit=MAX_BACKOFF + 2 * settings.storage.settle_timeout),
        traffic=traffic,
        alert_measures=AlertMeasures(
            traffic, routing, services.accounts.limits, services.accounts.usage, lambda: queue.length
        ),
        usage_notices=_build_usage_notices(services, runtime, authentication.limiter),
        server_notices=_build_server_notices(services, routing),
        reloader=reloader,
        stats=stats,
        control=control,
        edge=_build_edge(
            services,
            gateway,
            routing,
            realtime,
            sessions,
            control,
            bodies,
            origins,
            runtime,
            keep_alive,
        ),
        keep_alive=keep_alive,
    )


def _build_sender(
    services: Services,
    outcomes: AttemptOutcomes,
    routing: Routing,
    queue: CapacityQueue,
    timeouts: TimeoutTable,
    backoff: Backoff,
    hedges: ExtraBudget,
) -> Sender:
    return Sender(
        services.pool,
        outcomes,
        routing.balancer.load,
        queue,
        routing.keys,
        timeouts=timeouts,
        attempts=services.settings.upstream.attempts,
        backoff=backoff,
        hedges=hedges,
    )


def _build_shadow(
    services: Services,
    runtime: Runtime,
    routing: Routing,
    accounting: UsageAccounting,
    timeouts: TimeoutTable,
    budget: ExtraBudget,
) -> ShadowTraffic:
    return ShadowTraffic(
        services.pool,
        routing.balancer.load,
        routing.keys,
        accounting.estimator,
        runtime.metrics,
        services.log,
        timeouts=timeouts,
        total_timeout=services.settings.upstream.total_timeout,
        budget=budget,
    )


def _build_usage_notices(services: Services, runtime: Runtime, limiter: RateLimiter) -> UsageNotices | None:
    """None if the settings enable no consumer of events."""
    if not has_event_consumers(services.settings):
        return None
    notices = UsageNotices(
        services.store,
        services.accounts.limits,
        clock=services.clock,
        calendar=services.calendar,
        policy=notice_policy(services.settings),
        usage_now=limiter.in_use,
    )
    runtime.requests.subscribe("notices", notices.note)
    return notices


def _build_server_notices(services: Services, routing: Routing) -> ServerNotices | None:
    if not has_event_consumers(services.settings):
        return None
    return ServerNotices(
        services.store,
        clock=services.clock,
        statuses=routing.statuses,
        down_seconds=services.settings.notices.server_down,
    )


async def restore_limits(services: Services, limiter: RateLimiter) -> None:
    """Restore the counters of the last minute from the usage rows, as the previous process left them, and
    those of tiers with a common budget. Raises StorageError.

    Rows of requests that took longer than the total timeout, or than MAX_RESTORED_SECONDS, are not read.
    """
    longest = min(services.settings.upstream.total_timeout, MAX_RESTORED_SECONDS)
    select = partial(select_recent, within=(WINDOW_SECONDS + 1) * 1000, longest=round(longest * 1000))
    limiter.restore(await services.store.read(select, services.clock.now_ms()))
    if limiter.tiers:
        limiter.restore_tiers(await services.store.read(select_quotas, limiter.tiers))


def _build_authentication(services: Services, lease: Lease) -> Authentication:
    limiter = RateLimiter(
        services.clock, services.calendar, lease.held, tier_budgets=tier_budgets(services.settings)
    )
    keys = KeyAuthenticator(
        partial(limiter.look_up_key, services.store),
        pepper=services.pepper,
        clock=services.clock,
        cache_seconds=services.settings.keys.cache_seconds,
        tiers=services.accounts.limits.tiers,
        is_open=limiter.is_open,
        keyless=keyless_limits(services.settings),
        markups=tier_markups(services.settings),
        log_prompts=services.settings.prompt_log.default,
        open_vendor_keys=services.accounts.vendor_keys.open_all,
    )
    return Authentication(limiter, keys)


def _use_tiers(
    services: Services,
    keys: KeyAuthenticator,
    limits: Mapping[str, LimitSet],
    markups: Mapping[str, int],
) -> None:
    services.accounts.limits.tiers = limits
    keys.use_tiers(limits, markups)


def build_routing(services: Services, configured: list[Server]) -> Routing:
    """`configured` are the servers that are not in the database."""
    upstream = services.settings.upstream
    load, rotations = LoadRegistry(), RotationRegistry()
    keys = ServerKeyRegistry(partial(log_key_rest, services.log))
    prices = PriceRegistry(PriceBook(combine(configured_prices(services.settings)), bundled_prices()))
    health = ServerHealthRegistry(
        eject_after=upstream.eject_after,
        eject_seconds=upstream.eject_seconds,
        on_change=partial(log_health, services.log),
    )
    tokens = EntraTokens(services.pool, upstream.entra_url, partial(log_token_failure, services.log))
    registry = ServerRegistry(
        configured,
        services.accounts.servers.load,
        health,
        load,
        rotations,
        keys,
        find_price=partial(prices.find_now, services.clock),
        routes=file_routes(services.settings),
        load_routes=services.accounts.routes.load,
        fill_in_tokens=tokens.fill_in,
        prepare_tokens=tokens.prepare,
    )
    checker = HealthChecker(
        services.pool,
        registry,
        health,
        keys,
        interval=upstream.probe_interval,
        timeout=upstream.probe_timeout,
        log=services.log,
    )
    balancer = Balancer(health, load, rotations, _RANDOM.random)
    return Routing(
        registry,
        health,
        keys,
        balancer,
        checker,
        prices,
        PriceLoader(services),
        services.clock,
        services.pool,
        upstream.max_connections_per_server,
        tokens,
    )


def _build_queue(services: Services, routing: Routing, metrics: Metrics) -> CapacityQueue:
    upstream = services.settings.upstream
    limits = QueueLimits(upstream.queue_timeout, upstream.queue_size, upstream.queue_size_per_account)
    queue = CapacityQueue(routing.balancer.load, limits, metrics.observe_queue)
    metrics.gauge(
        "bluesminds_queue_length", "Requests that wait for a server at its caps.", lambda: queue.length
    )
    return queue


def _build_accounting(
    services: Services, runtime: Runtime, prices: PriceRegistry, registry: ServerRegistry
) -> UsageAccounting:
    settings = services.settings
    return UsageAccounting(
        recorder=runtime.recorder,
        estimator=Estimator(prices, default_completion=settings.limits.default_max_tokens),
        observer=RequestObserver(
            runtime.metrics,
            services.log,
            settings.log.requests,
            runtime.requests,
            _build_tracer(services, runtime.metrics),
        ),
        strict=settings.storage.durability == "strict",
        receipts=settings.receipts.retention_days > 0,
        context_length=partial(_context_length, registry),
    )


def _context_length(registry: ServerRegistry, model: str) -> int | None:
    row = registry.catalog.model(model)
    return None if row is None else row.details.context_length


def _build_tracer(services: Services, metrics: Metrics) -> Tracer | None:
    settings, tracer = services.settings.tracing, None
    if settings.endpoint is not None:
        authorization = None if settings.authorization is None else settings.authorization.reveal()
        tracer = Tracer(
            services.pool,
            CollectorAddress.parse(settings.endpoint, authorization),
            service=settings.service,
            sample=settings.sample,
            log=services.log,
        )
    metrics.counter(
        "bluesminds_spans_exported",
        "Spans that the collector accepted.",
        lambda: 0 if tracer is None else tracer.exported,
    )
    metrics.counter(
        "bluesminds_spans_dropped",
        "Spans that were lost: the queue was full, or the collector refused them.",
        lambda: 0 if tracer is None else tracer.dropped,
    )
    return tracer


def _build_cache(services: Services, metrics: Metrics) -> ResponseCache | None:
    settings = services.settings.cache

    def count(result: CacheResult) -> None:
        metrics.cache[(result,)] += 1

    cache = ResponseCache(
        seconds=settings.ttl,
        max_bytes=settings.max_bytes,
        max_response_bytes=settings.max_response_bytes,
        scope=settings.share,
        count=count,
    )
    metrics.gauge("bluesminds_cache_bytes", "Bytes of cached responses.", lambda: cache.held)
    return cache if settings.enabled else None


def _build_prompt_log(services: Services, metrics: Metrics) -> PromptLog | None:
    settings = services.settings.prompt_log
    if not settings.retention_days:
        return None
    prompts = PromptLog(
        services.store,
        services.vault,
        Redactor(settings.redact, settings.redact_patterns),
        max_bytes=settings.max_bytes,
        queue_bytes=settings.queue_bytes,
        log=services.log,
    )
    metrics.counter("bluesminds_prompts_stored", "Requests stored in the prompt log.", lambda: prompts.stored)
    metrics.counter(
        "bluesminds_prompts_dropped", "Requests that the prompt log could not store.", lambda: prompts.dropped
    )
    metrics.gauge(
        "bluesminds_prompt_bytes_waiting", "Bytes in the queue of the prompt log.", lambda: prompts.held
    )
    return prompts


def _build_body_memory(services: Services) -> BodyMemory:
    server = services.settings.server
    disk = SpoolSpace(services.state.path, server.max_spooled_bytes)
    return BodyMemory(server.max_buffered_bytes, largest=server.max_body_bytes, disk=disk)


def _add_gauges(
    runtime: Runtime, limiter: RateLimiter, bodies: BodyMemory, sessions: Callable[[], int]
) -> None:
    gauge, recorder = runtime.metrics.gauge, runtime.recorder
    gauge("bluesminds_requests_running", "Requests in progress.", lambda: limiter.running)
    gauge("bluesminds_usage_rows_held", "Usage rows reserved or not committed yet.", lambda: recorder.held)
    gauge("bluesminds_body_bytes_held", "Bytes of request bodies in memory.", lambda: bodies.held)
    gauge("bluesminds_upload_bytes_held", "Bytes of uploads in files.", lambda: bodies.disk.held)
    gauge("bluesminds_sessions_open", "WebSockets of clients that are open.", sessions)


def _add_server_gauges(metrics: Metrics, routing: Routing) -> None:
    metrics.labelled_gauge(
        "bluesminds_server_up", "1 if the last probe of the server succeeded.", "server", routing.servers_up
    )
    metrics.labelled_gauge(
        "bluesminds_server_ejected",
        "Models for which the server is ejected, because its requests failed.",
        "server",
        routing.ejected_models,
    )
    metrics.labelled_gauge(
        "bluesminds_server_keys_resting",
        "API keys of the server that are paused because the server refused or limited them.",
        "server",
        routing.keys.resting,
    )


def _add_process_gauges(services: Services, metrics: Metrics, accounting: UsageAccounting) -> None:
    running = accounting.running
    metrics.gauge(
        "bluesminds_reserved_usd",
        "USD reserved by requests in progress.",
        lambda: sum(one.reserved_nano for one in running.values()) / NANO,
    )
    metrics.gauge(
        "bluesminds_tasks",
        "Tasks of the event loop.",
        lambda: float(trio.lowlevel.current_statistics().tasks_living),
    )
    metrics.gauge("bluesminds_mails_waiting", "Mails that wait.", lambda: services.outbox.waiting)
    metrics.gauge(
        "bluesminds_last_backup_seconds",
        "Unix time of the newest scheduled backup; 0 if there is none.",
        lambda: (services.backups.last_ms or 0) / 1000,
    )


def _build_playground(services: Services) -> Playground:
    guard = build_guard(services.accounts, public_url=services.settings.server.public_url)
    return Playground(guard, partial(_find_key_digest, services))


async def _find_key_digest(services: Services, user_id: str, key_id: str) -> bytes | None:
    return await services.store.read(select_key_digest, user_id, key_id)


def _build_origins(services: Services, keys: KeyAuthenticator) -> BrowserOrigins:
    async def load() -> frozenset[str]:
        return await services.store.read(select_allowed_origins, services.clock.now_ms())

    settings = services.settings
    return BrowserOrigins(
        cors_origins(settings.server), keys, load, cache_seconds=settings.keys.cache_seconds
    )


def _build_responses(services: Services, objects: ServerObjects) -> ResponseStore:
    settings = services.settings
    return ResponseStore(
        services.store,
        objects,
        services.vault,
        clock=services.clock,
        log=services.log,
        retention_days=settings.responses.retention_days,
        timeout=settings.storage.settle_timeout,
    )


def _build_relay(services: Services, gateway: Gateway, routing: Routing, runtime: Runtime) -> RelayRunner:
    sender = RawSender(
        services.pool,
        routing.health,
        routing.keys,
        timeouts=upstream_timeouts(services.settings),
        metrics=runtime.metrics,
        log=services.log,
    )
    exchange = RelayExchange(sender, gateway.links.objects, gateway.relay)
    return RelayRunner(gateway.limiter, exchange, gateway.accounting, gateway.total_timeout)


def _build_edge(
    services: Services,
    gateway: Gateway,
    routing: Routing,
    realtime: RealtimeSessions,
    sessions: ResponsesSessions,
    control: ASGIApp,
    bodies: BodyMemory,
    origins: BrowserOrigins,
    runtime: Runtime,
    keep_alive: KeepAlive | None,
) -> DataPlane:
    keys, registry, limiter = gateway.keys, gateway.admission.registry, gateway.limiter
    runner = _build_relay(services, gateway, routing, runtime)
    passthrough = PassthroughHandler(
        keys,
        registry,
        routing.health,
        limiter,
        gateway.links.objects,
        runner,
        own_keys=services.accounts.vendor_keys.policy.enabled,
    )
    stored = StoredResponseHandler(keys, registry, limiter, gateway.links.responses, runner)
    trusted = Networks.read(services.settings.server.trusted_proxies)
    return DataPlane(
        gateway,
        passthrough,
        stored,
        realtime,
        sessions,
        control,
        _build_playground(services),
        bodies=bodies,
        origins=origins,
        clock=services.clock,
        log=services.log,
        proxies=ProxyHeaders(trusted) if trusted else None,
        keep_alive=keep_alive,
    )
