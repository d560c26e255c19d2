"""Finds the targets for an operation on a model: those of the model, then those of its fallback models.

The functions are pure. `policies.py` orders the targets.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final, Literal

from msgspec import Struct, structs

from bluesminds.common.errors import NotFound
from bluesminds.common.routes import NO_TRAITS, ModelRoute, RouteOptions, RouteTarget, RouteTraits
from bluesminds.common.values import Caller, OwnKey, RequestContext, join_requirements
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.plans import Target, make_plan
from bluesminds.wire.base import FormatName

# Requests of other formats may store something at the server, so that a shadow gets no copies of them.
COPIED: Final[frozenset[FormatName]] = frozenset(("chat", "messages", "gemini", "completions", "embeddings"))
DropReason = Literal[
    "model_not_allowed",  # the API key may not use this fallback model
    "unknown_model",  # no server offers this fallback model
    "unknown_server",  # the server does not exist, or is off
    "draining",  # the server gets no new requests
    "requirement",  # the server does not have the region or the tags that the request requires
    "other_server",  # what the request refers to is at another server
    "no_endpoint",  # the server does not have the endpoint, also not by translation
    "not_listed",  # the server does not list the model, and another target does
    "duplicate",  # an earlier model has the same target
    "unsupported",  # the server does not support a field of the request
    "own_key_only",  # only a key of the user for a vendor is used: its mode, or a limit
]


class OwnTargets(Struct, frozen=True):
    """The targets of the caller's own keys that have a model, in the order of the keys. `exclusive`: the
    gateway's servers do not get the request. `dropped`: servers of own keys with the reason.
    """

    targets: Sequence[Target]
    exclusive: bool
    dropped: Sequence[tuple[str, DropReason]]


def find_own_targets(
    keys: Sequence[OwnKey],
    catalog: ModelCatalog,
    operation: Operation,
    requested: str,
    only: frozenset[str] | None,
    *,
    names: Sequence[str],
    serves: str = "",
) -> OwnTargets:
    """`names`: the model, and the names that servers of its route have for it. A key is used with the first
    of them that its vendor has. `requested`: the client's name.
    """
    targets: list[Target] = []
    dropped: list[tuple[str, DropReason]] = []
    exclusive = False
    for key in keys:
        sent = next((name for name in names if name in key.models), None)
        if sent is None:
            continue
        server = key.server
        exclusive = exclusive or key.mode == "only"
        plan = make_plan(operation, server)
        if catalog.required is not None and not catalog.required.allows(server):
            dropped.append((server.name, "requirement"))
        elif only is not None and server.name not in only:
            dropped.append((server.name, "other_server"))
        elif plan is None:
            dropped.append((server.name, "no_endpoint"))
        else:
            targets.append(Target(server, plan, model="" if sent == requested else sent, serves=serves))
    return OwnTargets(targets, exclusive, dropped)


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
    """The targets of one model, in no particular order. `route` is None for a model without a route.
    `context`: tokens that the model takes; None if unknown. `own`: those of the caller's own keys, which come
    first.
    """

    model: str
    route: ModelRoute | None
    candidates: tuple[Candidate, ...]
    context: int | None = None
    own: tuple[Candidate, ...] = ()

    @property
    def everything(self) -> tuple[Candidate, ...]:
        return (*self.own, *self.candidates) if self.own else self.candidates

    def filtered(self, keep: Callable[[Candidate], bool]) -> "ModelCandidates":
        return structs.replace(
            self, candidates=tuple(filter(keep, self.candidates)), own=tuple(filter(keep, self.own))
        )


class Selection(Struct, frozen=True):
    """`groups` has the requested model and its fallback models, in order, as far as they have targets."""

    groups: tuple[ModelCandidates, ...]
    dropped: tuple[Dropped, ...] = ()

    def targets(self) -> list[Target]:
        return [one.target for group in self.groups for one in group.everything]

    def keep(self, targets: Sequence[Target]) -> "Selection":
        """The selection without the targets that do not support the request."""
        kept = {id(target) for target in targets}
        if len(kept) == sum(len(group.everything) for group in self.groups):
            return self
        dropped = [
            Dropped(group.model, one.target.server.name, "unsupported")
            for group in self.groups
            for one in group.everything
            if id(one.target) not in kept
        ]
        groups = [group.filtered(lambda one: id(one.target) in kept) for group in self.groups]
        return Selection(tuple(group for group in groups if group.everything), (*self.dropped, *dropped))

    def prefer_usable(self, usable: Callable[[Target], bool]) -> "Selection":
        """Models whose servers are all ejected come last."""
        if len(self.groups) == 1:
            return self
        groups = sorted(
            self.groups, key=lambda group: not any(usable(one.target) for one in group.everything)
        )
        return Selection(tuple(groups), self.dropped)


def select_candidates(
    catalog: ModelCatalog,
    route: ModelRoute,
    operation: Operation,
    model: str,
    *,
    may_use: Callable[[str], bool],
    only: frozenset[str] | None = None,
    traits: RouteTraits = NO_TRAITS,
    own: Sequence[OwnKey] = (),
) -> Selection:
    """`route` is the route of `model`. `may_use`: whether the key may use a fallback model. `only`: the names
    of the servers that have what the request refers to. `traits`: for the routes of fallback models. `own`:
    the caller's keys for vendors.

    Raises NotFound if no target is left. The result may be empty for an operation that the gateway can
    estimate.
    """
    selection = find_candidates(
        catalog, route, operation, model, may_use=may_use, only=only, traits=traits, own=own
    )
    check_candidates(selection, route, operation, model)
    return selection


def find_candidates(
    catalog: ModelCatalog,
    route: ModelRoute,
    operation: Operation,
    model: str,
    *,
    may_use: Callable[[str], bool],
    only: frozenset[str] | None = None,
    traits: RouteTraits = NO_TRAITS,
    own: Sequence[OwnKey] = (),
) -> Selection:
    """As `select_candidates`, but the result may be empty."""
    search = _Search(catalog, operation, model, only, own)
    for name, its_route in _chain(catalog, model, route, traits):
        if name == model or may_use(name):
            search.add_model(name, its_route)
        else:
            search.dropped.append(Dropped(name, "", "model_not_allowed"))
    return Selection(tuple(search.groups), tuple(search.dropped))


def check_candidates(selection: Selection, route: ModelRoute, operation: Operation, model: str) -> None:
    """Raises NotFound if no target is left that the operation needs."""
    reasons = {one.reason for one in selection.dropped}
    if not selection.groups and not (operation.estimated and "no_endpoint" in reasons):
        raise _no_target(route, operation, model, reasons)


def caller_traits(caller: Caller, context: RequestContext | None = None) -> RouteTraits:
    """What is known before the body is read."""
    required = join_requirements((caller.required, None if context is None else context.required))
    return RouteTraits(
        tier=caller.tier,
        key_tags=caller.tags,
        regions=frozenset() if required is None else required.regions,
        tags=frozenset() if required is None else required.tags,
    )


def find_shadow_target(
    catalog: ModelCatalog, options: RouteOptions, operation: Operation
) -> Target | DropReason | None:
    """The target of copies, or why it cannot get any. None for a route without a shadow."""
    if options.shadow is None:
        return None
    server = catalog.server(options.shadow)
    if server is None:
        return "requirement" if options.shadow in catalog.excluded else "unknown_server"
    if server.mode == "draining":
        return "draining"
    plan = make_plan(operation, server)
    if plan is None or plan.translated or operation.format not in COPIED:
        return "no_endpoint"
    return Target(server, plan, options.shadow_model)


class _Search(Struct):
    """The targets that have been found for a request. `requested`: the client's name of the model."""

    catalog: ModelCatalog
    operation: Operation
    requested: str
    only: frozenset[str] | None
    own: Sequence[OwnKey]
    groups: list[ModelCandidates] = []
    dropped: list[Dropped] = []
    taken: set[tuple[str, str]] = set()  # server, and the name of the model that it gets

    def add_model(self, name: str, route: ModelRoute | None) -> None:
        """`route` is the route of the model."""
        own, exclusive = self._own_candidates(name, route) if self.own else ((), False)
        listed: list[Candidate] = []
        unlisted: list[Candidate] = []
        specs = route.targets if route is not None else ()
        for spec in specs or [
            RouteTarget(server.name)
            for server in self.catalog.servers_for(name, draining=self.only is not None)
        ]:
            found = "own_key_only" if exclusive else self._candidate(spec, name)
            if isinstance(found, str):
                self.dropped.append(Dropped(name, spec.server, found))
            else:
                known = bool(spec.model) or self.catalog.may_offer(spec.server, name)
                (listed if known else unlisted).append(found)
        if listed:
            self.dropped += [Dropped(name, one.name[0], "not_listed") for one in unlisted]
        elif not unlisted and not specs and not own:
            reason: DropReason = "requirement" if self.catalog.excluded else "unknown_model"
            self.dropped.append(Dropped(name, "", reason))
        candidates = tuple(listed or unlisted)
        if candidates or own:
            context = _context(self.catalog, name, candidates)
            self.groups.append(ModelCandidates(name, route, candidates, context, own))

    def _own_candidates(self, name: str, route: ModelRoute | None) -> tuple[tuple[Candidate, ...], bool]:
        """The targets of the caller's own keys, and whether the gateway's servers are left out."""
        found = find_own_targets(
            self.own,
            self.catalog,
            self.operation,
            self.requested,
            self.only,
            names=(name, *(spec.model for spec in (route.targets if route else ()) if spec.model)),
            serves="" if name == self.requested else name,
        )
        self.dropped += [Dropped(name, server, reason) for server, reason in found.dropped]
        own = []
        for target in found.targets:
            sent = target.model or self.requested
            if (target.server.name, sent) not in self.taken:
                self.taken.add((target.server.name, sent))
                own.append(Candidate(target, (target.server.name, sent), weight=1, priority=0))
        return tuple(own), found.exclusive

    def _candidate(self, spec: RouteTarget, name: str) -> Candidate | DropReason:
        server = self.catalog.server(spec.server)
        if server is None:
            return "requirement" if spec.server in self.catalog.excluded else "unknown_server"
        if self.only is None and server.mode == "draining":
            return "draining"
        if self.only is not None and spec.server not in self.only:
            return "other_server"
        plan = make_plan(self.operation, server)
        if plan is None:
            return "no_endpoint"
        sent = spec.model or name
        if (spec.server, sent) in self.taken:
            return "duplicate"
        self.taken.add((spec.server, sent))
        serves = "" if name == self.requested else name
        target = Target(
            server,
            plan,
            model="" if sent == self.requested else sent,
            serves=serves,
            prefill=spec.prefill,
        )
        return Candidate(
            target,
            name=(spec.server, spec.model),
            weight=server.weight if spec.weight is None else spec.weight,
            priority=server.priority if spec.priority is None else spec.priority,
        )


