"""The composition root: nested nurseries from the store to the listener.

    core (state, store, pool) > recorder > keepers, demo server, local socket > listener

Nesting is the order of death: the listener drains first, then the keepers and the local socket go, then the
recorder commits what is left, and the store closes last. `serve` is what the command line, the tests and
the packaged executable call.
"""

import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from msgspec import Struct

from bluesminds.accounts.audit import OPERATOR
from bluesminds.clock import Clock
from bluesminds.config import ListenSettings, Settings
from bluesminds.core import Changes, Core, configured_server, open_core
from bluesminds.gateway.keepers import Keepers
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.probe import probe
from bluesminds.gateway.recorder import Recorder
from bluesminds.house import House
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.server import Limits, Stats, bind_tcp, bind_unix
from bluesminds.http.server import serve as listen
from bluesminds.log import Log
from bluesminds.providers import demo
from bluesminds.providers.vendors import from_environment, local_ollama
from bluesminds.values import Server
from bluesminds.web.guard import through_local_socket

FLUSH_SECONDS = 10.0  # the longest a stop waits for the last usage rows
DAY_MS = 86_400_000
LOOK_AROUND_SECONDS = 2.0  # the longest a start waits to learn what models there are


class StartRefused(Exception):
    """The gateway will not start like this. `remedy` says what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class FirstRun(Struct, frozen=True):
    """What this start has made, to be shown once; None: there was one already."""

    key: str | None
    bootstrap_token: str | None


class Running(Struct, frozen=True):
    """A gateway that answers, on `addresses` as the operating system names them."""

    addresses: list[Any]
    models: list[str]
    first_run: FirstRun
    core: Core


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

    Raises StartRefused, StateBusy, StorageError, OSError, ssl.SSLError, all before it has started.
    """
    changes = Changes()
    async with open_core(settings, clock=clock, log=log, changes=changes) as core:
        sockets = inherited or bind_tcp(settings.server.host, settings.server.port)
        await _refuse_public_without_admin(sockets, core)
        first_run = await _found(core, guest_key=guest_key)
        metrics, keepers = Metrics(), Keepers(log)
        async with _recording(core, metrics, keepers) as recorder, trio.open_nursery() as background:
            configured = await _configured_servers(
                core, environ, await _start_demo(settings, background, log)
            )
            house = House(core, configured, metrics, recorder, keepers)
            changes.keys_changed = house.keys.forget
            await house.look_around(LOOK_AROUND_SECONDS)
            background.start_soon(keepers.keep, "prober", house.prober.run)
            background.start_soon(keepers.keep, "sweeper", house.sweeper.run)
            await background.start(_listen_locally, core, house.site)
            async with trio.open_nursery() as listener:
                addresses = await listener.start(_listen, house, sockets, shutdown)
                models = [row.id for row in house.shelf.catalogue.models()]
                task_status.started(Running(addresses, models, first_run, core))
            await house.sweeper.sweep()
            background.cancel_scope.cancel()


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


async def _found(core: Core, *, guest_key: bool) -> FirstRun:
    """A new database gets its local user and a key; one without an administrator gets a bootstrap token,
    once.
    """
    user_id, is_new = await core.members.local_user(OPERATOR)
    key = None
    if is_new:
        _, key = await core.keys.create(OPERATOR, user_id=user_id, name="first key")
    elif guest_key:
        tomorrow = core.clock.now_ms() + DAY_MS
        _, key = await core.keys.create(OPERATOR, user_id=user_id, name="guest", expires_at=tomorrow)
    return FirstRun(key=key, bootstrap_token=await core.members.new_bootstrap_token(OPERATOR))


async def _refuse_public_without_admin(sockets: list[socket.socket], core: Core) -> None:
    public = [sock.getsockname()[0] for sock in sockets if _is_public(sock)]
    if public and not await core.members.has_admin():
        for sock in sockets:
            sock.close()
        raise StartRefused(
            f"refusing to listen on {public[0]}: there is no administrator yet, so nobody could govern it",
            "bluesminds users create --role admin --email you@example.com",
        )


def _is_public(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


async def _configured_servers(core: Core, environ: Mapping[str, str], demo_url: str) -> list[Server]:
    """The configuration's servers; with none in it, what the environment and this machine offer."""
    rows = [row for row in core.settings.servers if row.enabled]
    if core.settings.servers:
        return [configured_server(row, demo_url=demo_url) for row in rows]
    servers = from_environment(environ)
    ollama = local_ollama(environ)
    if (await probe(core.pool, ollama, seconds=1.0, list_models=True)).problem is None:
        servers.append(ollama)
    return servers


async def _start_demo(settings: Settings, background: trio.Nursery, log: Log) -> str:
    """The built-in demo server's URL if a [[servers]] entry uses it, else ""."""
    if not any(row.dialect == "demo" and row.enabled for row in settings.servers):
        return ""

    def report(exc: BaseException) -> None:
        if not isinstance(exc, demo.CutOff):
            log.exception("demo_server_failed", exc)

    bound = bind_tcp("127.0.0.1", 0)
    address = bound[0].getsockname()
    background.start_soon(_listen_privately, demo.app, bound, report)
    return f"http://127.0.0.1:{address[1]}/v1"


async def _listen_locally(
    core: Core, site: ASGIApp, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The operator's socket in the state directory, owner only."""
    path = core.state.socket_path
    sock = bind_unix(path)
    task_status.started()
    try:
        await _listen_privately(
            through_local_socket(site), [sock], lambda exc: core.log.exception("local_failed", exc)
        )
    finally:
        path.unlink(missing_ok=True)


async def _listen_privately(app: ASGIApp, sockets: list[socket.socket], on_error: Any) -> None:  # noqa: ANN401
    """Serve until cancelled."""
    await listen(app, sockets, Limits(), on_error=on_error, shutdown=trio.Event(), stats=Stats())


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
        tls=_tls(server),
        http2=server.http2,
        on_error=lambda exc: house.core.log.exception("connection_failed", exc),
        shutdown=shutdown,
        stats=house.stats,
        task_status=task_status,
    )


def _tls(server: ListenSettings) -> ssl.SSLContext | None:
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(server.tls_cert, server.tls_key)
    return context


def _limits(server: ListenSettings) -> Limits:
    return Limits(
        max_connections=server.max_connections,
        max_connections_per_ip=server.max_connections_per_ip,
        header_bytes=server.max_header_bytes,
        header_lines=server.max_header_lines,
        url_bytes=server.max_url_bytes,
        body_bytes=server.max_body_bytes,
        header_timeout=server.header_timeout,
        body_timeout=server.body_timeout,
        write_timeout=server.write_timeout,
        idle_timeout=server.idle_timeout,
        drain_timeout=server.drain_timeout,
    )
