"""/api/admin/servers: the upstream servers of the configuration and of the database."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from bluesminds.accounts.servers import LOCKED, MAX_KEYS, ServerChanges, Servers, check_keys
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound, Unavailable
from bluesminds.common.server_headers import MAX_HEADERS, check_headers
from bluesminds.common.server_urls import endpoint_in
from bluesminds.common.values import DEFAULT_SERVER_OPTIONS, Server, ServerMode, ServerOptions
from bluesminds.config.settings import (
    CountOrZero,
    OnDisconnect,
    Priority,
    Region,
    RelayPaths,
    Seconds,
    ServerName,
    Tags,
    Tokens,
    VendorName,
    Weight,
)
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.gateway.routing.server_keys import ServerKeyStatus
from bluesminds.gateway.server_test import ServerTest, StepName
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.providers.profiles import find_profile, profile_of
from bluesminds.providers.vendors import resolve
from bluesminds.web.fields import Name, Secret
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route

ModelNames = Annotated[
    list[Name],
    Meta(description="a list of names of 1 to 100 characters without control characters"),
]


AddedDialect = Annotated[
    Literal["openai", "azure", "litellm", "anthropic", "gemini"],
    Meta(description='one of "openai", "azure", "litellm", "anthropic", "gemini"'),
]
Version = Annotated[
    str, Meta(pattern=r"^[0-9A-Za-z.-]{0,40}\Z", description='a version of Azure\'s API, or ""')
]
ServerHeaders = Annotated[
    dict[str, str], Meta(description="an object of header names and values", max_length=MAX_HEADERS)
]


ApiKeys = Annotated[list[Secret], Meta(description=f"a list of at most {MAX_KEYS} API keys")]


class NewServer(Struct, forbid_unknown_fields=True):
    """`url` and `dialect` follow from `vendor`; without a vendor, `url` is needed. Several `api_keys` are
    used in turn; give either these or one `api_key`.
    """

    name: ServerName
    vendor: VendorName | None = None
    url: str | None = None
    dialect: AddedDialect | None = None
    api_key: Secret | None = None
    api_keys: ApiKeys = []
    api_version: Version = ""
    headers: ServerHeaders = {}
    models: ModelNames = []
    weight: Weight = 1
    priority: Priority = 0
    passthrough: bool = False
    passthrough_paths: RelayPaths = ()
    region: Region | None = None
    tags: Tags = ()
    mode: ServerMode = "active"
    max_concurrency: CountOrZero = 0
    rpm: CountOrZero = 0
    connect_timeout: Seconds | None = None
    first_token_timeout: Seconds | None = None
    first_byte_timeout: Seconds | None = None
    chunk_timeout: Seconds | None = None
    total_timeout: Seconds | None = None
    on_disconnect: OnDisconnect = "cancel"
    drain_seconds: Seconds | None = None
    drain_tokens: Tokens | None = None


class ServerPatch(Struct, forbid_unknown_fields=True):
    """`api_key` replaces all keys, and null removes them; `api_keys` replaces them by several. `headers`
    replaces all headers. An empty list of models means that the gateway discovers them.
    """

    url: str | UnsetType = UNSET
    api_key: Secret | UnsetType | None = UNSET
    api_keys: ApiKeys | UnsetType = UNSET
    api_version: Version | UnsetType = UNSET
    headers: ServerHeaders | UnsetType = UNSET
    models: ModelNames | UnsetType = UNSET
    weight: Weight | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    passthrough: bool | UnsetType = UNSET
    passthrough_paths: RelayPaths | UnsetType = UNSET
    region: Region | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    mode: ServerMode | UnsetType = UNSET
    max_concurrency: CountOrZero | UnsetType = UNSET
    rpm: CountOrZero | UnsetType = UNSET
    connect_timeout: Seconds | UnsetType | None = UNSET
    first_token_timeout: Seconds | UnsetType | None = UNSET
    first_byte_timeout: Seconds | UnsetType | None = UNSET
    chunk_timeout: Seconds | UnsetType | None = UNSET
    total_timeout: Seconds | UnsetType | None = UNSET
    on_disconnect: OnDisconnect | UnsetType = UNSET
    drain_seconds: Seconds | UnsetType | None = UNSET
    drain_tokens: Tokens | UnsetType | None = UNSET


class NewServerKey(Struct, forbid_unknown_fields=True):
    api_key: Secret


class ServerKeyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    last_four: Annotated[str, Meta(max_length=4, description="the last four characters of the key")]


class ServerKeyView(Struct, frozen=True):
    """One of the API keys of a server. `last_four` is empty for a key of less than twelve characters. A key
    that the server has refused or limited is `resting` for `seconds`: others are used. `reason`: of its last
    failure, null after a success.
    """

    last_four: str
    state: Literal["active", "resting"]
    seconds: float
    reason: str | None


class ServerView(Struct, frozen=True):
    """`state` is the result of the last health check; `unusable`: the API key cannot be decrypted. A server
    whose `mode` is off is not checked. `models` are the configured ones; `model_count` includes discovered
    ones. `origin`: database, file, environment or built-in. `vendor` is null if it is not known. `headers`
    has only the names. Times are seconds; null is that of the settings.
    """

    name: str
    vendor: str | None
    dialect: str
    url: str
    has_api_key: bool
    api_keys: list[ServerKeyView]
    api_version: str | None
    headers: list[str]
    models: list[str]
    weight: int
    priority: int
    passthrough: bool
    passthrough_paths: list[str]
    region: str | None
    tags: list[str]
    mode: ServerMode
    max_concurrency: int
    rpm: int
    connect_timeout: float | None
    first_token_timeout: float | None
    first_byte_timeout: float | None
    chunk_timeout: float | None
    total_timeout: float | None
    on_disconnect: OnDisconnect
    drain_seconds: float | None
    drain_tokens: int | None
    origin: str
    state: Literal["up", "down", "unknown", "unusable"]
    model_count: int | None
    last_error: str | None


class ServerTestQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: for the completion. Without it, one of the server's models is used."""

    model: Annotated[str, Meta(max_length=256, description="the server's name of a model")] | None = None


