"""What would be done with a request now: the functions of a request, without a request.

What depends on the request is left out: its size, its fields and the beginning of its prompt. `cheapest`
compares the prices of a million tokens in each direction.
"""

from typing import Final

from msgspec import Struct

from bluesminds.common.errors import GatewayError
from bluesminds.common.routes import NO_TRAITS, ModelRoute, RouteTraits
from bluesminds.common.values import Caller
from bluesminds.gateway.authorize import check_model, check_scope
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.catalog import ModelCatalog, PriceFinder
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.policies import Balancer, RoutedRequest, select_targets
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.selection import Dropped, check_candidates, find_candidates

MILLION: Final = 10**6  # tokens


class RouteQuestion(Struct, frozen=True):
    """`caller` is None for a key without restrictions. `traits`: for the conditions of routes."""

    operation: Operation
    model: str
    caller: Caller | None = None
    traits: RouteTraits = NO_TRAITS


class ExplainedModel(Struct, frozen=True):
    """`targets`: best first. `route` is None for a model without a route."""

    model: str
    route: ModelRoute | None
    targets: tuple[Target, ...]


class Explanation(Struct, frozen=True):
    """`models`: the requested model and its fallback models, in order. `ejected`: the servers among them that
    are unhealthy. `error`: what the request would get; None if it would be sent.
    """

    route: ModelRoute | None
    models: tuple[ExplainedModel, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    ejected: frozenset[str] = frozenset()
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
    return Explanation(route, found.models, found.dropped, ejected, found.error)


def _explain_unrouted(catalog: ModelCatalog, balancer: Balancer, question: RouteQuestion) -> Explanation:
    model, operation = question.model, question.operation
    offering = [server.name for server in catalog.servers_for(model)]
    try:
        targets = select_targets(catalog, operation, model, health=balancer.health, random=balancer.random)
    except GatewayError as exc:
        return Explanation(
            None, (), tuple(Dropped(model, name, "no_endpoint") for name in offering), error=exc
        )
    left = {target.server.name for target in targets}
    dropped = tuple(Dropped(model, name, "no_endpoint") for name in offering if name not in left)
    return Explanation(None, (ExplainedModel(model, None, tuple(targets)),), dropped)


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

    request = RoutedRequest(model, stream=True, price=price)
    preview = RoutedTargets(route, selection, balancer, request).preview()
    models = tuple(ExplainedModel(group.model, group.route, tuple(targets)) for group, targets in preview)
    return Explanation(route, models, selection.dropped)
