"""What every way of running needs: the state directory, the store, the outbound pool and the accounts on
top of them.

The server runs on it, and so does a command that finds no server running; nobody else holds the database
meanwhile.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from msgspec import Struct

from bluesminds.accounts.keys import Keys
from bluesminds.accounts.members import Members
from bluesminds.accounts.servers import Servers
from bluesminds.accounts.usage import UsageReports
from bluesminds.clock import Clock
from bluesminds.config import ServerSettings, Settings
from bluesminds.http.client import Pool, Timeouts, tls_context
from bluesminds.identity.password import Passwords
from bluesminds.keystore import open_keystore
from bluesminds.log import Log
from bluesminds.state import StateDir
from bluesminds.values import Server
from storage import open_store, sqlite_path
from storage.base import Store


class BadDatabaseURL(Exception):
    """The database's address cannot be one. The message repeats none of it."""


class Core(Struct, frozen=True):
    settings: Settings
    clock: Clock
    log: Log
    state: StateDir
    pepper: bytes
    store: Store
    pool: Pool
    keys: Keys
    members: Members
    servers: Servers
    usage: UsageReports
    passwords: Passwords


class Changes:
    """Tells who is interested that keys have changed; set once the walk exists."""

    def __init__(self) -> None:
        self.keys_changed: Callable[[], object] = lambda: None


@asynccontextmanager
async def open_core(settings: Settings, *, clock: Clock, log: Log, changes: Changes) -> AsyncIterator[Core]:
    """Raises StateBusy when another process holds the state directory, BadState, BadDatabaseURL,
    StorageError.
    """
    url = _database_url(settings)
    state = StateDir(settings.state_dir)
    state.prepare()
    with state.locked():
        pool = Pool(
            max_connections=settings.upstream.max_connections,
            max_per_origin=settings.upstream.max_connections_per_server,
            tls=tls_context(settings.upstream.ca_file),
        )
        async with open_store(url, statement_timeout=settings.storage.settle_timeout) as store:
            pepper, vault = await open_keystore(store, state, settings.keys.pepper)
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                yield Core(
                    settings=settings,
                    clock=clock,
                    log=log,
                    state=state,
                    pepper=pepper,
                    store=store,
                    pool=pool,
                    keys=Keys(store, pepper=pepper, clock=clock, changed=lambda: changes.keys_changed()),
                    members=Members(store, clock=clock),
                    servers=Servers(store, vault=vault, clock=clock, log=log),
                    usage=UsageReports(store, clock=clock),
                    passwords=Passwords(),
                )
                nursery.cancel_scope.cancel()


def _database_url(settings: Settings) -> str:
    url = settings.database_url.reveal()
    try:
        sqlite_path(url)
    except ValueError as exc:
        raise BadDatabaseURL(f"url in [storage] cannot be used: {exc}") from exc
    return url


def timeouts(settings: Settings) -> Timeouts:
    upstream = settings.upstream
    return Timeouts(
        connect=upstream.connect_timeout,
        pool=upstream.pool_timeout,
        write=upstream.write_timeout,
        first_byte=upstream.first_byte_timeout,
        between_chunks=upstream.chunk_timeout,
    )


def configured_server(row: ServerSettings, *, demo_url: str) -> Server:
    """A [[servers]] entry as the walk knows it."""
    return Server(
        name=row.name,
        dialect=row.dialect,
        url=demo_url if row.dialect == "demo" else row.url or "",
        api_key=None if row.api_key is None else row.api_key.reveal(),
        models=row.models,
        weight=row.weight,
        priority=row.priority,
        origin="file",
    )
