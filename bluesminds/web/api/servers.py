"""/api/admin/servers: the upstream servers of the configuration and of the database."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from bluesminds.accounts.servers import LOCKED, ServerChanges, Servers
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound, Unavailable
from bluesminds.common.values import Server
from bluesminds.config.settings import Priority, ServerName, Weight
from bluesminds.gateway.probe import ProbeResult
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.web.fields import Name, Secret
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route

ModelNames = Annotated[
    list[Name],
    Meta(description="a list of names of 1 to 100 characters without control characters"),
]


class NewServer(Struct, forbid_unknown_fields=True):
    name: ServerName
    url: str
    dialect: Literal["openai", "litellm", "anthropic", "gemini"] = "openai"
    api_key: Secret | None = None
    models: ModelNames = []
    weight: Weight = 1
    priority: Priority = 0


class ServerPatch(Struct, forbid_unknown_fields=True):
    """`api_key` null removes the key. An empty list of models means that the gateway discovers them."""

    url: str | UnsetType = UNSET
    api_key: Secret | UnsetType | None = UNSET
    models: ModelNames | UnsetType = UNSET
    weight: Weight | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET


class ServerView(Struct, frozen=True):
    """`state` is the result of the last health check; `unusable`: the API key cannot be decrypted.
    `models` are the configured ones; `model_count` includes discovered ones. `origin`: database, file,
    environment or built-in.
    """

    name: str
    dialect: str
    url: str
    has_api_key: bool
    models: list[str]
    weight: int
    priority: int
    origin: str
    state: Literal["up", "down", "unknown", "unusable"]
    model_count: int | None
    last_error: str | None


class ServerTestResult(Struct, frozen=True):
    """The result of a request for the model list of a server."""

    server: str
    ok: bool
    problem: str | None
    models: list[str] | None
    latency_ms: int


class ServerHandlers(Struct, frozen=True):
    """`now` lists all servers in use. `changed` is called after each change. `probe` tests one server."""

    servers: Servers
    now: Callable[[], Awaitable[list[Server]]]
    changed: Callable[[], Awaitable[None]]
    probe: Callable[[Server], Awaitable[ProbeResult]]
    status: Callable[[str], ServerStatus]

    async def list(self) -> Page[ServerView]:
        """List all servers."""
        rows = [_view(row, self.status(row.name)) for row in await self.now()]
        taken = {row.name for row in rows}
        rows += [
            _view(row, ServerStatus("unusable", None, LOCKED))
            for row in self.servers.locked
            if row.name not in taken
        ]
        return Page(rows)

    async def add(self, principal: Principal, body: NewServer) -> ServerView:
        """Add a server. It is used immediately."""
        server = _server(body)
        if any(row.name == server.name and row.origin != "table" for row in await self.now()):
            raise Conflict("server_exists", f"The configuration already has a server named {server.name}.")
        await self.servers.add(principal.actor, server)
        await self.changed()
        return _view(server, self.status(server.name))

    async def change(self, principal: Principal, name: str, body: ServerPatch) -> ServerView:
        """Change a server of the database. Omitted fields stay the same."""
        if body.url is not UNSET:
            _check_url(body.url)
        fields = structs.asdict(body)
        if body.models is not UNSET:
            fields["models"] = tuple(body.models)
        changed = await self.servers.update(principal.actor, name, ServerChanges(**fields))
        await self.changed()
        return _view(changed, self.status(name))

    async def remove(self, principal: Principal, name: str) -> None:
        """Remove a server. Running requests are completed."""
        await self.servers.remove(principal.actor, name)
        await self.changed()

    async def test(self, name: str) -> ServerTestResult:
        """Test a server: request its model list."""
        for server in await self.now():
            if server.name == name:
                if not server.url:
                    raise Unavailable(
                        "server_not_running", "The demo server only runs inside a running gateway."
                    )
                if (status := self.status(name)).state == "unusable":
                    return _test_result(ProbeResult(name, status.last_error, models=None, seconds=0.0))
                return _test_result(await self.probe(server))
        if any(server.name == name for server in self.servers.locked):
            return _test_result(ProbeResult(server=name, error=LOCKED, models=None, seconds=0.0))
        raise NotFound("server_not_found", f"There is no server named {name}.")


def routes(handlers: ServerHandlers) -> list[Route]:
    tag = "Servers"
    return [
        route("GET", "/api/admin/servers", Access.ADMIN, handlers.list, tag=tag),
        route("POST", "/api/admin/servers", Access.ADMIN, handlers.add, tag=tag, status=201),
        route("PATCH", "/api/admin/servers/{name}", Access.ADMIN, handlers.change, tag=tag),
        route("DELETE", "/api/admin/servers/{name}", Access.ADMIN, handlers.remove, tag=tag),
        route("POST", "/api/admin/servers/{name}/test", Access.ADMIN, handlers.test, tag=tag),
    ]


def _check_url(url: str) -> None:
    """Raises InvalidRequest."""
    try:
        UpstreamOrigin.parse(url)
    except ValueError as exc:
        raise InvalidRequest("invalid_url", f"{exc}.", param="url") from exc


def _server(new: NewServer) -> Server:
    _check_url(new.url)
    fields = structs.asdict(new) | {"models": tuple(new.models), "origin": "table"}
    return Server(**fields)


def _view(row: Server, status: ServerStatus) -> ServerView:
    return ServerView(
        name=row.name,
        dialect=row.dialect,
        url=row.url,
        has_api_key=row.api_key is not None,
        models=list(row.models),
        weight=row.weight,
        priority=row.priority,
        origin="built-in" if row.dialect == "demo" else "database" if row.origin == "table" else row.origin,
        state=status.state,
        model_count=status.model_count,
        last_error=status.last_error,
    )


def _test_result(result: ProbeResult) -> ServerTestResult:
    return ServerTestResult(
        server=result.server,
        ok=result.error is None,
        problem=result.error,
        models=None if result.models is None else [row.id for row in result.models],
        latency_ms=round(result.seconds * 1000),
    )
