"""Upstream servers in the database. Their API keys and headers are encrypted with the master key.

If the current master key cannot decrypt them, that server is not used: it is logged once and listed in
`locked`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType, json, structs

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, uuid7
from bluesminds.common.entra import EntraApp, is_entra_app
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.log import Log
from bluesminds.common.values import (
    DEFAULT_SERVER_OPTIONS,
    SHORTEST_SHOWN,
    Server,
    ServerMode,
    ServerOptions,
    last_four,
)
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, IntegrityError, Store
from storage.servers import (
    ServerRow,
    delete_server,
    insert_server,
    select_server,
    select_servers,
    update_server,
)

LOCKED = (
    "its API key or headers were encrypted with another master key: "
    "restore master.key, or remove the server and add it again"
)


MAX_KEYS: Final = 50  # of one server


def check_keys(keys: Sequence[str]) -> None:
    """Several keys are named by their last four characters. Raises Conflict, InvalidRequest."""
    if len(keys) > MAX_KEYS:
        message = f"A server can have {MAX_KEYS} API keys. Remove some."
        raise InvalidRequest("too_many_server_keys", message, param="api_keys")
    if len(keys) > 1 and any(len(key) < SHORTEST_SHOWN for key in keys):
        message = f"If a server has several API keys, each needs at least {SHORTEST_SHOWN} characters."
        raise InvalidRequest("invalid_value", message, param="api_keys")
    if len({last_four(key) for key in keys}) < len(keys):
        message = (
            "Two API keys of the server end with the same four "
            "characters. The last four characters must be unique."
        )
        raise Conflict("server_key_exists", message)
    try:
        for key in filter(is_entra_app, keys):
            EntraApp.read(key)
    except ValueError as exc:
        message = f"The key of an application in Microsoft Entra ID is incomplete: {exc}."
        raise InvalidRequest("invalid_value", message, param="api_key") from None


class ServerChanges(Struct, frozen=True):
    """The fields to change. UNSET fields stay the same."""

    url: str | UnsetType = UNSET
    api_keys: tuple[str, ...] | UnsetType = UNSET
    api_version: str | UnsetType = UNSET
    headers: Mapping[str, str] | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    passthrough: bool | UnsetType = UNSET
    passthrough_paths: tuple[str, ...] | UnsetType = UNSET
    region: str | UnsetType = UNSET
    tags: tuple[str, ...] | UnsetType = UNSET
    mode: ServerMode | UnsetType = UNSET
    max_concurrency: int | UnsetType = UNSET
    rpm: int | UnsetType = UNSET
    connect_timeout: float | UnsetType | None = UNSET
    first_token_timeout: float | UnsetType | None = UNSET
    first_byte_timeout: float | UnsetType | None = UNSET
    chunk_timeout: float | UnsetType | None = UNSET
    total_timeout: float | UnsetType | None = UNSET
    on_disconnect: Literal["cancel", "drain"] | UnsetType = UNSET
    drain_seconds: float | UnsetType | None = UNSET
    drain_tokens: int | UnsetType | None = UNSET


_OPTIONS: Final = frozenset(ServerOptions.__struct_fields__)


class Servers:
    """Of the last load, `locked` has the servers whose secrets cannot be decrypted, `off` those that are
    off.
    """

    def __init__(self, store: Store, *, vault: Vault, clock: Clock, log: Log) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._log = log
        self.locked: tuple[Server, ...] = ()
        self.off: tuple[Server, ...] = ()

    async def add(self, actor: Actor, server: Server) -> None:
        """Raises Conflict."""
        now = self._clock.now_ms()
        row = ServerRow(
            id=uuid7(now),
            name=server.name,
            vendor=server.vendor,
            dialect=server.dialect,
            url=server.url,
            sealed_api_keys=self._seal_keys(server.api_keys),
            api_version=server.api_version,
            sealed_headers=self._seal_headers(dict(server.headers)),
            models=server.models,
            weight=server.weight,
            priority=server.priority,
            passthrough=server.passthrough,
            passthrough_paths=server.passthrough_paths,
            region=server.region,
            tags=server.tags,
            mode=server.mode,
            max_concurrency=server.max_concurrency,
            rpm=server.rpm,
            options=_write_options(server.options or DEFAULT_SERVER_OPTIONS),
            created_at=now,
            updated_at=now,
        )
        audit = entry(self._clock, actor, "server.add", server.name, after=_audit_fields(row))
        try:
            await self._store.write(_insert, row, audit)
        except IntegrityError as exc:
            raise Conflict("server_exists", f"There is already a server named {server.name}.") from exc

    async def update(self, actor: Actor, name: str, changes: ServerChanges) -> Server:
        """Change the given fields. Raises NotFound."""
        given = {key: value for key, value in structs.asdict(changes).items() if value is not UNSET}
        if "api_keys" in given:
            given["sealed_api_keys"] = self._seal_keys(given.pop("api_keys"))
        if "headers" in given:
            given["sealed_headers"] = self._seal_headers(given.pop("headers"))
        options = {key: given.pop(key) for key in _OPTIONS & given.keys()}

        def change(row: ServerRow) -> dict[str, Any]:
            if not options:
                return given
            changed = structs.replace(_read_options(row) or DEFAULT_SERVER_OPTIONS, **options)
            return given | {"options": _write_options(changed)}

        row = await self._store.write(_update, self._clock, actor, name, change)
        try:
            return self._open(row)
        except ValueError:
            return _server(row, ("",), {})

    async def add_key(self, actor: Actor, name: str, key: str) -> Server:
        """Add an API key, after the others. Raises NotFound, Conflict, InvalidRequest."""

        def change(row: ServerRow) -> dict[str, Any]:
            keys = (*self._open_keys(row), key)
            check_keys(keys)
            return {"sealed_api_keys": self._seal_keys(keys)}

        return self._open(await self._store.write(_update, self._clock, actor, name, change))

    async def remove_key(self, actor: Actor, name: str, ending: str) -> Server:
        """Remove the API key with these last four characters. Raises NotFound, Conflict."""

        def change(row: ServerRow) -> dict[str, Any]:
            keys = self._open_keys(row)
            left = tuple(key for key in keys if last_four(key) != ending)
            if len(left) == len(keys):
                message = f"The server {name} has no API key that ends with these characters."
                raise NotFound("server_key_not_found", message)
            return {"sealed_api_keys": self._seal_keys(left)}

        return self._open(await self._store.write(_update, self._clock, actor, name, change))

    async def remove(self, actor: Actor, name: str) -> None:
        """Raises NotFound."""
        await self._store.write(_delete, self._clock, actor, name)

    async def load(self) -> Sequence[Server]:
        """The servers that are not off and whose secrets can be decrypted. Updates `locked` and `off`."""
        usable: list[Server] = []
        locked: list[Server] = []
        off: list[Server] = []
        for row in await self._store.read(select_servers):
            try:
                (off if row.mode == "off" else usable).append(self._open(row))
            except ValueError:
                locked.append(_server(row, (), {}))
        known = {server.name for server in self.locked}
        self.locked = tuple(locked)
        self.off = tuple(off)
        for server in locked:
            if server.name not in known:
                self._log.warning("server_locked", server=server.name, reason=LOCKED)
        return usable

    def _open(self, row: ServerRow) -> Server:
        """Raises ValueError when the current master key cannot decrypt its secrets."""
        sealed = row.sealed_api_keys
        keys = () if sealed is None else json.decode(self._vault.open(sealed), type=tuple[str, ...])
        headers = None if row.sealed_headers is None else self._vault.open(row.sealed_headers)
        return _server(row, keys, {} if headers is None else json.decode(headers, type=dict[str, str]))

    def _open_keys(self, row: ServerRow) -> tuple[str, ...]:
        """Raises Conflict when the current master key cannot decrypt its secrets."""
        try:
            return self._open(row).api_keys
        except ValueError as exc:
            raise Conflict("server_locked", f"The keys of {row.name} cannot be read: {LOCKED}.") from exc

    def _seal_keys(self, keys: Sequence[str]) -> bytes | None:
        return self._vault.seal(json.encode(keys).decode()) if keys else None

    def _seal_headers(self, headers: Mapping[str, str]) -> bytes | None:
        return self._vault.seal(json.encode(headers).decode()) if headers else None


def _server(row: ServerRow, api_keys: Sequence[str], headers: Mapping[str, str]) -> Server:
    return Server(
        name=row.name,
        dialect=row.dialect,
        url=row.url,
        api_key=api_keys[0] if api_keys else None,
        more_keys=tuple(api_keys[1:]),
        models=row.models,
        weight=row.weight,
        priority=row.priority,
        origin="table",
        vendor=row.vendor,
        api_version=row.api_version,
        headers=tuple(headers.items()),
        passthrough=row.passthrough,
        passthrough_paths=row.passthrough_paths,
        region=row.region,
        tags=row.tags,
        mode=row.mode,
        max_concurrency=row.max_concurrency,
        rpm=row.rpm,
        options=_read_options(row),
    )


def _read_options(row: ServerRow) -> ServerOptions | None:
    options = json.decode(row.options, type=ServerOptions)
    return None if options == DEFAULT_SERVER_OPTIONS else options


def _write_options(options: ServerOptions) -> str:
    return json.encode(options).decode()


def _audit_fields(row: ServerRow) -> dict[str, object]:
    """The audit log masks the API key and the headers."""
    return {
        "vendor": row.vendor,
        "dialect": row.dialect,
        "url": row.url,
        "api_key": row.sealed_api_keys,
        "api_version": row.api_version,
        "headers": row.sealed_headers,
        "models": row.models,
        "weight": row.weight,
        "priority": row.priority,
        "passthrough": row.passthrough,
        "passthrough_paths": row.passthrough_paths,
        "region": row.region,
        "tags": row.tags,
        "mode": row.mode,
        "max_concurrency": row.max_concurrency,
        "server_rpm": row.rpm,
        "options": row.options,
    }


async def _insert(connection: Connection, row: ServerRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_server(connection, row)


async def _update(
    connection: Connection,
    clock: Clock,
    actor: Actor,
    name: str,
    change: Callable[[ServerRow], dict[str, Any]],
) -> ServerRow:
    """`change` gives the new values of columns."""
    await lock_audit_head(connection)
    before = await select_server(connection, name)
    if before is None:
        raise NotFound("server_not_found", f"There is no server named {name} in the database.")
    changes = change(before)
    if replace(before, **changes) == before:
        return before
    after = replace(before, **changes, updated_at=clock.now_ms())
    audit = entry(
        clock, actor, "server.update", name, before=_audit_fields(before), after=_audit_fields(after)
    )
    await insert_audit(connection, audit)
    await update_server(connection, after)
    return after


async def _delete(connection: Connection, clock: Clock, actor: Actor, name: str) -> None:
    await lock_audit_head(connection)
    row = await select_server(connection, name)
    if row is None:
        raise NotFound("server_not_found", f"There is no server named {name} in the database.")
    await insert_audit(connection, entry(clock, actor, "server.remove", name, before=_audit_fields(row)))
    await delete_server(connection, name)
