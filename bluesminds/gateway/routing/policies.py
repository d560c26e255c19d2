"""The order in which the targets of a model are tried. Usable servers come before ejected ones.

Targets of equal rank are shuffled by weight: one of weight 2 comes first twice as often as one of weight 1
(Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: sort by random^(1/weight)).
"""

import math
from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from bluesminds.common.errors import NotFound
from bluesminds.common.routes import Policy
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.affinity import load_bound, rendezvous_score
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.health import HealthView
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.plans import Target, make_plan
from bluesminds.gateway.routing.rotation import RotationRegistry
from bluesminds.gateway.routing.selection import (
    Candidate,
    ModelCandidates,
    object_server_missing,
    requirement_not_met,
)


def select_targets(
    catalog: ModelCatalog,
    operation: Operation,
    model: str,
    *,
    health: HealthView,
    random: Callable[[], float],
    load: LoadRegistry | None = None,
    only: frozenset[str] | None = None,
) -> Sequence[Target]:
    """The targets of a model without a route, best first: lower priority numbers first, then by weight.
    `load`: servers at a cap come last. `random` returns [0, 1). `only`: the names of the servers that have
    what the request refers to.

    Raises NotFound for an unknown model, and if no server of the model has the endpoint or is in `only`. The
    result may be empty for an operation that the gateway can estimate.
    """
    servers = catalog.servers_for(model, draining=only is not None)
    if not servers:
        raise _not_found(catalog, model)
    if only is not None:
        servers = [server for server in servers if server.name in only]
        if not servers:
            raise object_server_missing(model)
    targets = [
        Target(server, plan) for server in servers if (plan := make_plan(operation, server)) is not None
    ]
    if not targets and not operation.estimated:
        message = f"No server that offers the model `{model[:200]}` has the endpoint {operation.path}."
        raise NotFound("unsupported_endpoint", message, param="model")
    if len(targets) > 1:
        left_out = health.left_out([(one.server.name, model) for one in targets])

        def rank(target: Target) -> tuple[bool, bool, int, float]:
            server = target.server
            full = load is not None and load.is_full(server.name)
            weight = server.weight / 2 if health.is_slow_start(server.name, model) else server.weight
            return full, (server.name, model) in left_out, server.priority, -(random() ** (1 / weight))

        targets.sort(key=rank)
    return targets


class RoutedRequest(Struct, frozen=True):
    """What the policies use of a request. `model`: the client's name. `prompt_key` and `account_key`: of
    `affinity.prompt_key`. `regions`: those that the client prefers, the best one first. `price` is what a
    target would charge, in nano-USD; None if that is unknown.
    """

    model: str
    stream: bool
    price: Callable[[Target], int | None]
    prompt_key: bytes = b""
    account_key: bytes = b""
    regions: tuple[str, ...] = ()


