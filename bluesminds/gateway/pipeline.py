"""The request pipeline: authenticate, read, authorize, admit, send, relay, settle.

`Gateway.handle` either writes a complete response, or raises a GatewayError before the first byte. An
admitted request is settled exactly once, also if it is cancelled. The last byte of a response is sent after
its usage row is durable.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio
from msgspec import Struct

from bluesminds.common.errors import GatewayError, NotFound
from bluesminds.common.values import Caller, RequestContext
from bluesminds.gateway.accounting import UsageAccounting, UsageEntry
from bluesminds.gateway.admission import Admission, AdmittedRequest
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.authorize import check_model
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.call import CallBody, read_call, receive_body
from bluesminds.gateway.json_body import JsonBody
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.observer import CLIENT_GONE
from bluesminds.gateway.operations import OperationMatch
from bluesminds.gateway.prompt_log import PromptLog
from bluesminds.gateway.recovery import StreamRecovery, may_recover
from bluesminds.gateway.relay import Relay, handle_total_timeout, settle_failure
from bluesminds.gateway.response_cache import CacheLookup, ResponseCache, send_cached
from bluesminds.gateway.response_writer import Headers, ResponseWriter
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.own_keys import with_own_models
from bluesminds.gateway.stored_responses.links import RequestLinks
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.gateway.upstream.shadow import ShadowTraffic
from bluesminds.wire.conversation import NO_LINKS
from bluesminds.wire.models import ModelRow

T = TypeVar("T")


class Gateway(Struct, frozen=True):
    """`total_timeout`: seconds for one request, from its head to the last byte of its response.
    `cache` is None if responses are not cached, `prompts` if no prompts are kept.
    """

    keys: KeyAuthenticator
    admission: Admission
    limiter: RateLimiter
    sender: Sender
    relay: Relay
    accounting: UsageAccounting
    links: RequestLinks
    shadow: ShadowTraffic
    total_timeout: float
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
            only = None if linked is None else linked.servers
            admitted = self.admission.admit(caller, call, body, only)
        except BaseException as exc:
            model = "" if call is None else call.model
            self.accounting.observer.record_failure(context, caller, exc, model=model)
            if linked is not None:
                linked.release()
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(self.limiter.headers(caller))) from None
            raise
        entry = admitted.entry
        try:
            if lookup is None:
                await self._exchange(body, admitted, out)
            else:
                await self._exchange_cached(lookup, body, admitted, out)
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

    async def _look_up(
        self, context: RequestContext, find: Callable[[ModelCatalog, Caller], T]
    ) -> tuple[T, Headers]:
        caller = None
        try:
            caller = await self.keys.authenticate(context)
            self.keys.authorize_use(caller, context)
            found = find(self.admission.catalog(caller, context), caller)
        except BaseException as exc:
            self.accounting.observer.record_failure(context, caller, exc)
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(self.limiter.headers(caller))) from None
            raise
        self.accounting.observer.record_rejection(context, 200, key_id=caller.key_id)
        return found, self.limiter.headers(caller)

    async def _exchange_cached(
        self, lookup: CacheLookup, body: CallBody, admitted: AdmittedRequest, out: ResponseWriter
    ) -> None:
        found, entry = None, admitted.entry
        try:
            with trio.CancelScope(deadline=entry.started + self.total_timeout) as scope:
                out.on_gone(scope.cancel)
                found = await lookup.find()
                if found is not None:
                    body.release()
                    await send_cached(found, entry, self.relay.headers(entry), out)
            if found is None and not out.gone:
                await self._exchange(body, admitted, lookup.record(out))
        finally:
            lookup.close(complete=found is None and entry.outcome == "ok")

    async def _exchange(self, body: CallBody, admitted: AdmittedRequest, out: ResponseWriter) -> None:
        entry, targets, routed = admitted.entry, admitted.targets, admitted.routed
        call = entry.call
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
                except OSError:  # of writing to a client that has disconnected
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
    """Whether the client has disconnected, and the gateway should continue to read the stream. Not if another
    server has resumed the stream.
    """
    options = reply.endpoint.server.options
    if options is None or not (options.drains and out.gone):
        return False
    stage = reply.stage
    return reply.is_events and stage is not None and stage is entry.stage and not entry.settled
