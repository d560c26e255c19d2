"""The operator's API for one command: through the running server's local socket, or on the store itself
when no server runs.

Both ways are the same HTTP API, so a command has one code path, and whoever holds the state directory's
lock is the only writer.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio

from bluesminds.app.data_plane import api_routes, guard
from bluesminds.app.services import KeyChangeNotifier, Services, configured_server, open_services
from bluesminds.app.state_dir import ForeignState, StateBusy, StateDir
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.common.values import InUse, Server
from bluesminds.config import Settings
from bluesminds.gateway.routing.catalog import merge_servers
from bluesminds.http.client.pool import Pool
from bluesminds.http.client.transport import PoolTransport
from bluesminds.web import app
from bluesminds.web.guard import mark_operator

BASE_URL = "http://local"
TIMEOUT = 30.0  # seconds; a server test may take its own probe timeout
PATIENCE = 5.0  # seconds
POLL = 0.05  # seconds


@asynccontextmanager
async def operator_client(settings: Settings, *, clock: Clock, log: Log) -> AsyncIterator[httpx.AsyncClient]:
    """Raises StateBusy when a process holds the state and answers at no socket for PATIENCE seconds (another
    command is done by then, a starting server answers), BadState,
    BadDatabaseURL, StorageError.

    A user who may open another user's socket, as root may, can work beside a running gateway only: files of
    his own would be in its way.
    """
    give_up = trio.current_time() + PATIENCE
    socket_path = StateDir(settings.state_dir).socket_path
    while True:
        try:
            async with _offline(settings, clock=clock, log=log) as client:
                yield client
            return
        except (StateBusy, ForeignState) as exc:
            if await _is_served(socket_path):
                break
            if isinstance(exc, ForeignState) or trio.current_time() > give_up:
                raise
        await trio.sleep(POLL)
    async with trio.open_nursery() as nursery:
        # There is no TLS on the socket; the system's authorities take longer to read than the answer.
        pool = Pool(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        await nursery.start(pool.run)
        transport = PoolTransport(pool, socket_path=str(socket_path))
        async with httpx.AsyncClient(
            transport=transport, base_url=BASE_URL, trust_env=False, timeout=TIMEOUT
        ) as client:
            yield client
        nursery.cancel_scope.cancel()


async def _is_served(path: Path) -> bool:
    """Not when it is the socket of a process that was killed, or of another user."""
    try:
        stream = await trio.open_unix_socket(path)
    except OSError:
        return False
    await stream.aclose()
    return True


@asynccontextmanager
async def _offline(settings: Settings, *, clock: Clock, log: Log) -> AsyncIterator[httpx.AsyncClient]:
    async with open_services(settings, clock=clock, log=log, changes=KeyChangeNotifier()) as services:

        async def list_servers() -> list[Server]:
            return await _servers(services)

        routes = api_routes(services, list_servers, _nothing, _not_in_use)
        site = app.create_app(routes, guard(services), clock=clock, log=log)
        transport = httpx.ASGITransport(mark_operator(site))
        async with httpx.AsyncClient(
            transport=transport, base_url=BASE_URL, trust_env=False, timeout=TIMEOUT
        ) as client:
            yield client


async def _servers(services: Services) -> list[Server]:
    keyless = services.settings.keyless.enabled
    rows = [row for row in services.settings.servers if row.enabled]
    configured = [configured_server(row, demo_url="", keyless=keyless) for row in rows]
    return merge_servers(configured, await services.servers.load())


def _not_in_use(subject: str) -> InUse:
    """No gateway runs, so nothing is in use."""
    return InUse()


async def _nothing() -> None:
    """No running gateway has to be told."""
