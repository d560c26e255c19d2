"""The composition root: nested nurseries from the store to the listener.

    services (state, store, pool) > lease > recorder > background tasks, local socket > listener

The nesting is the shutdown order: the listener drains first, then the background tasks and the local socket
stop, then the recorder commits the remaining usage rows, and the store closes last. The command line, the
tests and the packaged executable all call `serve`.
"""

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from argon2 import PasswordHasher
from msgspec import Struct

from bluesminds.accounts.weekly_usage import WeeklyUsage
from bluesminds.app.data_plane import DataPlaneParts, build_data_plane, restore_limits
from bluesminds.app.discovery import configured_servers, start_demo
from bluesminds.app.first_run import FirstRun, bootstrap, refuse_public_without_admin
from bluesminds.app.listeners import (
    ensure_descriptors,
    listen_locally,
    listen_publicly,
    load_certificate,
    public_sockets,
    server_tls_context,
)
from bluesminds.app.malloc import fix_malloc_thresholds
from bluesminds.app.reload import ConfigSource
from bluesminds.app.runtime import Runtime
from bluesminds.app.services import Services, open_services
from bluesminds.app.settings_map import has_event_consumers
from bluesminds.common.broadcast import Broadcast
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.common.values import Server
from bluesminds.config import SettingOrigin, Settings
from bluesminds.gateway.error_reports import ErrorReporter, SentryAddress
from bluesminds.gateway.limits.lease import Lease
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.gateway.supervision import TaskSupervisor
from bluesminds.gateway.upstream.backoff import BACKOFF, Backoff
from bluesminds.identity.password import PASSWORD_HASHER
from bluesminds.web.api.reload import Reload
from storage.base import StorageBroken, StorageUnavailable
from storage.open_requests import settle_open_requests

FLUSH_SECONDS = 10.0  # how long the shutdown waits for the last usage rows
SPAN_FLUSH_SECONDS = 5.0  # how long the shutdown waits for the collector
LEASE_RELEASE_SECONDS = 2.0  # how long the shutdown waits for the release of the lease
MODEL_DISCOVERY_SECONDS = 2.0  # how long the start waits for the servers' model lists


class Running(Struct, frozen=True):
    """A gateway that takes requests. `addresses` are the listening sockets' names as the operating system
    gives them. `servers` have their status at the start. `healthy` is for a watchdog: False when only
    a restart can help. The `sockets` are closed by the shutdown.
    """

    sockets: list[socket.socket]
    addresses: list[Any]
    models: list[str]
    servers: list[tuple[Server, ServerStatus]]
    first_run: FirstRun
    services: Services
    healthy: Callable[[], bool]
    reload: Reload
    running_requests: Callable[[], int]


