"""Builds the control plane: the HTTP API, its reference, the pages and the endpoints for monitoring."""

from functools import partial

from prometheus_client import CollectorRegistry

from bluesminds.accounts.ranking import ModelRanking
from bluesminds.app.dashboard import SystemState, build_dashboard
from bluesminds.app.database import database_files
from bluesminds.app.doctor_process import DoctorProcess
from bluesminds.app.identity import provider_links, sign_in_routes
from bluesminds.app.readiness import ReadinessCheck
from bluesminds.app.reload import ConfigReloader, ConfigSource
from bluesminds.app.routing import Routing
from bluesminds.app.runtime import Authentication, Runtime
from bluesminds.app.services import Services
from bluesminds.gateway.replay import Replayer
from bluesminds.gateway.routing.capacity_queue import CapacityQueue
from bluesminds.gateway.server_test import test_server
from bluesminds.gateway.traffic import TrafficMonitor
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.server.limits import ListenerStats
from bluesminds.web import app
from bluesminds.web.api import (
    GatewayControls,
    api_routes,
    build_guard,
    build_handlers,
    monitor,
    ops,
    public_models,
)
from bluesminds.web.docs.guide import Guide, packaged_site
from bluesminds.web.docs.reference import Reference
from bluesminds.web.pages import account_pages


def build_control_plane(
    services: Services,
    runtime: Runtime,
    authentication: Authentication,
    routing: Routing,
    queue: CapacityQueue,
    stats: ListenerStats,
    traffic: TrafficMonitor,
    reloader: ConfigReloader,
    replayer: Replayer,
    source: ConfigSource,
) -> ASGIApp:
    """The control plane: the HTTP API, its reference, the pages and the endpoints for monitoring."""
    registry = CollectorRegistry()
    registry.register(runtime.metrics)
    registry.register(ops.ListenerMetrics(stats))
    readiness = ReadinessCheck(
        services,
        routing.registry,
        recorder=runtime.recorder,
        tasks=runtime.tasks,
        lease=runtime.lease,
        status=routing.health_checker.status,
    )
    controls = GatewayControls(
        list_servers=routing.list_servers,
        server_status=routing.health_checker.status,
        key_status=routing.keys.statuses,
        servers_changed=routing.servers_changed,
        test_server=partial(
            test_server,
            services.pool,
            services.clock,
            routing.tokens,
            seconds=services.settings.upstream.probe_timeout,
        ),
        price_book=routing.price_book,
        prices_changed=routing.prices_changed,
        usage_now=authentication.limiter.in_use,
        list_routes=routing.list_routes,
        routes_changed=routing.registry.reload,
        catalog=routing.current_catalog,
        explain=routing.explain,
        fleet_health=partial(routing.fleet_health, queue.waiting),
        probe_now=routing.health_checker.probe_all,
        requests=runtime.requests,
        log=services.log,
        open_backup=services.backups.open,
        run_doctor=DoctorProcess(source.path, services.settings).run,
        reload=reloader.reload,
        replay=replayer.replay,
    )
    handlers = build_handlers(
        services.accounts, controls, services.clock, expose_server=services.settings.server.expose_server
    )
    routes = [
        *ops.routes(ops.OpsHandlers(readiness.check, routing.states, reloader.state, registry)),
        *monitor.routes(_build_monitor(services, runtime, authentication, routing, traffic)),
        *public_models.routes(_build_public_models(services, routing)),
        *api_routes(services.accounts, controls, handlers, services.clock),
        *sign_in_routes(services.accounts, services.settings),
    ]
    public_url = services.settings.server.public_url
    reference = Reference(routes, url=public_url or "/", example_model=routing.example_model)
    forms = account_pages.routes(
        dashboard=services.settings.dashboard.enabled,
        open_signup=services.settings.accounts.signup == "open",
        providers=provider_links(services.accounts),
    )
    mounted = [*routes, *reference.routes, *Guide(packaged_site()).routes, *forms]
    recorder, limiter = runtime.recorder, authentication.limiter
    state = SystemState(
        readiness.check,
        lambda: {
            "Requests in progress": limiter.running,
            "Requests waiting for a server": sum(count for count, _ in queue.waiting().values()),
            "Connections of clients": stats.open,
            "Usage rows in the queue": recorder.held,
            "Mails in the queue": services.outbox.waiting,
        },
        runtime.tasks,
        partial(database_files, services.settings),
        source.origins,
    )
    dashboard = build_dashboard(services, routing, controls, handlers, state)
    if dashboard is not None:
        mounted += dashboard.routes
    guard = build_guard(
        services.accounts,
        public_url=public_url,
        admin_second_factor=services.settings.accounts.admin_second_factor,
    )
    pages = None if dashboard is None else dashboard.pages
    return app.create_app(mounted, guard, clock=services.clock, log=services.log, pages=pages)


def _build_monitor(
    services: Services,
    runtime: Runtime,
    authentication: Authentication,
    routing: Routing,
    traffic: TrafficMonitor,
) -> monitor.MonitorHandlers:
    return monitor.MonitorHandlers(
        traffic=traffic,
        throttle=services.accounts.throttle,
        running=lambda: authentication.limiter.running,
        queues=lambda: {"usage_rows": runtime.recorder.held, "mails": services.outbox.waiting},
        servers=routing.states,
        tasks=runtime.tasks.down,
    )


def _build_public_models(services: Services, routing: Routing) -> public_models.PublicModels:
    return public_models.PublicModels(
        lambda: routing.registry.catalog,
        ModelRanking(services.accounts.usage),
        services.accounts.throttle,
        allowed=services.settings.server.public_models,
    )
