"""The operator's HTTP API for one command: through the running server's local socket, or in this process when
no server runs.

Both ways are the same API, so a command has one code path. The process that holds the state directory's lock
is the only one that writes. A command never creates a database: a wrong state directory is an error.
"""

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

import httpx
import trio

from bluesminds.app.database import require_database
from bluesminds.app.state_dir import ForeignState, StateBusy, StateDir
from bluesminds.common.clock import Clock
from bluesminds.common.loading import loading
from bluesminds.common.log import Log
from bluesminds.config import Settings
from bluesminds.http.asgi import ASGIApp
from bluesminds.http.client.pool import Pool
from bluesminds.http.client.transport import PoolTransport

BASE_URL = "http://local"
TIMEOUT = 30.0  # seconds; a server test takes up to upstream.probe_timeout
LOCK_TIMEOUT = 5.0  # seconds; how long to wait for a state directory that another process holds
POLL = 0.05  # seconds


class _OpenAPI(Protocol):
    def __call__(
        self, settings: Settings, *, clock: Clock, log: Log
    ) -> AbstractAsyncContextManager[ASGIApp]: ...


@asynccontextmanager
async def operator_client(settings: Settings, *, clock: Clock, log: Log) -> AsyncIterator[httpx.AsyncClient]:
    """Raises NoDatabase when no gateway runs and there is no database, StateBusy when another process holds
    the state directory for LOCK_TIMEOUT seconds without serving its socket, BadState, BadDatabaseURL,
    ConfigError for a deferred secret, and StorageError.

    Another command releases the lock within LOCK_TIMEOUT; a starting server opens its socket. If the state
    directory belongs to another user, only a running server's socket is used: files that this process
    created there would belong to the wrong user.
    """
    deadline = trio.current_time() + LOCK_TIMEOUT
    while not await _gateway_runs(settings):
        try:
            async with (
                _load_api()(settings, clock=clock, log=log) as app,
                _client(httpx.ASGITransport(app)) as client,
            ):
                yield client
            return
        except StateBusy:
            if trio.current_time() > deadline:
                raise
        await trio.sleep(POLL)
    async with trio.open_nursery() as nursery:
        # The socket has no TLS. Reading the system's certificates would take longer than the request.
        pool = Pool(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        await nursery.start(pool.run)
        transport = PoolTransport(pool, socket_path=str(StateDir(settings.state_dir).socket_path))
        async with _client(transport) as client:
            yield client
        nursery.cancel_scope.cancel()


async def _gateway_runs(settings: Settings) -> bool:
    """Raises BadState, BadDatabaseURL, and NoDatabase if there is no database either."""
    state = StateDir(settings.state_dir)
    try:
        state.check()
    except ForeignState:
        if await _is_served(state.socket_path):
            return True
        raise
    if await _is_served(state.socket_path):
        return True
    require_database(settings)
    return False


@cache
def _load_api() -> _OpenAPI:
    """A command beside a running gateway does not need these modules, which take most of its time."""
    with loading():
        from bluesminds.app.operator_api import open_operator_api
    return open_operator_api


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
