"""/api/admin/servers: the upstream servers of the configuration and of the database."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import UNSET, Struct, UnsetType, structs

from bluesminds.accounts.servers import LOCKED, ServerChanges, Servers, check_keys
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound, Unavailable
from bluesminds.common.server_headers import check_headers
from bluesminds.common.server_urls import endpoint_in
from bluesminds.common.values import DEFAULT_SERVER_OPTIONS, Server, ServerOptions
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.gateway.routing.server_keys import ServerKeyStatus
from bluesminds.gateway.server_test import ServerTest
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.providers.profiles import find_profile
from bluesminds.providers.vendors import resolve
from bluesminds.web.api.server_schemas import (
    NewServer,
    NewServerKey,
    ServerKeyQuery,
    ServerKeyView,
    ServerPatch,
    ServerTestQuery,
    ServerTestResult,
    ServerView,
    failed_test,
    server_view,
    test_result,
)
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route


class ServerHandlers(Struct, frozen=True):
    """`now` lists all servers in use. `changed` is called after each change. `run_test` tests one server,
    with a model or one of its own. `key_status` has the state of each key.
    """

    servers: Servers
    now: Callable[[], Awaitable[list[Server]]]
    changed: Callable[[], Awaitable[None]]
    run_test: Callable[[Server, str | None], Awaitable[ServerTest]]
    status: Callable[[str], ServerStatus]
    key_status: Callable[[Server], Sequence[ServerKeyStatus]]

    async def list(self) -> Page[ServerView]:
        """List all servers."""
        rows = [self._view(row) for row in await self.now()]
        taken = {row.name for row in rows}
        rows += [
            self._view(row, ServerStatus("unusable", None, LOCKED))
            for row in self.servers.locked
            if row.name not in taken
        ]
        rows += [self._view(row) for row in self.servers.off if row.name not in taken]
        return Page(rows)

    def _view(self, row: Server, status: ServerStatus | None = None) -> ServerView:
        return server_view(row, status or self.status(row.name), self.key_status(row))

    async def add(self, principal: Principal, body: NewServer) -> ServerView:
        """Add a server. It is used immediately."""
        server = _server(body)
        if any(row.name == server.name and row.origin != "table" for row in await self.now()):
            raise Conflict("server_exists", f"The configuration already has a server named {server.name}.")
        await self.servers.add(principal.actor, server)
        await self.changed()
        return self._view(server)

    async def change(self, principal: Principal, name: str, body: ServerPatch) -> ServerView:
        """Change a server of the database. Omitted fields stay the same."""
        await self._check_stored(name)
        if body.url is not UNSET:
            _check_url(body.url)
        if body.headers is not UNSET:
            _check_headers(body.headers)
        if body.models is not UNSET and not body.models:
            await self._check_discovery(name)
        fields = structs.asdict(body)
        del fields["api_key"]
        fields["api_keys"] = _changed_keys(body)
        if body.models is not UNSET:
            fields["models"] = tuple(body.models)
        if body.region is not UNSET:
            fields["region"] = body.region or ""
        changed = await self.servers.update(principal.actor, name, ServerChanges(**fields))
        await self.changed()
        return self._view(changed)

    async def list_keys(self, name: str) -> Page[ServerKeyView]:
        """List the API keys of a server, by their last four characters."""
        for view in (await self.list()).data:
            if view.name == name:
                return Page(view.api_keys)
        raise NotFound("server_not_found", f"There is no server named {name}.")

    async def add_key(self, principal: Principal, name: str, body: NewServerKey) -> ServerView:
        """Add an API key to a server of the database. The keys of a server are used in turn."""
        await self._check_stored(name)
        changed = await self.servers.add_key(principal.actor, name, body.api_key)
        await self.changed()
        return self._view(changed)

    async def remove_key(self, principal: Principal, name: str, query: ServerKeyQuery) -> None:
        """Remove an API key of a server, by its last four characters."""
        await self._check_stored(name)
        await self.servers.remove_key(principal.actor, name, query.last_four)
        await self.changed()

    async def _check_stored(self, name: str) -> None:
        """Raises Conflict for a server that is not in the database."""
        for server in await self.now():
            if server.name == name and server.origin != "table":
                raise read_only_error(server)

    async def _check_discovery(self, name: str) -> None:
        """Raises InvalidRequest if the models of a server cannot be discovered."""
        for server in await self.now():
            if server.name == name:
                _check_models(server.vendor, server.url, server.dialect, [])

    async def remove(self, principal: Principal, name: str) -> None:
        """Remove a server. Running requests are completed."""
        await self._check_stored(name)
        await self.servers.remove(principal.actor, name)
        await self.changed()

    async def test(self, name: str, query: ServerTestQuery) -> ServerTestResult:
        """Test a server: name, connection, TLS, model list, and a completion of at most 16 tokens.

        The vendor may charge for the completion.
        """
        for server in (*await self.now(), *self.servers.off):
            if server.name == name:
                if not server.url:
                    raise Unavailable(
                        "server_not_running", "The demo server only runs inside a running gateway."
                    )
                if (status := self.status(name)).state == "unusable":
                    return failed_test(name, status.last_error or "")
                return test_result(await self.run_test(server, query.model))
        if any(server.name == name for server in self.servers.locked):
            return failed_test(name, LOCKED)
        raise NotFound("server_not_found", f"There is no server named {name}.")


def read_only_error(server: Server) -> Conflict:
    """For a server that is not in the database."""
    if server.origin == "environment":
        rest = "was detected at the start. To change it, add it to the configuration and restart the gateway."
    else:
        rest = "is in the configuration. Change it there, and run `bluesminds reload`."
    return Conflict("read_only", f"The server {server.name} {rest}")


def routes(handlers: ServerHandlers) -> list[Route]:
    tag = "Servers"
    return [
        route("GET", "/api/admin/servers", Access.ADMIN, handlers.list, tag=tag),
        route("POST", "/api/admin/servers", Access.ADMIN, handlers.add, tag=tag, status=201),
        route("PATCH", "/api/admin/servers/{name}", Access.ADMIN, handlers.change, tag=tag),
        route("DELETE", "/api/admin/servers/{name}", Access.ADMIN, handlers.remove, tag=tag),
        route("POST", "/api/admin/servers/{name}/test", Access.ADMIN, handlers.test, tag=tag),
        route("GET", "/api/admin/servers/{name}/keys", Access.ADMIN, handlers.list_keys, tag=tag),
        route("POST", "/api/admin/servers/{name}/keys", Access.ADMIN, handlers.add_key, tag=tag, status=201),
        route("DELETE", "/api/admin/servers/{name}/keys", Access.ADMIN, handlers.remove_key, tag=tag),
    ]


def _check_url(url: str) -> None:
    """Raises InvalidRequest."""
    try:
        UpstreamOrigin.parse(url)
    except ValueError as exc:
        raise InvalidRequest("invalid_url", f"{exc}.", param="url") from exc
    if endpoint := endpoint_in(url):
        message = f"The URL ends in {endpoint}, but the gateway adds the endpoint itself. Remove {endpoint}."
        raise InvalidRequest("invalid_url", message, param="url")


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raises InvalidRequest."""
    try:
        check_headers(headers)
    except ValueError as exc:
        raise InvalidRequest("invalid_value", f"headers: {exc}.", param="headers") from exc