async def serve(
    settings: Settings,
    *,
    clock: Clock,
    log: Log,
    environ: Mapping[str, str],
    shutdown: trio.Event,
    reread: Callable[[], Settings] | None = None,
    config_path: Path | None = None,
    origins: Mapping[str, SettingOrigin] | None = None,
    inherited: list[socket.socket] | None = None,
    guest_key: bool = False,
    password_hasher: PasswordHasher = PASSWORD_HASHER,
    backoff: Backoff = BACKOFF,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until `shutdown` is set and the listener has drained.

    `reread` reads the settings again for a reload; it blocks, and raises ConfigError. `config_path` is the
    file that `watch_config` watches. `origins` says where each setting comes from.
    `inherited` are sockets that listen already; without them the settings name the address. With
    `guest_key` every start creates an API key that is valid for a day.

    Raises, before it has started, StartRefused, StateBusy, BadState, BadDatabaseURL, StorageError,
    LeaseTaken, CannotListen and BadCertificate.
    """
    fix_malloc_thresholds()
    ensure_descriptors(settings, log)
    tls = server_tls_context(settings.server)
    async with open_services(settings, clock=clock, log=log, password_hasher=password_hasher) as services:
        with public_sockets(settings.server, inherited) as sockets:
            await refuse_public_without_admin(sockets, services)
            metrics, tasks = Metrics(), TaskSupervisor(log)
            async with (
                _limits_lease(services) as lease,
                _usage_recorder(services, metrics, tasks) as recorder,
                trio.open_nursery() as background,
            ):
                demo_url = start_demo(settings, background, log)
                configured = await configured_servers(settings, services.pool, environ, demo_url)
                source = ConfigSource(
                    reread or (lambda: settings),
                    config_path,
                    environ,
                    demo_url,
                    origins or {},
                    partial(load_certificate, tls, settings.server),
                )
                runtime = Runtime(metrics, recorder, tasks, lease, Broadcast())
                data_plane = build_data_plane(services, configured, runtime, backoff, source)
                await _settle_crashed(services)
                await data_plane.extra_costs.load()
                await restore_limits(services, data_plane.authentication.limiter)
                await data_plane.routing.discover_models(MODEL_DISCOVERY_SECONDS)
                _start_tasks(background, services, data_plane, runtime)
                await background.start(listen_locally, services, data_plane.control)
                async with trio.open_nursery() as listener:
                    public = partial(listen_publicly, tls=tls)
                    addresses = await listener.start(
                        public, services, data_plane.edge, sockets, data_plane.stats, shutdown
                    )
                    listener.start_soon(_end_live_streams, services, runtime, shutdown)
                    first_run = await bootstrap(services, guest_key=guest_key)
                    models = [row.id for row in data_plane.routing.registry.catalog.models()]
                    task_status.started(
                        Running(
                            sockets,
                            addresses,
                            models,
                            data_plane.routing.statuses(),
                            first_run,
                            services,
                            data_plane.watchdog.healthy,
                            reload=data_plane.reloader.reload,
                            running_requests=lambda: data_plane.authentication.limiter.running,
                        )
                    )
                await data_plane.idle_sweeper.sweep()
                with trio.move_on_after(FLUSH_SECONDS), suppress(StorageUnavailable, StorageBroken):
                    await data_plane.extra_costs.write()
                if data_plane.prompts is not None:
                    with trio.move_on_after(FLUSH_SECONDS):
                        await data_plane.prompts.wait_stored()
                if data_plane.tracer is not None:
                    with trio.move_on_after(SPAN_FLUSH_SECONDS):
                        await data_plane.tracer.flush()
                background.cancel_scope.cancel()


def _start_tasks(
    background: trio.Nursery, services: Services, data_plane: DataPlaneParts, runtime: Runtime
) -> None:
    for name, run in (
        ("health_checker", data_plane.routing.health_checker.run),
        ("entra_tokens", data_plane.routing.run_tokens),
        ("capacity_queue", data_plane.capacity_queue.run),
        ("shadow", data_plane.shadow.run),
        ("idle_sweeper", data_plane.idle_sweeper.run),
        ("open_requests", data_plane.open_requests.run),
        ("extra_costs", data_plane.extra_costs.run),
        ("heap_trimmer", data_plane.heap_trimmer.run),
        ("traffic", data_plane.traffic.run),
        ("lease", runtime.lease.run),
        ("mail_outbox", services.outbox.run),
        ("events", services.events.run),
        ("cleanup", services.cleanup.run),
        ("ledger", services.accounts.ledger.run),
        ("backup", services.backups.run),
        ("config_watch", data_plane.reloader.watch),
    ):
        background.start_soon(runtime.tasks.run, name, run)
    if services.webhook_sender is not None:
        background.start_soon(runtime.tasks.run, "webhooks", services.webhook_sender.run)
    if services.accounts.billing is not None:
        background.start_soon(runtime.tasks.run, "billing", services.accounts.billing.reconciliation.run)
    alerts = services.accounts.alerts
    if alerts is not None:
        background.start_soon(
            runtime.tasks.run, "alerts", partial(alerts.run, data_plane.alert_measures.measure)
        )
    if has_event_consumers(services.settings):
        zone = services.settings.limits.time_zone
        weekly = WeeklyUsage(services.store, clock=services.clock, zone=zone)
        background.start_soon(runtime.tasks.run, "weekly_usage", weekly.run)
    if data_plane.usage_notices is not None:
        background.start_soon(runtime.tasks.run, "usage_notices", data_plane.usage_notices.run)
    if data_plane.server_notices is not None:
        background.start_soon(runtime.tasks.run, "server_notices", data_plane.server_notices.run)
    if data_plane.keep_alive is not None:
        background.start_soon(runtime.tasks.run, "keep_alive", data_plane.keep_alive.run)
    if data_plane.prompts is not None:
        background.start_soon(runtime.tasks.run, "prompt_log", data_plane.prompts.run)
    dsn = services.settings.log.sentry_dsn
    if dsn is not None:
        reporter = ErrorReporter(services.pool, SentryAddress.parse(dsn.reveal()), services.log)
        background.start_soon(runtime.tasks.run, "error_reports", reporter.run)
    if data_plane.tracer is not None:
        background.start_soon(runtime.tasks.run, "tracing", data_plane.tracer.run)


async def _end_live_streams(services: Services, runtime: Runtime, shutdown: trio.Event) -> None:
    """They would keep the listener from draining."""
    await shutdown.wait()
    runtime.requests.end()
    services.log.followers.end()


async def _settle_crashed(services: Services) -> None:
    """Settle what the previous process was doing when it crashed. Raises StorageError."""
    if count := await services.store.write(settle_open_requests):
        services.log.warning("requests_settled_after_crash", requests=count)


@asynccontextmanager
async def _limits_lease(services: Services) -> AsyncIterator[Lease]:
    """The exclusive right to count limits on this database, held until the last usage row is written."""
    lease = Lease(services.store, services.state.instance(), services.log)
    await lease.acquire()
    try:
        yield lease
    finally:
        with trio.move_on_after(LEASE_RELEASE_SECONDS, shield=True):
            await lease.release()


@asynccontextmanager
async def _usage_recorder(
    services: Services, metrics: Metrics, tasks: TaskSupervisor
) -> AsyncIterator[Recorder]:
    """The running recorder. It is shielded from cancellation: at the end it has FLUSH_SECONDS to commit the
    rows it holds.
    """
    storage = services.settings.storage
    recorder = Recorder(
        services.store,
        max_rows=storage.queue_rows,
        timeout=storage.settle_timeout,
        log=services.log,
        metrics=metrics,
    )
    last = trio.CancelScope(shield=True)

    async def run() -> None:
        with last:
            await tasks.run("recorder", recorder.run)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        try:
            yield recorder
        finally:
            recorder.finish()
            last.deadline = trio.current_time() + FLUSH_SECONDS