class Balancer(Struct, frozen=True):
    """The state that the policies read: health, load and the rotations of routes. `random` returns [0, 1)."""

    health: HealthView
    load: LoadRegistry
    rotations: RotationRegistry
    random: Callable[[], float]

    def order(self, group: ModelCandidates, request: RoutedRequest, *, commit: bool = True) -> list[Target]:
        """Every target once, best first. With `commit`, the first one uses its turn in the rotation."""
        candidates = list(group.candidates)
        if len(candidates) > 1:
            left_out: frozenset[tuple[str, str]] = frozenset()
            if not self.health.flawless:
                candidates = [self._with_slow_start(one, request.model) for one in candidates]
                left_out = self.health.left_out([_served(one.target, request.model) for one in candidates])
            candidates = self._shuffled(candidates)
            usable: list[Candidate] = []
            ejected: list[Candidate] = []
            full: list[Candidate] = []
            for one in candidates:
                if self.load.capped and self.load.is_full(one.target.server.name):
                    full.append(one)
                else:
                    (ejected if _served(one.target, request.model) in left_out else usable).append(one)
            policy: Policy = "priority" if group.route is None else group.route.policy
            first = self._by_policy(policy, group, usable, request, commit=commit) if usable else []
            candidates = [*first, *sorted(ejected, key=_priority), *sorted(full, key=_priority)]
        if group.own:
            ejected = [
                one for one in group.own if not self.health.is_usable(*_served(one.target, request.model))
            ]
            candidates = [*(one for one in group.own if one not in ejected), *candidates, *ejected]
        return [one.target for one in candidates]

    def _with_slow_start(self, one: Candidate, model: str) -> Candidate:
        """Half of the weight of the others, if the server has recovered a moment ago."""
        slow = self.health.is_slow_start(*_served(one.target, model))
        return one if slow else structs.replace(one, weight=2 * one.weight)

    def _shuffled(self, candidates: list[Candidate]) -> list[Candidate]:
        random = self.random
        return sorted(candidates, key=lambda one: -(random() ** (1 / one.weight)))

    def _by_policy(
        self,
        policy: Policy,
        group: ModelCandidates,
        shuffled: list[Candidate],
        request: RoutedRequest,
        *,
        commit: bool,
    ) -> list[Candidate]:
        match policy:
            case "priority":
                ranked = sorted(shuffled, key=_priority)
                best = [one for one in ranked if one.priority == ranked[0].priority]
                return self._rotated(group, best, commit=commit) + ranked[len(best) :]
            case "weighted":
                return self._rotated(group, shuffled, commit=commit)
            case "least_latency":
                return self._faster_of_two(shuffled, request)
            case "least_busy":
                load = self.load
                return sorted(shuffled, key=lambda one: load.in_flight(one.target.server.name) / one.weight)
            case "cheapest":
                return sorted(shuffled, key=lambda one: _price(one, request))
            case "affinity":
                return self._by_prompt(shuffled, request)
            case "region":
                return _by_region(shuffled, group, request)
            case "pinned":
                return _ranked_by(request.account_key, shuffled) if request.account_key else shuffled

    def _rotated(self, group: ModelCandidates, shuffled: list[Candidate], *, commit: bool) -> list[Candidate]:
        """The one whose turn it is comes first. The others keep their random order, so that the requests of a
        failing server are shared by weight.
        """
        if group.route is None or len(shuffled) == 1:
            return shuffled
        weights = {one.name: one.weight for one in sorted(shuffled, key=_name)}
        turn = self.rotations.of(group.route.key).next(weights, commit=commit)
        return sorted(shuffled, key=lambda one: one.name != turn)

    def _faster_of_two(self, shuffled: list[Candidate], request: RoutedRequest) -> list[Candidate]:
        """Mitzenmacher, "The power of two choices in randomized load balancing", 2001."""

        def seconds(one: Candidate) -> float:
            target = one.target
            return self.load.expected_seconds(
                target.server.name, target.model or request.model, stream=request.stream
            )

        return [*sorted(shuffled[:2], key=seconds), *shuffled[2:]]

    def _by_prompt(self, shuffled: list[Candidate], request: RoutedRequest) -> list[Candidate]:
        """The order of the prompt's hash; targets above their share of the load come last."""
        if not request.prompt_key:
            return shuffled
        ranked = _ranked_by(request.prompt_key, shuffled)
        running = {one.name: self.load.in_flight(one.target.server.name) for one in ranked}
        total, weights = sum(running.values()), sum(one.weight for one in ranked)
        return sorted(ranked, key=lambda one: running[one.name] >= load_bound(total, one.weight, weights))


def _served(target: Target, model: str) -> tuple[str, str]:
    """The server, and its name of the model. `model`: the client's name."""
    return target.server.name, target.model or model


def _ranked_by(key: bytes, candidates: list[Candidate]) -> list[Candidate]:
    """The order of the key's hash."""
    return sorted(
        candidates, key=lambda one: rendezvous_score(key, "\0".join(one.name), one.weight), reverse=True
    )


def _by_region(
    candidates: list[Candidate], group: ModelCandidates, request: RoutedRequest
) -> list[Candidate]:
    """The regions that the request prefers, those that the route prefers, and the others. Within a region by
    priority.
    """
    preferred = (*request.regions, *(group.route.options.prefer_regions if group.route else ()))
    ranks = {region: at for at, region in reversed(tuple(enumerate(preferred)))}
    others = len(preferred)
    return sorted(candidates, key=lambda one: (ranks.get(one.target.server.region, others), one.priority))


def _priority(one: Candidate) -> int:
    return one.priority


def _name(one: Candidate) -> tuple[str, str]:
    return one.name


def _price(one: Candidate, request: RoutedRequest) -> float:
    price = request.price(one.target)
    return math.inf if price is None else price


def _not_found(catalog: ModelCatalog, model: str) -> NotFound:
    if catalog.excluded:
        return requirement_not_met(model)
    if not catalog.servers:
        message = (
            "No server is configured. Add one with `bluesminds servers add` or [[servers]] in gateway.toml."
        )
        return NotFound("model_not_found", message, param="model")
    message = f"No server offers the model `{model[:200]}`. GET /v1/models lists the available models."
    if catalog.unlisted:
        servers = "1 server" if catalog.unlisted == 1 else f"{catalog.unlisted} servers"
        message += f" {servers} listed no models and may be down."
    return NotFound("model_not_found", message, param="model")
