"""Admission of a request to a model: selects the servers that can serve it, and reserves what it may cost.

All of it is synchronous, so that no other request comes between the checks and the reservation.
"""

from collections.abc import Sequence
from functools import partial

from msgspec import Struct, structs

from bluesminds.common.errors import Forbidden, InsufficientCredit, RateLimited
from bluesminds.common.routes import NO_TRAITS, ModelRoute, RouteTraits
from bluesminds.common.values import Caller, OwnKey, RequestContext, join_requirements
from bluesminds.gateway.accounting import UsageAccounting, UsageEntry
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.limits.budget import LEAST_OUTPUT, StreamBudget, affordable_output
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.errors import no_price_error
from bluesminds.gateway.limits.reserve import RateLimiter, Reservation
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.affinity import prompt_key
from bluesminds.gateway.routing.catalog import ModelCatalog, ServerRegistry
from bluesminds.gateway.routing.own_keys import select_with_own
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.policies import Balancer, RoutedRequest, select_targets
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.selection import caller_traits, select_candidates
from bluesminds.gateway.upstream.shadow import find_shadow


class AdmittedRequest(Struct, frozen=True, gc=False):
    """`targets`: the servers to try, best first. `routed` is None for a model without a route."""

    entry: UsageEntry
    targets: Sequence[Target]
    routed: RoutedTargets | None


