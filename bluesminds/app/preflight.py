"""Checks of a configuration whose settings all have the right type, without starting the gateway.

The checks use the same parsers and functions as the start and leave no files behind. `static_checks` opens no
connection; `connectivity_checks` connects to the database and to every configured server.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

from bluesminds.app.settings_map import configured_server
from bluesminds.app.state_dir import BadState, ForeignState, StateDir
from bluesminds.config import Loaded, Problem, ServerSettings, Settings
from bluesminds.gateway.probe import probe
from bluesminds.gateway.upstream.entra import EntraTokens, TokenFailed
from bluesminds.http.client.pool import Pool, UpstreamOrigin, tls_context
from bluesminds.http.server.sockets import bind_tcp
from storage import StorageError, sqlite_path
from storage.store import ping


def static_checks(loaded: Loaded) -> Iterator[Problem]:
    """Problems in no particular order. Their messages contain no secret."""
    settings = loaded.settings
    yield from _state_dir(settings, loaded.origins["state_dir"].location)
    yield from _database(settings, loaded.origins["storage.url"].location)
    yield from _address(settings, loaded.origins["server.host"].location)
    for server in settings.servers:
        if server.url is not None:
            try:
                UpstreamOrigin.parse(server.url)
            except ValueError as error:
                where = loaded.origins[f"servers.{server.name}.url"].location
                message = f'url in [[servers]] "{server.name}" cannot be used: {error}'
                yield Problem(where, message, "write it like https://host:port/path")


def _state_dir(settings: Settings, where: str) -> Iterator[Problem]:
    try:
        StateDir(settings.state_dir).check()
    except ForeignState as error:
        # Root checks the configuration of a service that runs as another user.
        if os.geteuid() != 0:
            yield Problem(where, str(error), error.remedy)
        return
    except BadState as error:
        yield Problem(where, str(error), error.remedy)
        return
    if reason := _why_not_writable(settings.state_dir):
        remedy = "set state_dir to a directory that the gateway can create, or write to"
        yield Problem(where, f"state_dir cannot be used: {settings.state_dir}: {reason}", remedy)


def _database(settings: Settings, where: str) -> Iterator[Problem]:
    if settings.storage.url is None:
        return
    try:
        path = sqlite_path(settings.storage.url.reveal())
    except ValueError as error:
        remedy = "write sqlite:///absolute/path.db or postgresql://user:password@host/name"
        yield Problem(where, f"url in [storage] cannot be used: {error}", remedy)
        return
    if path is None:
        return
    if path.is_dir():
        yield Problem(where, f"url in [storage] names a directory: {path}", "add a file name to it")
    elif not path.parent.is_dir():
        yield Problem(
            where,
            f"url in [storage] is in a directory that does not exist: {path.parent}",
            f"mkdir -p {path.parent}",
        )
    elif reason := _why_not_writable(path.parent):
        remedy = "SQLite needs a directory that the gateway can write to"
        yield Problem(where, f"url in [storage] cannot be used: {path.parent}: {reason}", remedy)


def _why_not_writable(directory: Path) -> str:
    """The reason, or "". Tries to write, because file modes do not show every reason: in the directory, or in
    its nearest parent that exists.
    """
    existing = directory.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".bluesminds-", dir=existing):
            return ""
    except OSError as error:
        return error.strerror or "it is not writable"


def _address(settings: Settings, where: str) -> Iterator[Problem]:
    """Binds a free port, because the gateway may be running on the configured one."""
    host = settings.server.host
    try:
        sockets = bind_tcp(host, 0)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is not a valid host name"
        remedy = 'host must be an address of this machine: host = "127.0.0.1"'
        yield Problem(where, f"cannot listen on host in [server]: {host}: {reason}", remedy)
        return
    for sock in sockets:
        sock.close()


async def connectivity_checks(loaded: Loaded) -> list[Problem]:
    """The problems of reaching the database and the configured servers. Call it when `static_checks` found
    nothing.
    """
    settings = loaded.settings
    found: list[Problem] = []

    async def check(pool: Pool, row: ServerSettings) -> None:
        server = configured_server(row, demo_url="", keyless=settings.keyless.enabled)
        try:
            server = await EntraTokens(pool, settings.upstream.entra_url).obtain(server)
        except TokenFailed as exc:
            where = loaded.origins[f"servers.{row.name}.api_key"].location
            message = f'[[servers]] "{row.name}" gets no token from Microsoft Entra ID: {exc}'
            found.append(Problem(where, message, "check the application in its api_key"))
            return
        list_models = server.api_key is not None or not server.keyless  # else only clients have an API key
        result = await probe(pool, server, seconds=settings.upstream.probe_timeout, list_models=list_models)
        if result.error is not None:
            where = loaded.origins[f"servers.{row.name}.url"].location
            message = f'[[servers]] "{row.name}" failed its check: {result.error}'
            found.append(Problem(where, message, "check its url and api_key"))

    try:
        await ping(settings.database_url.reveal(), seconds=settings.storage.settle_timeout)
    except StorageError as error:
        where = loaded.origins["storage.url"].location
        found.append(Problem(where, str(error), "check storage.url and that the database runs"))
    async with trio.open_nursery() as nursery:
        pool = Pool(tls=tls_context(settings.upstream.ca_file))
        await nursery.start(pool.run)
        async with trio.open_nursery() as checks:
            for row in settings.servers:
                if row.mode != "off" and row.dialect != "demo":
                    checks.start_soon(check, pool, row)
        nursery.cancel_scope.cancel()
    return found
