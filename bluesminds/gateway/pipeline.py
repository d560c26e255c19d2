"""The request pipeline: authenticate, read, authorize, route, reserve, send, relay, settle.

`Gateway.handle` either writes a complete response, or raises a GatewayError before the first byte. An
admitted request is settled exactly once, also if it is cancelled. The last byte of a response is sent after
its usage row is durable.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio
from msgspec import Struct, structs

from bluesminds.common.errors import Forbidden, GatewayError, InsufficientCredit, NotFound, RateLimited
from bluesminds.common.routes import NO_TRAITS, ModelRoute, RouteTraits
from bluesminds.common.values import Caller, OwnKey, RequestContext, join_requirements
from bluesminds.gateway.accounting import UsageAccounting, UsageEntry
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.authorize import check_model
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.call import Call, CallBody, JsonBody, read_call, receive_body
from bluesminds.gateway.limits.budget import LEAST_OUTPUT, StreamBudget, affordable_output
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.errors import no_price_error
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.limits.reserve import RateLimiter, Reservation
from bluesminds.gateway.observer import CLIENT_GONE
from bluesminds.gateway.operations import Operation, OperationMatch
from bluesminds.gateway.prompt_log import PromptLog
from bluesminds.gateway.recovery import StreamRecovery, may_recover
from bluesminds.gateway.relay import Relay, handle_total_timeout, settle_failure
from bluesminds.gateway.response_cache import CacheLookup, ResponseCache, send_cached
from bluesminds.gateway.response_writer import Headers, ResponseWriter
from bluesminds.gateway.routing.affinity import prompt_key
from bluesminds.gateway.routing.catalog import ModelCatalog, ServerRegistry
from bluesminds.gateway.routing.own_keys import select_with_own, with_own_models
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.policies import Balancer, RoutedRequest, select_targets
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.selection import caller_traits, select_candidates
from bluesminds.gateway.stored_responses.links import RequestLinks
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.gateway.upstream.shadow import ShadowTraffic, find_shadow
from bluesminds.wire.conversation import NO_LINKS
from bluesminds.wire.models import ModelRow

T = TypeVar("T")


class Gateway(Struct, frozen=True):
    """`total_timeout`: seconds for one request, from its head to the last byte of its response.
    `refuse_unpriced`: models without a price cannot be used. `cache` is None if responses are not cached,
    `prompts` if no prompts are kept.
    """

    keys: KeyAuthenticator
    registry: ServerRegistry
    balancer: Balancer
    limiter: RateLimiter
    sender: Sender
    relay: Relay
    accounting: UsageAccounting
    links: RequestLinks
    shadow: ShadowTraffic
    total_timeout: float
    refuse_unpriced: bool = False
    cache: ResponseCache | None = None
    prompts: PromptLog | None = None

    async def handle(
        self,
        match: OperationMatch,
        context: RequestContext,
        source: Body,
        out: ResponseWriter,
    ) -> None:
        """Serve an operation that calls a model. Raises GatewayError only while nothing has been written."""
        caller = call = linked = lookup = prompt = None
        try:
            changes = self.keys.changes
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            if caller.address:
                self.limiter.check_exhausted(caller)  # before megabytes of an unknown client are read
            form = None
            if match.operation.body == "json":
                await source.read()
            else:
                form = await receive_body(match, source)
            if self.keys.changes != changes:  # a key may be revoked while its body is being read
                caller = await self.keys.authenticate(context)
                self.keys.authorize_use(caller, context)
            if source.data and self.links.concerns(match.operation, caller, source):
                linked = await self.links.resolve(match.operation, caller, source)
            call, body = read_call(context, match, caller, source, form, linked)
            check_model(caller, call.model)
            if caller.logs_prompts and self.prompts is not None and source.data:
                prompt = self.prompts.begin(caller, call, source.data)
                out = prompt.writer(out)
            if self.cache is not None:
                alone = linked is None or (linked.servers is None and linked.links == NO_LINKS)
                lookup = self.cache.look_up(caller, call, body, linked=not alone)
            catalog = self._catalog(caller, context)
            route, traits = None, NO_TRAITS
            if catalog.routes is not None:
                if catalog.routes.conditional:
                    traits = self._traits(caller, call, body)
                route = catalog.routes.match(call.model, traits)
            only = None if linked is None else linked.servers
            if route is None:
                routed = None
                targets = self._select(catalog, match.operation, call.model, only, caller.own_keys)
                targets = self._choose(call, body, targets)
                if caller.own_keys is None:
                    entry = self._admit(caller, call, body, targets)
                else:
                    targets, entry = self._admit_with_own(caller, call, body, targets)
                    entry.label = catalog.known_label(call.model)
                call = entry.call
            else:
                routed = self._select_routed(catalog, route, traits, caller, call, body, only)
                entry = self._admit_routed(caller, call, body, routed)
                call = entry.call
                entry.label = catalog.label(call.model)
                targets = routed.first()
            if entry.trail is not None:
                selection = None if routed is None else routed.selection
                entry.trail.decide(catalog, match.operation, targets, selection, body, only)
        except BaseException as exc:
            model = "" if call is None else call.model
            self.accounting.observer.record_failure(context, caller, exc, model=model)
            if linked is not None:
                linked.release()
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(self.limiter.headers(caller))) from None
            raise
        try:
            if lookup is None:
                await self._exchange(call, body, targets, routed, entry, out)
            else:
                await self._exchange_cached(lookup, call, body, targets, routed, entry, out)
        except GatewayError as exc:
            error = await settle_failure(entry, exc)
            raise error.with_headers(as_text(self.relay.headers(entry))) from None
        except Exception:
            entry.close(*((CLIENT_GONE, "client_gone") if out.gone else (500, "internal")))
            raise
        finally:
            entry.close(CLIENT_GONE, "client_gone" if out.gone else "interrupted")
            if prompt is not None:
                prompt.close()
            if linked is not None:
                linked.release()

    def select_for_session(
        self, operation: Operation, caller: Caller, context: RequestContext, model: str
    ) -> Sequence[Target]:
        """The servers to try for a session, best first. A session stays with its model, so that it has no
        fallback models. Raises NotFound.
        """
        catalog = self._catalog(caller, context)
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

    async def list_models(self, context: RequestContext) -> tuple[Sequence[ModelRow], Headers]:
        """GET /v1/models: the models that the key may use, by name, and the rate headers."""

        def find(catalog: ModelCatalog, caller: Caller) -> Sequence[ModelRow]:
            rows, allowed = catalog.models(), caller.models
            if caller.own_keys is not None:
                rows = with_own_models(rows, caller.own_keys)
            return rows if allowed is None else [row for row in rows if row.id in allowed]

        return await self._look_up(context, find)

    async def find_model(self, context: RequestContext, name: str) -> tuple[ModelRow, Headers]:
        """GET /v1/models/{id}. Raises NotFound, also for a model that the key may not use."""

        def find(catalog: ModelCatalog, caller: Caller) -> ModelRow:
            row = catalog.model(name)
            if row is None and caller.own_keys is not None:
                row = next((one for one in with_own_models((), caller.own_keys) if one.id == name), None)
            if row is None or not (caller.models is None or name in caller.models):
                message = f"No server offers the model `{name[:200]}`."
                raise NotFound("model_not_found", message, param="model")
            return row

        return await self._look_up(context, find)

    def reject(self, context: RequestContext, error: GatewayError) -> None:
        """Record a request that matches no operation."""
        self.accounting.observer.record_failure(context, None, error)

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

    def _admit(
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

    def _admit_routed(self, caller: Caller, call: Call, body: CallBody, routed: RoutedTargets) -> UsageEntry:
        """Fallback models that the limits do not allow are given up, before the length is lowered. So are the
        gateway's servers, if the caller has own keys.
        """
        while True:
            targets = routed.targets()
            only = len({target.serves for target in targets}) < 2
            if caller.own_keys is not None:
                only = only and all(target.server.is_own for target in targets)
            try:
                return self._admit(caller, call, body, targets, lower=only)
            except (RateLimited, Forbidden, InsufficientCredit):
                if routed.drop_last_model():
                    continue
                if caller.own_keys is None or not routed.keep_own():
                    raise

    def _admit_with_own(
        self, caller: Caller, call: Call, body: CallBody, targets: Sequence[Target]
    ) -> tuple[Sequence[Target], UsageEntry]:
        """The targets, and the entry. Of a request that the limits do not allow, only the caller's own keys
        are left: they cost nothing here.
        """
        own = [target for target in targets if target.server.is_own]
        mixed = bool(own) and len(own) < len(targets)
        try:
            return targets, self._admit(caller, call, body, targets, lower=not mixed)
        except (RateLimited, Forbidden, InsufficientCredit):
            if not mixed:
                raise
        return own, self._admit(caller, call, body, own)

    async def _look_up(
        self, context: RequestContext, find: Callable[[ModelCatalog, Caller], T]
    ) -> tuple[T, Headers]:
        caller = None
        try:
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            found = find(self._catalog(caller, context), caller)
        except BaseException as exc:
            self.accounting.observer.record_failure(context, caller, exc)
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(self.limiter.headers(caller))) from None
            raise
        self.accounting.observer.record_rejection(context, 200, key_id=caller.key_id)
        return found, self.limiter.headers(caller)

    def _catalog(self, caller: Caller, context: RequestContext) -> ModelCatalog:
        if caller.required is not None or context.required is not None:
            required = join_requirements((caller.required, context.required))
            if required is not None:
                return self.registry.restricted(required, keyless=bool(caller.address))
        return self.registry.keyless if caller.address else self.registry.catalog

    def _traits(self, caller: Caller, call: Call, body: CallBody) -> RouteTraits:
        return structs.replace(
            caller_traits(caller, call.context),
            needs=body.needs(),
            prompt_tokens=self.accounting.estimator.input_tokens(call),
        )

    async def _exchange_cached(
        self,
        lookup: CacheLookup,
        call: Call,
        body: CallBody,
        targets: Sequence[Target],
        routed: RoutedTargets | None,
        entry: UsageEntry,
        out: ResponseWriter,
    ) -> None:
        found = None
        try:
            with trio.CancelScope(deadline=call.context.started + self.total_timeout) as scope:
                out.on_gone(scope.cancel)
                found = await lookup.find()
                if found is not None:
                    body.release()
                    await send_cached(found, entry, self.relay.headers(entry), out)
            if found is None and not out.gone:
                await self._exchange(call, body, targets, routed, entry, lookup.record(out))
        finally:
            lookup.close(complete=found is None and entry.outcome == "ok")

    async def _exchange(
        self,
        call: Call,
        body: CallBody,
        targets: Sequence[Target],
        routed: RoutedTargets | None,
        entry: UsageEntry,
        out: ResponseWriter,
    ) -> None:
        answered = False
        left: Reply | None = None
        try:
            with trio.CancelScope(deadline=call.context.started + self.total_timeout) as scope:
                out.on_gone(scope.cancel)
                if not targets and isinstance(body, JsonBody):
                    await self.relay.send_estimate(body, entry, out)
                    return
                if routed is not None and routed.shadow is not None and isinstance(body, JsonBody):
                    nano = self.shadow.offer(routed.name, routed.options, routed.shadow, call, body)
                    if nano is not None:
                        entry.note_shadow(routed.shadow, nano)
                reply = await self.sender.send(call, body, targets, entry, routed)
                answered = True
                if reply.endpoint.key:
                    entry.note_keys(reply.endpoint.key_uses())
                if entry.budget is not None and reply.endpoint.server.is_own:
                    entry.budget = None  # it costs nothing here
                recovery = None
                if routed is not None and isinstance(body, JsonBody) and may_recover(call, routed, entry):
                    log = self.accounting.observer.log
                    recovery = StreamRecovery(self.sender, call, body, routed, entry, log)
                try:
                    await self.relay.pass_on(body, reply, entry, out, recovery)
                except OSError:  # of writing to a client that has left
                    if not _drains(reply, entry, out):
                        raise
                finally:
                    if _drains(reply, entry, out):
                        left = reply
                    else:
                        reply.close()
            if left is not None:
                with trio.CancelScope(deadline=scope.deadline):
                    await self.relay.streams.drain(left, entry)
        finally:
            if left is not None:
                left.close()
        if scope.cancelled_caught and not out.gone:
            if not answered and entry.target is not None:
                self.sender.outcomes.total_timeout(call, entry.target)
            await handle_total_timeout(entry, out)


def _drains(reply: Reply, entry: UsageEntry, out: ResponseWriter) -> bool:
    """Whether the client has left a stream that is to be read on. A stream that another server has resumed is
    not.
    """
    options = reply.endpoint.server.options
    if options is None or not (options.drains and out.gone):
        return False
    stage = reply.stage
    return reply.is_events and stage is not None and stage is entry.stage and not entry.settled
