"""Reads and checks [[routes]] and [routes_short]."""

from collections.abc import Iterator
from typing import Final

from msgspec import structs

from bluesminds.common.routes import (
    WILDCARD,
    ModelRoute,
    RouteCondition,
    RouteKey,
    RouteOptions,
    RouteTarget,
    find_cycle,
)
from bluesminds.config.fields import display, nearest
from bluesminds.config.findings import Finding, Source
from bluesminds.config.settings import ConditionSettings, RouteSettings, Settings, TargetSettings

ROUTES: Final = "routes"
SHORT: Final = "routes_short"


def configured_routes(settings: Settings) -> list[ModelRoute]:
    """The routes of both forms. In the short form, the servers are tried in their order."""
    short = [
        ModelRoute(model, tuple(RouteTarget(name, priority=at) for at, name in enumerate(servers)))
        for model, servers in settings.routes_short.items()
    ]
    return [*(_route(row) for row in settings.routes), *short]


def _route(row: RouteSettings) -> ModelRoute:
    return ModelRoute(
        model=row.model,
        targets=tuple(_target(one) for one in row.targets or ()),
        policy=row.policy,
        fallback=row.fallback,
        fallback_on=row.fallback_on,
        when=read_condition(row.when),
        options=RouteOptions(
            first_token_timeout=row.first_token_timeout,
            chunk_timeout=row.chunk_timeout,
            recovery=row.recovery,
            repeat_accepted=row.repeat_accepted,
            queue_timeout=row.queue_timeout,
            queue_size=row.queue_size,
            hedge_after=row.hedge_after,
            hedge_share=row.hedge_share,
            hedge_daily_usd=row.hedge_daily_usd,
            shadow=row.shadow,
            shadow_model=row.shadow_model or "",
            shadow_share=row.shadow_share,
            shadow_daily_usd=row.shadow_daily_usd,
            prefer_regions=row.prefer_regions,
        ),
    )


def read_condition(given: ConditionSettings | None) -> RouteCondition | None:
    """None for a condition that always holds."""
    found = None if given is None else RouteCondition(**structs.asdict(given))
    return None if found == RouteCondition() else found


def _target(given: str | TargetSettings) -> RouteTarget:
    if isinstance(given, str):
        return RouteTarget(given)
    return RouteTarget(given.server, given.model or "", given.weight, given.priority, given.prefill)


def check_routes(settings: Settings) -> Iterator[Finding]:
    """Findings about duplicates, missing targets, unknown servers, and fallback models in a cycle."""
    routes = configured_routes(settings)
    sources: list[Source] = [(ROUTES, index) for index in range(len(settings.routes))]
    sources += [(SHORT, model) for model in settings.routes_short]
    servers = {server.name for server in settings.servers}
    first: dict[RouteKey, Source] = {}
    for source, route in zip(sources, routes, strict=True):
        earlier = first.setdefault(route.key, source)
        if earlier is not source:
            message = f"the model {display(route.model)} has more than one route" + (
                " with the same conditions" if route.when is not None else ""
            )
            yield Finding((source, earlier), message, "keep one of them")
        yield from _check_targets(source, route, servers)
        yield from _check_fallback(source, route)
    yield from _check_empty(settings)
    if (found := find_cycle(routes)) is not None:
        route, cycle = found
        message = f"fallback in {_title(route.model)} is a loop: {' -> '.join(cycle)}"
        remedy = "remove one of these models from a fallback, or give it a route without this fallback"
        yield Finding(((*sources[routes.index(route)], "fallback"),), message, remedy)


def _check_empty(settings: Settings) -> Iterator[Finding]:
    for index, row in enumerate(settings.routes):
        source: Source = (ROUTES, index)
        if row.targets == ():
            message = f"targets in {_title(row.model)} is empty"
            remedy = "name at least one server, or remove targets to use every server that offers the model"
            yield Finding(((*source, "targets"), source), message, remedy)
        elif _route(row) in (ModelRoute(row.model), ModelRoute(row.model, when=read_condition(row.when))):
            remedy = "add targets, a policy or a fallback, or remove the route"
            yield Finding((source,), f"{_title(row.model)} has no effect", remedy)
    for model, names in settings.routes_short.items():
        if names == ():
            message = f"{display(model)} in [{SHORT}] has no server"
            yield Finding(((SHORT, model),), message, f'write it like {display(model)} = "main"')


def _title(model: str) -> str:
    return f"[[{ROUTES}]] {display(model)}"


def _check_targets(source: Source, route: ModelRoute, servers: set[str]) -> Iterator[Finding]:
    short = source[0] == SHORT
    title = f"{display(route.model)} in [{SHORT}]" if short else f"targets in {_title(route.model)}"
    seen: set[tuple[str, str]] = set()
    for at, target in enumerate(route.targets):
        name = display(target.server)
        about = (source if short else (*source, "targets", at), source)
        if servers and target.server not in servers:  # without [[servers]], the environment may have them
            close = nearest(target.server, servers)
            remedy = f'did you mean "{close}"?' if close else f"add a [[servers]] entry named {name}"
            yield Finding(about, f"{title} names the server {name}, which is not configured", remedy)
        if (target.server, target.model) in seen:
            remedy = "keep one of them, or set a different model in each"
            yield Finding(about, f"{title} names the server {name} twice", remedy)
        seen.add((target.server, target.model))
    shadow = route.options.shadow
    if servers and shadow is not None and shadow not in servers:
        close = nearest(shadow, servers)
        remedy = f'did you mean "{close}"?' if close else f"add a [[servers]] entry named {display(shadow)}"
        message = (
            f"shadow in {_title(route.model)} names the server {display(shadow)}, which is not configured"
        )
        yield Finding(((*source, "shadow"), source), message, remedy)


def _check_fallback(source: Source, route: ModelRoute) -> Iterator[Finding]:
    about = ((*source, "fallback"), source)
    title = f"fallback in {_title(route.model)}"
    for at, name in enumerate(route.fallback):
        if WILDCARD in name:
            yield Finding(
                about, f"{title} contains {display(name)}, which is not the name of a model", "name one model"
            )
        elif name in route.fallback[:at]:
            yield Finding(about, f"{title} contains {display(name)} twice", "keep one of them")
