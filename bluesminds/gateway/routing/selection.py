"""Finds the targets for an operation on a model: those of the model, then those of its fallback models.

The functions are pure. `policies.py` orders the targets.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct

from bluesminds.common.errors import NotFound
from bluesminds.common.routes import ModelRoute, RouteTarget
from bluesminds.common.values import Server
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.plans import Target, make_plan

DropReason = Literal[
    "model_not_allowed",  # the API key may not use this fallback model
    "unknown_model",  # no server offers this fallback model
    "unknown_server",  # the server does not exist, or is not enabled
    "no_endpoint",  # the server does not have the endpoint, also not by translation
    "not_listed",  # the server does not list the model, and another target does
    "duplicate",  # an earlier model has the same target
    "unsupported",  # the server does not support a field of the request
]


class Dropped(Struct, frozen=True):
    """A target that is left out. `server` is "" if the whole model is."""

    model: str
    server: str
    reason: DropReason


class Candidate(Struct, frozen=True, gc=False):
    """A target with what the policies need. `name` identifies it in its route."""

    target: Target
    name: tuple[str, str]
    weight: int
    priority: int


class ModelCandidates(Struct, frozen=True):
    """The targets of one model, in no particular order. `route` is None for a model without a route."""

    model: str
    route: ModelRoute | None
    candidates: tuple[Candidate, ...]


class Selection(Struct, frozen=True):
    """`groups` has the requested model and its fallback models, in order, as far as they have targets."""

    groups: tuple[ModelCandidates, ...]
    dropped: tuple[Dropped, ...] = ()

    def targets(self) -> list[Target]:
        return [one.target for group in self.groups for one in group.candidates]

    def keep(self, targets: Sequence[Target]) -> "Selection":
        """The selection without the targets that do not support the request."""
        kept = {id(target) for target in targets}
        if len(kept) == sum(len(group.candidates) for group in self.groups):
            return self
        dropped = [
            Dropped(group.model, one.target.server.name, "unsupported")
            for group in self.groups
            for one in group.candidates
            if id(one.target) not in kept
        ]
        groups = [
            ModelCandidates(
                group.model, group.route, tuple(one for one in group.candidates if id(one.target) in kept)
            )
            for group in self.groups
        ]
        return Selection(tuple(group for group in groups if group.candidates), (*self.dropped, *dropped))

    def prefer_usable(self, usable: Callable[[str], bool]) -> "Selection":
        """Models whose servers are all ejected come last."""
        if len(self.groups) == 1:
            return self
        groups = sorted(
            self.groups, key=lambda group: not any(usable(one.target.server.name) for one in group.candidates)
        )
        return Selection(tuple(groups), self.dropped)


def select_candidates(
    catalog: ModelCatalog,
    route: ModelRoute,
    operation: Operation,
    model: str,
    *,
    may_use: Callable[[str], bool],
    prices: Container[str],
) -> Selection:
    """`route` is the route of `model`. `may_use`: whether the key may use a fallback model.

    Raises NotFound if no target is left. The result may be empty for an operation that the gateway can
    estimate.
    """
    groups: list[ModelCandidates] = []
    dropped: list[Dropped] = []
    taken: set[tuple[str, str]] = set()
    for name, its_route in _chain(catalog, model, route):
        if name != model and not may_use(name):
            dropped.append(Dropped(name, "", "model_not_allowed"))
            continue
        found: list[tuple[Candidate, bool]] = []
        for spec in _specs(catalog, name, its_route):
            candidate = _candidate(catalog, operation, spec, name, model, prices)
            if isinstance(candidate, str):
                dropped.append(Dropped(name, spec.server, candidate))
            elif (key := (spec.server, candidate.target.model or model)) in taken:
                dropped.append(Dropped(name, spec.server, "duplicate"))
            else:
                taken.add(key)
                found.append((candidate, bool(spec.model) or catalog.may_offer(spec.server, name)))
        if not found and not (its_route and its_route.targets):
            dropped.append(Dropped(name, "", "unknown_model"))
        listed = [candidate for candidate, is_listed in found if is_listed]
        if listed:
            dropped += [Dropped(name, one.name[0], "not_listed") for one, is_listed in found if not is_listed]
        if candidates := listed or [candidate for candidate, _ in found]:
            groups.append(ModelCandidates(name, its_route, tuple(candidates)))
    if not groups and not (operation.estimated and any(one.reason == "no_endpoint" for one in dropped)):
        raise _no_target(route, operation, model, dropped)
    return Selection(tuple(groups), tuple(dropped))


def _chain(catalog: ModelCatalog, model: str, route: ModelRoute) -> Iterator[tuple[str, ModelRoute | None]]:
    """The model and its fallback models, each once. The fallback models of a model follow it directly."""
    seen = {model}
    waiting: list[tuple[str, ModelRoute | None]] = [(model, route)]
    while waiting:
        name, its_route = waiting.pop()
        yield name, its_route
        if its_route is None or catalog.routes is None:
            continue
        new = [one for one in its_route.fallback if one not in seen]
        seen.update(new)
        waiting += [(one, catalog.routes.match(one)) for one in reversed(new)]


def _specs(catalog: ModelCatalog, model: str, route: ModelRoute | None) -> Iterable[RouteTarget]:
    if route is not None and route.targets:
        return route.targets
    return [RouteTarget(server.name) for server in catalog.servers_for(model)]


def _candidate(
    catalog: ModelCatalog,
    operation: Operation,
    spec: RouteTarget,
    name: str,
    requested: str,
    prices: Container[str],
) -> Candidate | DropReason:
    server = catalog.server(spec.server)
    if server is None:
        return "unknown_server"
    plan = make_plan(operation, server)
    if plan is None:
        return "no_endpoint"
    sent = spec.model or name
    serves = "" if name == requested else name
    target = Target(
        server,
        plan,
        model="" if sent == requested else sent,
        serves=serves,
        priced_as=spec.model if spec.model in prices else serves,
    )
    return Candidate(target, (spec.server, spec.model), *_weight_and_priority(spec, server))


def _weight_and_priority(spec: RouteTarget, server: Server) -> tuple[int, int]:
    return (
        server.weight if spec.weight is None else spec.weight,
        server.priority if spec.priority is None else spec.priority,
    )


def _no_target(route: ModelRoute, operation: Operation, model: str, dropped: Sequence[Dropped]) -> NotFound:
    shown = model[:200]
    if any(one.reason == "no_endpoint" for one in dropped):
        message = f"No server of the route of the model `{shown}` has the endpoint {operation.path}."
        return NotFound("unsupported_endpoint", message, param="model")
    if route.targets:
        message = f"The route of the model `{shown}` has no server that is available. Contact the operator."
    else:
        message = f"No server offers the model `{shown}`. GET /v1/models lists the available models."
    return NotFound("model_not_found", message, param="model")