class Admission(Struct, frozen=True):
    """`refuse_unpriced`: models without a price cannot be used."""

    registry: ServerRegistry
    balancer: Balancer
    limiter: RateLimiter
    accounting: UsageAccounting
    refuse_unpriced: bool = False

    def admit(
        self, caller: Caller, call: Call, body: CallBody, only: frozenset[str] | None
    ) -> AdmittedRequest:
        """`only`: the servers that have what the request refers to. Raises NotFound and InvalidRequest if no
        server can serve the request, and what `RateLimiter.reserve` raises.
        """
        catalog = self.catalog(caller, call.context)
        route, traits = None, NO_TRAITS
        if catalog.routes is not None:
            if catalog.routes.conditional:
                traits = self._traits(caller, call, body)
            route = catalog.routes.match(call.model, traits)
        if route is None:
            routed = selection = None
            targets = self._select(catalog, call.operation, call.model, only, caller.own_keys)
            targets = self._choose(call, body, targets)
            if caller.own_keys is None:
                entry = self._reserve(caller, call, body, targets)
            else:
                targets, entry = self._reserve_with_own(caller, call, body, targets)
                entry.label = catalog.known_label(call.model)
        else:
            routed = self._select_routed(catalog, route, traits, caller, call, body, only)
            entry = self._reserve_routed(caller, call, body, routed)
            entry.label = catalog.label(call.model)
            targets, selection = routed.first(), routed.selection
        if entry.trail is not None:
            entry.trail.decide(catalog, call.operation, targets, selection, body, only)
        return AdmittedRequest(entry, targets, routed)

    def catalog(self, caller: Caller, context: RequestContext) -> ModelCatalog:
        """The servers that the caller may use for this request."""
        if caller.required is not None or context.required is not None:
            required = join_requirements((caller.required, context.required))
            if required is not None:
                return self.registry.restricted(required, keyless=bool(caller.address))
        return self.registry.keyless if caller.address else self.registry.catalog

    def select_for_session(
        self, operation: Operation, caller: Caller, context: RequestContext, model: str
    ) -> Sequence[Target]:
        """The servers to try for a session, best first. A session stays with its model, so that it has no
        fallback models. Raises NotFound.
        """
        catalog = self.catalog(caller, context)
        traits = caller_traits(caller, context)
        route = None if catalog.routes is None else catalog.routes.match(model, traits)
        if route is None:
            return self._select(catalog, operation, model, own=caller.own_keys)
        selection = select_candidates(
            catalog,
            structs.replace(route, fallback=()),
            operation,
            model,
            may_use=lambda _: False,
            own=caller.own_keys or (),
        )
        request = RoutedRequest(
            model,
            stream=True,
            price=partial(self._token_price, model, context.at_ms),
            account_key=prompt_key(caller.user_id, b""),
            regions=(*context.prefer_regions, *caller.prefer_regions),
        )
        return RoutedTargets(route, selection, self.balancer, request).first()

    def _select(
        self,
        catalog: ModelCatalog,
        operation: Operation,
        model: str,
        only: frozenset[str] | None = None,
        own: Sequence[OwnKey] | None = None,
    ) -> Sequence[Target]:
        """The targets of a model without a route. `own`: the caller's keys for vendors."""
        load = self.balancer.load if self.balancer.load.capped else None
        select = select_targets if own is None else partial(select_with_own, own)
        return select(
            catalog,
            operation,
            model,
            health=self.balancer.health,
            random=self.balancer.random,
            load=load,
            only=only,
        )

    def _token_price(self, model: str, at_ms: int, target: Target) -> int | None:
        """Of a million tokens in each direction, for a session whose length is not known."""
        price = self.accounting.estimator.price(target, model, at_ms)
        return None if price is None else price.max_cost(10**6, 10**6)

    def _traits(self, caller: Caller, call: Call, body: CallBody) -> RouteTraits:
        return structs.replace(
            caller_traits(caller, call.context),
            needs=body.needs(),
            prompt_tokens=self.accounting.estimator.input_tokens(call),
        )

    def _select_routed(
        self,
        catalog: ModelCatalog,
        route: ModelRoute,
        traits: RouteTraits,
        caller: Caller,
        call: Call,
        body: CallBody,
        only: frozenset[str] | None,
    ) -> RoutedTargets:
        """Raises NotFound and InvalidRequest if no target can serve the request."""
        estimator = self.accounting.estimator
        selection = select_candidates(
            catalog,
            route,
            call.operation,
            call.model,
            may_use=lambda model: caller.models is None or model in caller.models,
            only=only,
            traits=traits,
            own=caller.own_keys or (),
        )
        policies = {group.route.policy for group in selection.groups if group.route is not None}
        request = RoutedRequest(
            call.model,
            stream=call.facts.stream,
            price=lambda target: estimator.estimate(call, target).nano,
            prompt_key=prompt_key(caller.user_id, body.prompt_prefix()) if "affinity" in policies else b"",
            account_key=prompt_key(call.account, b"") if "pinned" in policies else b"",
            regions=(*call.context.prefer_regions, *caller.prefer_regions) if "region" in policies else (),
        )
        if selection.groups:
            selection = selection.keep(self._choose(call, body, selection.targets()))
        routed = RoutedTargets(route, selection, self.balancer, request)
        if route.options.shadow is not None and only is None and caller.own_keys is None:
            routed.shadow = find_shadow(catalog, route.options, call, selection)
        return routed

    def _choose(self, call: Call, body: CallBody, targets: Sequence[Target]) -> Sequence[Target]:
        forecast = partial(self.accounting.estimator.forecast, call)
        return body.choose(targets, at_ms=call.context.at_ms, forecast=forecast)

    def _reserve(
        self, caller: Caller, call: Call, body: CallBody, targets: Sequence[Target], *, lower: bool = True
    ) -> UsageEntry:
        """Reserve for the most expensive target. Raises what `RateLimiter.reserve` raises."""
        recorder = self.accounting.recorder
        recorder.check_capacity(strict=self.accounting.strict)
        estimate = self.accounting.estimator.dearest(call, targets)
        free = bool(caller.address) or call.operation.estimated
        if estimate.nano is None and self.refuse_unpriced and not free:
            raise no_price_error(call.model)
        try:
            reservation = self.limiter.reserve(caller, estimate, call.model)
        except (RateLimited, InsufficientCredit):
            lowered = self._lower_output(caller, call, estimate) if lower else None
            if lowered is None or not body.bound(lowered):
                raise
            call = structs.replace(call, facts=structs.replace(call.facts, max_output=lowered))
            estimate = self.accounting.estimator.dearest(call, targets)
            reservation = self.limiter.reserve(caller, estimate, call.model)
            entry = self._open(caller, call, reservation, estimate)
            entry.lowered_output = lowered
            return entry
        return self._open(caller, call, reservation, estimate)

    def _open(self, caller: Caller, call: Call, reservation: Reservation, estimate: Estimate) -> UsageEntry:
        self.accounting.recorder.reserve()
        entry = self.accounting.open(caller, call, reservation)
        if reservation.has_budget and call.facts.stream and estimate.price is not None:
            entry.budget = StreamBudget(
                reservation, estimate.price, estimate.input, estimate.output, call.markup
            )
        return entry

    def _lower_output(self, caller: Caller, call: Call, estimate: Estimate) -> int | None:
        """The output tokens of one answer that the money covers; None if it is not the money that lacks, or
        if it covers less than LEAST_OUTPUT.
        """
        left = self.limiter.money_left(caller)
        if left is None or estimate.price is None or (estimate.nano or 0) <= left:
            return None
        tokens = affordable_output(estimate.price, estimate.input, left, call.markup)
        tokens //= call.facts.choices
        return tokens if tokens >= LEAST_OUTPUT else None

    def _reserve_routed(
        self, caller: Caller, call: Call, body: CallBody, routed: RoutedTargets
    ) -> UsageEntry:
        """Fallback models that the limits do not allow are given up, before the length is lowered. So are the
        gateway's servers, if the caller has own keys.
        """
        while True:
            targets = routed.targets()
            only = len({target.serves for target in targets}) < 2
            if caller.own_keys is not None:
                only = only and all(target.server.is_own for target in targets)
            try:
                return self._reserve(caller, call, body, targets, lower=only)
            except (RateLimited, Forbidden, InsufficientCredit):
                if routed.drop_last_model():
                    continue
                if caller.own_keys is None or not routed.keep_own():
                    raise

    def _reserve_with_own(
        self, caller: Caller, call: Call, body: CallBody, targets: Sequence[Target]
    ) -> tuple[Sequence[Target], UsageEntry]:
        """The targets, and the entry. Of a request that the limits do not allow, only the caller's own keys
        are left: they cost nothing here.
        """
        own = [target for target in targets if target.server.is_own]
        mixed = bool(own) and len(own) < len(targets)
        try:
            return targets, self._reserve(caller, call, body, targets, lower=not mixed)
        except (RateLimited, Forbidden, InsufficientCredit):
            if not mixed:
                raise
        return own, self._reserve(caller, call, body, own)
