"""/api/admin/routes: the routes of the configuration and of the database."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from bluesminds.accounts.model_routes import RouteChanges, StoredRoutes, route_exists
from bluesminds.common.errors import Conflict, InvalidRequest, NotFound
from bluesminds.common.routes import (
    DEFAULT_OPTIONS,
    FALLBACK_ON,
    WILDCARD,
    FallbackReason,
    ModelRoute,
    Need,
    Policy,
    Prefill,
    Recovery,
    RouteOptions,
    RouteTarget,
    find_cycle,
)
from bluesminds.common.values import Server
from bluesminds.config.routes import read_condition
from bluesminds.config.settings import (
    Budget,
    CountOrZero,
    FallbackReasons,
    Regions,
    RouteConditions,
    RouteModel,
    Seconds,
    SecondsOrZero,
    ServerName,
    Share,
    TargetSettings,
)
from bluesminds.providers.vendors import VENDORS
from bluesminds.web.fields import Name
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route

Targets = Annotated[
    list[ServerName | TargetSettings],
    Meta(
        description="a list of server names, or of objects with server, model, weight, priority and prefill,"
        " or null for every server that offers the model",
        max_length=100,
    ),
]
_OPTIONS: Final = RouteOptions.__struct_fields__
FallbackModels = Annotated[list[Name], Meta(description="a list of names of models", max_length=20)]


class NewRoute(Struct, forbid_unknown_fields=True):
    """The fields are those of [[routes]]. `targets` null: every server that offers the model."""

    model: RouteModel
    targets: Targets | None = None
    policy: Policy = "priority"
    fallback: FallbackModels = []
    fallback_on: FallbackReasons = FALLBACK_ON
    when: RouteConditions | None = None
    first_token_timeout: Seconds | None = None
    chunk_timeout: Seconds | None = None
    recovery: Recovery = "restart"
    repeat_accepted: bool = True
    queue_timeout: SecondsOrZero | None = None
    queue_size: CountOrZero | None = None
    hedge_after: Seconds | None = None
    hedge_share: Share = 0.05
    hedge_daily_usd: Budget = "1"
    shadow: ServerName | None = None
    shadow_model: Annotated[str, Meta(max_length=256)] = ""
    shadow_share: Share = 0.05
    shadow_daily_usd: Budget = "1"
    prefer_regions: Regions = ()


class RoutePatch(Struct, forbid_unknown_fields=True):
    """Omitted fields stay the same. Null removes the conditions, sets a timeout to that of [upstream], or
    turns hedging or shadow traffic off.
    """

    model: RouteModel | UnsetType = UNSET
    targets: Targets | UnsetType | None = UNSET
    policy: Policy | UnsetType = UNSET
    fallback: FallbackModels | UnsetType = UNSET
    fallback_on: FallbackReasons | UnsetType = UNSET
    when: RouteConditions | UnsetType | None = UNSET
    first_token_timeout: Seconds | UnsetType | None = UNSET
    chunk_timeout: Seconds | UnsetType | None = UNSET
    recovery: Recovery | UnsetType = UNSET
    repeat_accepted: bool | UnsetType = UNSET
    queue_timeout: SecondsOrZero | UnsetType | None = UNSET
    queue_size: CountOrZero | UnsetType | None = UNSET
    hedge_after: Seconds | UnsetType | None = UNSET
    hedge_share: Share | UnsetType = UNSET
    hedge_daily_usd: Budget | UnsetType = UNSET
    shadow: ServerName | UnsetType | None = UNSET
    shadow_model: Annotated[str, Meta(max_length=256)] | UnsetType = UNSET
    shadow_share: Share | UnsetType = UNSET
    shadow_daily_usd: Budget | UnsetType = UNSET
    prefer_regions: Regions | UnsetType = UNSET


class TargetView(Struct, frozen=True):
    """`model` null: the server gets the client's name. `weight` and `priority` null: those of the server.
    `prefill` null: it does not continue answers.
    """

    server: str
    model: str | None
    weight: int | None
    priority: int | None
    prefill: Prefill | None


class ConditionView(Struct, frozen=True):
    """All parts must hold; an empty list always does."""

    tier: Sequence[str]
    key_tag: Sequence[str]
    region: Sequence[str]
    tag: Sequence[str]
    needs: Sequence[Need]
    prompt_tokens_over: int | None


class RouteView(Struct, frozen=True):
    """`targets` null: every server that offers the model. `when` null: no conditions. Timeouts and
    `queue_size` null: those of [upstream]. `hedge_after` null: requests are not hedged. `shadow` null:
    there is no shadow traffic. `origin`: file or database. Routes of the file can only be changed in the
    file.
    """

    id: str
    model: str
    targets: list[TargetView] | None
    policy: Policy
    fallback: Sequence[str]
    fallback_on: Sequence[FallbackReason]
    when: ConditionView | None
    first_token_timeout: float | None
    chunk_timeout: float | None
    recovery: Recovery
    repeat_accepted: bool
    queue_timeout: float | None
    queue_size: int | None
    hedge_after: float | None
    hedge_share: float
    hedge_daily_usd: str
    shadow: str | None
    shadow_model: str
    shadow_share: float
    shadow_daily_usd: str
    prefer_regions: Sequence[str]
    origin: str


class RouteHandlers(Struct, frozen=True):
    """`now` lists all routes in use, `list_servers` all servers, and `locked` those whose secrets cannot be
    decrypted. `changed` is called after each change.
    """

    stored: StoredRoutes
    now: Callable[[], Awaitable[Sequence[ModelRoute]]]
    changed: Callable[[], Awaitable[None]]
    list_servers: Callable[[], Awaitable[Sequence[Server]]]
    locked: Callable[[], Sequence[Server]]

    async def list(self) -> Page[RouteView]:
        """List all routes. For equal models, the first one applies."""
        return Page([_view(one) for one in await self.now()])

    async def add(self, principal: Principal, body: NewRoute) -> RouteView:
        """Add a route. It applies to new requests immediately."""
        new = ModelRoute(
            model=body.model,
            targets=_targets(body.targets),
            policy=body.policy,
            fallback=tuple(body.fallback),
            fallback_on=body.fallback_on,
            when=read_condition(body.when),
            options=RouteOptions(**{name: getattr(body, name) for name in _OPTIONS}),
        )
        await self._check(new, await self.now())
        added = await self.stored.add(principal.actor, new)
        await self.changed()
        return _view(added)

    async def change(self, principal: Principal, route_id: str, body: RoutePatch) -> RouteView:
        """Change a route of the database. Omitted fields stay the same."""
        routes = await self.now()
        before = _stored(routes, route_id)
        given = structs.asdict(body)
        if body.targets is not UNSET:
            given["targets"] = _targets(body.targets)
        if body.fallback is not UNSET:
            given["fallback"] = tuple(body.fallback)
        if body.when is not UNSET:
            given["when"] = read_condition(body.when)
        options = {name: value for name in _OPTIONS if (value := given.pop(name)) is not UNSET}
        if options:
            given["options"] = structs.replace(before.options, **options)
        changes = RouteChanges(**given)
        after = structs.replace(before, **changes.given())
        await self._check(after, [one for one in routes if one.id != route_id])
        changed = await self.stored.update(principal.actor, route_id, changes)
        await self.changed()
        return _view(changed)

    async def remove(self, principal: Principal, route_id: str) -> None:
        """Remove a route. Running requests are completed."""
        _stored(await self.now(), route_id)
        await self.stored.remove(principal.actor, route_id)
        await self.changed()

    async def _check(self, new: ModelRoute, others: Sequence[ModelRoute]) -> None:
        """Raises InvalidRequest, and Conflict for a model that has a route in the configuration."""
        servers = [*await self.list_servers(), *self.locked()]
        known = {one.name for one in servers}
        if not any(one.origin == "file" for one in servers):
            known |= VENDORS.keys()  # servers that the environment of the gateway defines
        if unknown := next((one.server for one in new.targets if one.server not in known), None):
            raise _invalid("targets", f"there is no server named {unknown}. Add the server first")
        if new.options.shadow is not None and new.options.shadow not in known:
            raise _invalid("shadow", f"there is no server named {new.options.shadow}. Add the server first")
        pairs = [(one.server, one.model) for one in new.targets]
        if len(set(pairs)) < len(pairs):
            raise _invalid(
                "targets", "a server is named twice. Set a different model in each target, or remove one"
            )
        if any(WILDCARD in name for name in new.fallback) or len(set(new.fallback)) < len(new.fallback):
            raise _invalid("fallback", "name each model once, without *")
        if not (new.targets or new.fallback or new.options != DEFAULT_OPTIONS or new.policy != "priority"):
            raise _invalid("targets", "this route has no effect. Set targets, a policy or a fallback")
        for other in others:
            if other.key == new.key and other.origin == "file":
                raise Conflict(
                    "read_only", f"The configuration has a route for `{new.model}`. Change it there."
                )
            if other.key == new.key:
                raise route_exists()
        if (found := find_cycle([*others, new])) is not None:
            raise _invalid("fallback", f"the fallback is a loop: {' -> '.join(found[1])}")


def routes(handlers: RouteHandlers) -> list[Route]:
    tag = "Routes"
    return [
        route("GET", "/api/admin/routes", Access.ADMIN, handlers.list, tag=tag),
        route("POST", "/api/admin/routes", Access.ADMIN, handlers.add, tag=tag, status=201),
        route("PATCH", "/api/admin/routes/{route_id}", Access.ADMIN, handlers.change, tag=tag),
        route("DELETE", "/api/admin/routes/{route_id}", Access.ADMIN, handlers.remove, tag=tag),
    ]


def _targets(given: list[str | TargetSettings] | None) -> tuple[RouteTarget, ...]:
    """Raises InvalidRequest."""
    if given == []:
        raise _invalid("targets", "name at least one server, or send null for every server with the model")
    return tuple(
        RouteTarget(one)
        if isinstance(one, str)
        else RouteTarget(one.server, one.model or "", one.weight, one.priority, one.prefill)
        for one in given or ()
    )


def _stored(routes: Sequence[ModelRoute], route_id: str) -> ModelRoute:
    """The route of the database. Raises NotFound, and Conflict for a route of the configuration."""
    for one in routes:
        if one.id == route_id:
            if one.origin == "file":
                message = "This route is in the configuration. Change it there, and run `bluesminds reload`."
                raise Conflict("read_only", message)
            return one
    message = "There is no route with this id. GET /api/admin/routes lists all routes."
    raise NotFound("route_not_found", message)


def _invalid(param: str, problem: str) -> InvalidRequest:
    return InvalidRequest("invalid_value", f"{param}: {problem}.", param=param)


def _view(row: ModelRoute) -> RouteView:
    return RouteView(
        id=row.id,
        model=row.model,
        targets=[
            TargetView(one.server, one.model or None, one.weight, one.priority, one.prefill)
            for one in row.targets
        ]
        or None,
        policy=row.policy,
        fallback=row.fallback,
        fallback_on=row.fallback_on,
        when=None if row.when is None else ConditionView(**structs.asdict(row.when)),
        first_token_timeout=row.options.first_token_timeout,
        chunk_timeout=row.options.chunk_timeout,
        recovery=row.options.recovery,
        repeat_accepted=row.options.repeat_accepted,
        queue_timeout=row.options.queue_timeout,
        queue_size=row.options.queue_size,
        hedge_after=row.options.hedge_after,
        hedge_share=row.options.hedge_share,
        hedge_daily_usd=row.options.hedge_daily_usd,
        shadow=row.options.shadow,
        shadow_model=row.options.shadow_model,
        shadow_share=row.options.shadow_share,
        shadow_daily_usd=row.options.shadow_daily_usd,
        prefer_regions=row.options.prefer_regions,
        origin="database" if row.origin == "table" else row.origin,
    )