def _context(catalog: ModelCatalog, model: str, candidates: Iterable[Candidate]) -> int | None:
    rows = [catalog.model(one.name[1] or model) for one in candidates]
    return max((row.details.context_length or 0 for row in rows if row is not None), default=0) or None


def _chain(
    catalog: ModelCatalog, model: str, route: ModelRoute, traits: RouteTraits
) -> Iterator[tuple[str, ModelRoute | None]]:
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
        waiting += [(one, catalog.routes.match(one, traits)) for one in reversed(new)]


def _no_target(
    route: ModelRoute, operation: Operation, model: str, reasons: Container[DropReason]
) -> NotFound:
    shown = model[:200]
    if "other_server" in reasons:
        return object_server_missing(model)
    if "requirement" in reasons:
        return requirement_not_met(model)
    if "no_endpoint" in reasons:
        message = f"No server of the route of the model `{shown}` has the endpoint {operation.path}."
        return NotFound("unsupported_endpoint", message, param="model")
    if route.targets:
        message = f"The route of the model `{shown}` has no available server. Contact the operator."
    else:
        message = f"No server offers the model `{shown}`. GET /v1/models lists the available models."
    return NotFound("model_not_found", message, param="model")


def requirement_not_met(model: str) -> NotFound:
    message = f"No server with the required region and tags offers the model `{model[:200]}`."
    return NotFound("requirement_not_met", message, param="model")


def object_server_missing(model: str) -> NotFound:
    message = (
        "The request refers to a response or object at a server that does not offer the model "
        f"`{model[:200]}`, or is no longer configured."
    )
    return NotFound("object_server_missing", message, param="model")
