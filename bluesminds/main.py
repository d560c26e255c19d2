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

from bluesminds.clock import Clock
from bluesminds.config import ListenSettings, Settings
from bluesminds.core import Changes, Core, open_core
from bluesminds.first_run import FirstRun, refuse_public_without_admin, welcome
from bluesminds.gateway.keepers import Keepers
from bluesminds.gateway.lease import Lease
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Recorder
from bluesminds.house import House
from bluesminds.http.server import Limits
from bluesminds.http.server import serve as listen
from bluesminds.listeners import listen_locally, public_sockets, tls_context
from bluesminds.log import Log
from bluesminds.networks import Networks
from bluesminds.upstreams import configured_servers, start_demo

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
    core: Core
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
    changes = Changes()
    async with open_core(settings, clock=clock, log=log, changes=changes) as core:
        with public_sockets(settings.server, inherited) as sockets:
            await refuse_public_without_admin(sockets, core)
            metrics, keepers = Metrics(), Keepers(log)
            async with (
                _leased(core) as lease,
                _recording(core, metrics, keepers) as recorder,
                trio.open_nursery() as background,
            ):
                demo_url = start_demo(settings, background, log)
                configured = await configured_servers(core, environ, demo_url)
                house = House(core, configured, metrics, recorder, keepers, lease)
                changes.keys_changed = house.keys.forget
                await house.resume()
                await house.look_around(LOOK_AROUND_SECONDS)
                background.start_soon(keepers.keep, "prober", house.prober.run)
                background.start_soon(keepers.keep, "sweeper", house.sweeper.run)
                background.start_soon(keepers.keep, "lease", lease.run)
                background.start_soon(keepers.keep, "postman", core.postman.run)
                background.start_soon(keepers.keep, "janitor", core.janitor.run)
                await background.start(listen_locally, core, house.site)
                async with trio.open_nursery() as listener:
                    addresses = await listener.start(_listen, house, sockets, shutdown)
                    first_run = await welcome(core, guest_key=guest_key)
                    models = [row.id for row in house.shelf.catalogue.models()]
                    task_status.started(Running(addresses, models, first_run, core, house.pulse.beats))
                await house.sweeper.sweep()
                background.cancel_scope.cancel()


@asynccontextmanager
async def _leased(core: Core) -> AsyncIterator[Lease]:
    """The right to hand out limits, from before the first request until after the last row."""
    lease = Lease(core.store, core.state.instance(), core.log)
    await lease.take()
    try:
        yield lease
    finally:
        with trio.move_on_after(LEASE_END_SECONDS, shield=True):
            await lease.end()


@asynccontextmanager
async def _recording(core: Core, metrics: Metrics, keepers: Keepers) -> AsyncIterator[Recorder]:
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
            await keepers.keep("recorder", recorder.run)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        try:
            yield recorder
        finally:
            recorder.finish()
            last.deadline = trio.current_time() + FLUSH_SECONDS


async def _listen(
    house: House,
    sockets: list[socket.socket],
    shutdown: trio.Event,
    *,
    task_status: trio.TaskStatus[list[Any]] = trio.TASK_STATUS_IGNORED,
) -> None:
    server = house.core.settings.server
    await listen(
        house.edge,
        sockets,
        _limits(server),
        tls=tls_context(server),
        http2=server.http2,
        on_error=lambda exc: house.core.log.exception("connection_failed", exc),
        on_refusal=lambda client, refusal, request_id, untold: house.core.log.info(
            "connection_refused",
            client=client,
            status=refusal.status,
            code=refusal.code,
            request_id=request_id,
            untold=untold,
        ),
        proxies=Networks.read(server.trusted_proxies) if server.proxy_protocol else None,
        shutdown=shutdown,
        stats=house.stats,
        task_status=task_status,
    )


def _limits(server: ListenSettings) -> Limits:
    return Limits(
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
