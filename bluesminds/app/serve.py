"""The composition root: nested nurseries from the store to the listener.

    core (state, store, pool) > lease > recorder > keepers, demo server, local socket > listener

Nesting is the order of death: the listener drains first, then the keepers and the local socket go, then the
recorder commits what is left, and the store closes last. `serve` is what the command line, the tests and
the packaged executable call.
"""

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from msgspec import Struct

from bluesminds.app.data_plane import GatewayApp
from bluesminds.app.discovery import configured_servers, start_demo
from bluesminds.app.first_run import FirstRun, bootstrap, refuse_public_without_admin
from bluesminds.app.listeners import ensure_descriptors, listen_locally, public_sockets, tls_context
from bluesminds.app.services import KeyChangeNotifier, Services, open_services
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.common.networks import Networks
from bluesminds.config import ListenSettings, Settings
from bluesminds.gateway.limits.lease import Lease
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Recorder
from bluesminds.gateway.supervision import TaskSupervisor
from bluesminds.http.server.serve import ListenerLimits
from bluesminds.http.server.serve import serve as listen

FLUSH_SECONDS = 10.0  # the longest a stop waits for the last usage rows
LEASE_END_SECONDS = 2.0  # the longest a stop waits to give up the lease
LOOK_AROUND_SECONDS = 2.0  # the longest a start waits to learn what models there are


class Running(Struct, frozen=True):
    """A gateway that answers, on `addresses` as the operating system names them. `is_alive` is for a
    watchdog: False when only a restart would help.
    """

    addresses: list[Any]
    models: list[str]
    first_run: FirstRun
    core: Services
    is_alive: Callable[[], bool]


async def serve(
    settings: Settings,
    *,
    clock: Clock,
    log: Log,
    environ: Mapping[str, str],
    shutdown: trio.Event,
    inherited: list[socket.socket] | None = None,
    guest_key: bool = False,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until `shutdown` and a complete drain. `inherited` sockets listen already; else the settings say
    where.

    With `guest_key` every start makes a key for a day, not only the first.

    Raises, before it has started, StartRefused, StateBusy, BadState, BadDatabaseURL, StorageError,
    LeaseTaken, CannotListen and BadCertificate.
    """
    ensure_descriptors(settings, log)
    changes = KeyChangeNotifier()
    async with open_services(settings, clock=clock, log=log, changes=changes) as core:
        with public_sockets(settings.server, inherited) as sockets:
            await refuse_public_without_admin(sockets, core)
            metrics, tasks = Metrics(), TaskSupervisor(log)
            async with (
                _limits_lease(core) as lease,
                _usage_recorder(core, metrics, tasks) as recorder,
                trio.open_nursery() as background,
            ):
                demo_url = start_demo(settings, background, log)
                configured = await configured_servers(core, environ, demo_url)
                gateway_app = GatewayApp(core, configured, metrics, recorder, tasks, lease)
                changes.keys_changed = gateway_app.keys.forget
                await gateway_app.restore()
                await gateway_app.discover_models(LOOK_AROUND_SECONDS)
                background.start_soon(tasks.run, "health_checker", gateway_app.health_checker.run)
                background.start_soon(tasks.run, "idle_sweeper", gateway_app.idle_sweeper.run)
                background.start_soon(tasks.run, "lease", lease.run)
                background.start_soon(tasks.run, "mail_queue", core.mail_queue.run)
                background.start_soon(tasks.run, "cleanup", core.cleanup.run)
                await background.start(listen_locally, core, gateway_app.site)
                async with trio.open_nursery() as listener:
                    addresses = await listener.start(_listen, gateway_app, sockets, shutdown)
                    first_run = await bootstrap(core, guest_key=guest_key)
                    models = [row.id for row in gateway_app.registry.catalog.models()]
                    task_status.started(
                        Running(addresses, models, first_run, core, gateway_app.watchdog.healthy)
                    )
                await gateway_app.idle_sweeper.sweep()
                background.cancel_scope.cancel()


@asynccontextmanager
async def _limits_lease(core: Services) -> AsyncIterator[Lease]:
    """The right to hand out limits, from before the first request until after the last row."""
    lease = Lease(core.store, core.state.instance(), core.log)
    await lease.acquire()
    try:
        yield lease
    finally:
        with trio.move_on_after(LEASE_END_SECONDS, shield=True):
            await lease.release()


@asynccontextmanager
async def _usage_recorder(core: Services, metrics: Metrics, tasks: TaskSupervisor) -> AsyncIterator[Recorder]:
    """The recorder, which outlives everything that uses it long enough to commit what it was given, also when
    all of it is cancelled.
    """
    storage = core.settings.storage
    recorder = Recorder(
        core.store, max_rows=storage.queue_rows, timeout=storage.settle_timeout, log=core.log, metrics=metrics
    )
    last = trio.CancelScope(shield=True)

    async def keep() -> None:
        with last:
            await tasks.run("recorder", recorder.run)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        try:
            yield recorder
        finally:
            recorder.finish()
            last.deadline = trio.current_time() + FLUSH_SECONDS


async def _listen(
    gateway_app: GatewayApp,
    sockets: list[socket.socket],
    shutdown: trio.Event,
    *,
    task_status: trio.TaskStatus[list[Any]] = trio.TASK_STATUS_IGNORED,
) -> None:
    server = gateway_app.core.settings.server
    await listen(
        gateway_app.edge,
        sockets,
        _limits(server),
        tls=tls_context(server),
        http2=server.http2,
        on_error=lambda exc: gateway_app.core.log.exception("connection_failed", exc),
        on_rejection=lambda client, rejection, request_id, suppressed: gateway_app.core.log.info(
            "connection_refused",
            client=client,
            status=rejection.status,
            code=rejection.code,
            request_id=request_id,
            suppressed=suppressed,
        ),
        proxies=Networks.read(server.trusted_proxies) if server.proxy_protocol else None,
        shutdown=shutdown,
        stats=gateway_app.stats,
        task_status=task_status,
    )


def _limits(server: ListenSettings) -> ListenerLimits:
    return ListenerLimits(
        max_connections=server.max_connections,
        max_connections_per_ip=server.max_connections_per_ip,
        header_bytes=server.max_header_bytes,
        header_lines=server.max_header_lines,
        url_bytes=server.max_url_bytes,
        body_bytes=server.max_body_bytes,
        body_chunks=server.max_body_chunks,
        header_timeout=server.header_timeout,
        body_timeout=server.body_timeout,
        write_timeout=server.write_timeout,
        idle_timeout=server.idle_timeout,
        handshake_timeout=server.handshake_timeout,
        drain_timeout=server.drain_timeout,
    )
