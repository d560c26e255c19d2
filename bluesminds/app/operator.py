"""The operator's HTTP API for one command: through the running server's local socket, or in this process when
no server runs.

Both ways are the same API, so a command has one code path. The process that holds the state directory's lock
is the only one that writes.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import trio

from bluesminds.app.services import Services, open_services
from bluesminds.app.settings_map import configured_server
from bluesminds.app.state_dir import ForeignState, StateBusy, StateDir
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.common.values import InUse, Server
from bluesminds.config import Settings
from bluesminds.gateway.probe import probe
from bluesminds.gateway.routing.catalog import merge_servers
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.client.pool import Pool
from bluesminds.http.client.transport import PoolTransport
from bluesminds.web.api import GatewayControls, api_routes, build_guard
from bluesminds.web.app import create_app
from bluesminds.web.guard import mark_operator

BASE_URL = "http://local"
TIMEOUT = 30.0  # seconds; a server test takes up to upstream.probe_timeout
LOCK_TIMEOUT = 5.0  # seconds; how long to wait for a state directory that another process holds
POLL = 0.05  # seconds


@asynccontextmanager
async def operator_client(settings: Settings, *, clock: Clock, log: Log) -> AsyncIterator[httpx.AsyncClient]:
    """Raises StateBusy when another process holds the state directory for LOCK_TIMEOUT seconds without
    serving its socket, BadState, BadDatabaseURL and StorageError.

    Another command releases the lock within LOCK_TIMEOUT; a starting server opens its socket. If the state
    directory belongs to another user, only a running server's socket is used: files that this process
    created there would belong to the wrong user.
    """
    give_up = trio.current_time() + LOCK_TIMEOUT
    socket_path = StateDir(settings.state_dir).socket_path
    while True:
        try:
            async with _in_process_client(settings, clock=clock, log=log) as client:
                yield client
            return
        except (StateBusy, ForeignState) as exc:
            if await _is_served(socket_path):
                break
            if isinstance(exc, ForeignState) or trio.current_time() > give_up:
                raise
        await trio.sleep(POLL)
    async with trio.open_nursery() as nursery:
        # The socket has no TLS. Reading the system's certificates would take longer than the request.
        pool = Pool(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        await nursery.start(pool.run)
        transport = PoolTransport(pool, socket_path=str(socket_path))
        async with _client(transport) as client:
            yield client
        nursery.cancel_scope.cancel()


def _client(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=transport, base_url=BASE_URL, trust_env=False, timeout=TIMEOUT)


async def _is_served(path: Path) -> bool:
    """False also for the socket of a killed process, or one that this user may not open."""
    try:
        stream = await trio.open_unix_socket(path)
    except OSError:
        return False
    await stream.aclose()
    return True


@asynccontextmanager
async def _in_process_client(
    settings: Settings, *, clock: Clock, log: Log
) -> AsyncIterator[httpx.AsyncClient]:
    async with open_services(settings, clock=clock, log=log) as services:
        transport = httpx.ASGITransport(mark_operator(_build_control(services)))
        async with _client(transport) as client:
            yield client


def _build_control(services: Services) -> ASGIApp:
    controls = GatewayControls(
        list_servers=partial(_list_servers, services),
        servers_changed=_noop,
        test_server=partial(
            probe, services.pool, seconds=services.settings.upstream.probe_timeout, list_models=True
        ),
        usage_now=_no_usage,
    )
    guard = build_guard(services.accounts, public_url=services.settings.server.public_url)
    routes = api_routes(services.accounts, controls)
    return create_app(routes, guard, clock=services.clock, log=services.log)


async def _list_servers(services: Services) -> list[Server]:
    keyless = services.settings.keyless.enabled
    rows = [row for row in services.settings.servers if row.enabled]
    configured = [configured_server(row, demo_url="", keyless=keyless) for row in rows]
    return merge_servers(configured, await services.accounts.servers.load())


def _no_usage(subject: str) -> InUse:
    """Without a running gateway nothing is in use."""
    return InUse()


async def _noop() -> None:
    """Without a running gateway there is nothing to reload."""