class TestStepView(Struct, frozen=True):
    """`message` says what was found, or what is wrong. `ms`: milliseconds."""

    name: StepName
    ok: bool
    ms: int
    message: str


class ServerTestResult(Struct, frozen=True):
    """The steps up to the first one that failed. `problem`: its message; null if the server works. `models`
    are null if they were not listed. `latency_ms` is the sum of all steps.
    """

    server: str
    ok: bool
    problem: str | None
    models: list[str] | None
    latency_ms: int
    steps: list[TestStepView]


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
        return _view(row, status or self.status(row.name), self.key_status(row))

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
                message = (
                    f"The server {name} is in the configuration. Change "
                    "it there, and run `bluesminds reload`."
                )
                raise Conflict("read_only", message)

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
                    return _failed_test(name, status.last_error or "")
                return _test_result(await self.run_test(server, query.model))
        if any(server.name == name for server in self.servers.locked):
            return _failed_test(name, LOCKED)
        raise NotFound("server_not_found", f"There is no server named {name}.")


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


def key_views(statuses: Sequence[ServerKeyStatus]) -> list[ServerKeyView]:
    return [
        ServerKeyView(one.last_four, one.state, round(one.seconds, 3), one.reason or None) for one in statuses
    ]


def _view(row: Server, status: ServerStatus, keys: Sequence[ServerKeyStatus]) -> ServerView:
    vendor = profile_of(row).vendor
    return ServerView(
        name=row.name,
        vendor=None if vendor is None else vendor.name,
        dialect=row.dialect,
        url=row.url,
        has_api_key=row.api_key is not None,
        api_keys=key_views(keys),
        api_version=row.api_version or None,
        headers=[name for name, _ in row.headers],
        models=list(row.models),
        weight=row.weight,
        priority=row.priority,
        passthrough=row.passthrough,
        passthrough_paths=list(row.passthrough_paths),
        region=row.region or None,
        tags=list(row.tags),
        mode=row.mode,
        max_concurrency=row.max_concurrency,
        rpm=row.rpm,
        **structs.asdict(row.options or DEFAULT_SERVER_OPTIONS),
        origin="built-in" if row.dialect == "demo" else "database" if row.origin == "table" else row.origin,
        state=status.state,
        model_count=status.model_count,
        last_error=status.last_error,
    )


def _failed_test(server: str, problem: str) -> ServerTestResult:
    return ServerTestResult(server, ok=False, problem=problem, models=None, latency_ms=0, steps=[])


def step_views(result: ServerTest) -> list[TestStepView]:
    return [
        TestStepView(step.name, step.ok, round(step.seconds * 1000), step.message) for step in result.steps
    ]


def _test_result(result: ServerTest) -> ServerTestResult:
    problem = next((step.message for step in result.steps if not step.ok), None)
    steps = step_views(result)
    return ServerTestResult(
        server=result.server,
        ok=problem is None,
        problem=problem,
        models=None if result.models is None else [row.id for row in result.models],
        latency_ms=sum(step.ms for step in steps),
        steps=steps,
    )
