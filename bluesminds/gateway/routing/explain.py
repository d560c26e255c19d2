"""What would be done with a request now: the functions of a request, without a request.

What depends on the request is left out: its size, its fields and the beginning of its prompt. `cheapest`
compares the prices of a million tokens in each direction.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

from msgspec import Struct, structs

from bluesminds.common.errors import GatewayError
from bluesminds.common.routes import NO_TRAITS, ModelRoute, RouteTraits
from bluesminds.common.values import Caller, OwnKey
from bluesminds.gateway.authorize import check_model, check_scope
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.affinity import prompt_key
from bluesminds.gateway.routing.catalog import ModelCatalog, PriceFinder
from bluesminds.gateway.routing.own_keys import select_with_own
from bluesminds.gateway.routing.plans import Target, may_hedge
from bluesminds.gateway.routing.policies import Balancer, RoutedRequest, select_targets
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.selection import (
    Dropped,
    DropReason,
    check_candidates,
    find_candidates,
    find_own_targets,
    find_shadow_target,
)

MILLION: Final = 10**6  # tokens


class RouteQuestion(Struct, frozen=True):
    """`caller` is None for a key without restrictions. `traits`: for the conditions of routes. `regions`:
    those that the request prefers.
    """

    operation: Operation
    model: str
    caller: Caller | None = None
    traits: RouteTraits = NO_TRAITS
    regions: tuple[str, ...] = ()


class ExplainedModel(Struct, frozen=True):
    """`targets`: best first. `route` is None for a model without a route."""

    model: str
    route: ModelRoute | None
    targets: tuple[Target, ...]


class Explanation(Struct, frozen=True):
    """`models`: the requested model and its fallback models, in order. `ejected`: the servers among them that
    are unhealthy. `hedge`: the target that gets a stream too if its first content is late. `shadow`: the
    target of copies, or why it gets none; None for a route without one. `error`: what the request would get;
    None if it would be sent.
    """

    route: ModelRoute | None
    models: tuple[ExplainedModel, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    ejected: frozenset[str] = frozenset()
    hedge: Target | None = None
    shadow: Target | DropReason | None = None
    error: GatewayError | None = None


def explain(
    catalog: ModelCatalog, balancer: Balancer, find_price: PriceFinder, question: RouteQuestion
) -> Explanation:
    if question.caller is not None:
        try:
            check_scope(question.caller, question.operation.name)
            check_model(question.caller, question.model)
        except GatewayError as exc:
            return Explanation(None, error=exc)
    route = None if catalog.routes is None else catalog.routes.match(question.model, question.traits)
    if route is None:
        found = _explain_unrouted(catalog, balancer, question)
    else:
        found = _explain_route(catalog, balancer, find_price, question, route)
    ejected = frozenset(
        target.server.name
        for model in found.models
        for target in model.targets
        if not balancer.health.is_usable(target.server.name, target.model or question.model)
    )
    if route is None or found.error is not None or not found.models:
        return structs.replace(found, route=route, ejected=ejected)
    shadow: Target | DropReason | None = find_shadow_target(catalog, route.options, question.operation)
    if isinstance(shadow, Target) and question.caller is not None and question.caller.own_keys is not None:
        shadow = "own_key_only"
    hedge = None if route.options.hedge_after is None else _hedge_target(found.models[0], ejected)
    return structs.replace(found, ejected=ejected, hedge=hedge, shadow=shadow)


def _hedge_target(model: ExplainedModel, ejected: frozenset[str]) -> Target | None:
    first, *others = model.targets
    return next((one for one in others if may_hedge(first, one) and one.server.name not in ejected), None)


def _explain_unrouted(catalog: ModelCatalog, balancer: Balancer, question: RouteQuestion) -> Explanation:
    model, operation = question.model, question.operation
    own = () if question.caller is None else question.caller.own_keys or ()
    select = partial(select_with_own, own) if own else select_targets
    try:
        targets = select(catalog, operation, model, health=balancer.health, random=balancer.random)
    except GatewayError as exc:
        return Explanation(None, (), _left_out(catalog, operation, model, own, ()), error=exc)
    dropped = _left_out(catalog, operation, model, own, targets)
    return Explanation(None, (ExplainedModel(model, None, tuple(targets)),), dropped)


def _left_out(
    catalog: ModelCatalog,
    operation: Operation,
    model: str,
    own: Sequence[OwnKey],
    targets: Sequence[Target],
) -> tuple[Dropped, ...]:
    """What a model without a route has besides the targets."""
    found = find_own_targets(own, catalog, operation, model, None, names=(model,))
    reason: DropReason = "own_key_only" if found.exclusive else "no_endpoint"
    left = {target.server.name for target in targets}
    offering = [server.name for server in catalog.servers_for(model)]
    return (
        *(Dropped(model, server, why) for server, why in found.dropped),
        *(Dropped(model, name, reason) for name in offering if name not in left),
    )


def _explain_route(
    catalog: ModelCatalog,
    balancer: Balancer,
    find_price: PriceFinder,
    question: RouteQuestion,
    route: ModelRoute,
) -> Explanation:
    model = question.model
    allowed = None if question.caller is None else question.caller.models
    selection = find_candidates(
        catalog,
        route,
        question.operation,
        model,
        may_use=lambda name: allowed is None or name in allowed,
        traits=question.traits,
        own=() if question.caller is None else question.caller.own_keys or (),
    )
    try:
        check_candidates(selection, route, question.operation, model)
    except GatewayError as exc:
        return Explanation(route, (), selection.dropped, error=exc)

    def price(target: Target) -> int | None:
        served = target.serves or model
        sent = target.model or model
        found = find_price(target.server, sent, "" if sent == served else served)
        return None if found is None else found.max_cost(MILLION, MILLION)

    caller = question.caller
    request = RoutedRequest(
        model,
        stream=True,
        price=price,
        account_key=b"" if caller is None else prompt_key(caller.user_id, b""),
        regions=(*question.regions, *(() if caller is None else caller.prefer_regions)),
    )
    preview = RoutedTargets(route, selection, balancer, request).preview()
    models = tuple(ExplainedModel(group.model, group.route, tuple(targets)) for group, targets in preview)
    return Explanation(route, models, selection.dropped)