def _check_models(vendor: str, url: str, dialect: str, models: Sequence[str]) -> None:
    """Raises InvalidRequest if the server does not list its models and none is named."""
    if not models and not find_profile(dialect, vendor, url, "").lists_models:
        raise InvalidRequest(
            "models_required",
            "This server does not list the models that can be used. Name them in `models`; on Azure these are"
            " the names of the deployments.",
            param="models",
        )


def _given_keys(single: str | None, several: Sequence[str]) -> tuple[str, ...]:
    """Raises InvalidRequest, Conflict."""
    if single is not None and several:
        raise InvalidRequest("invalid_value", "Send either `api_key` or `api_keys`.", param="api_keys")
    keys = tuple(several) if single is None else (single,)
    check_keys(keys)
    return keys


def _changed_keys(body: ServerPatch) -> tuple[str, ...] | UnsetType:
    """Raises InvalidRequest, Conflict."""
    if body.api_key is UNSET and body.api_keys is UNSET:
        return UNSET
    return _given_keys(body.api_key or None, body.api_keys or [])


def _server(new: NewServer) -> Server:
    """Raises InvalidRequest."""
    try:
        url, dialect = resolve(new.vendor or "", new.url or "", new.dialect or "")
    except ValueError as exc:
        raise InvalidRequest("invalid_url", f"{exc}. Send its `url`.", param="url") from exc
    if not url:
        raise InvalidRequest("invalid_value", "Missing field `url`. Send a `url` or a `vendor`.", param="url")
    _check_url(url)
    _check_headers(new.headers)
    _check_models(new.vendor or "", url, dialect, new.models)
    keys = _given_keys(new.api_key, new.api_keys)
    options = ServerOptions(**{name: getattr(new, name) for name in ServerOptions.__struct_fields__})
    return Server(
        name=new.name,
        dialect=dialect,
        url=url,
        api_key=keys[0] if keys else None,
        more_keys=keys[1:],
        models=tuple(new.models),
        weight=new.weight,
        priority=new.priority,
        origin="table",
        vendor=new.vendor or "",
        api_version=new.api_version,
        headers=tuple(new.headers.items()),
        passthrough=new.passthrough,
        passthrough_paths=new.passthrough_paths,
        region=new.region or "",
        tags=new.tags,
        mode=new.mode,
        max_concurrency=new.max_concurrency,
        rpm=new.rpm,
        options=None if options == DEFAULT_SERVER_OPTIONS else options,
    )
