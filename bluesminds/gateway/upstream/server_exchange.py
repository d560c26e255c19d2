"""One attempt: exchanges a request with one server.

It is sent again at once only if the server refuses an optional field, or if the server has several keys and
refuses or limits one of them.
"""

from collections.abc import Callable
from dataclasses import replace

import trio
from msgspec import Struct, structs

from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.gateway.upstream.attempt import Reply, ReplyReader, handshake_reply
from bluesminds.gateway.upstream.batches import TextBatch, exchange_batches, split_texts
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.gateway.upstream.endpoints import EndpointCache
from bluesminds.gateway.upstream.failures import (
    AttemptFailure,
    classify_error,
    classify_handshake,
    classify_reply,
    key_failure,
)
from bluesminds.gateway.upstream.learned_support import LearnedSupport, find_refused_field
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.gateway.upstream.progress import AttemptProgress
from bluesminds.http.client.pool import (
    FirstByteTimeout,
    HandshakeRejected,
    Pool,
    Timeouts,
    UpstreamError,
    WebSocketRequest,
)
from bluesminds.http.websocket import WebSocket
from bluesminds.wire.support import Support


class UpstreamSocket(Struct, frozen=True):
    """A WebSocket to a server."""

    endpoint: UpstreamEndpoint
    socket: WebSocket
    model: str  # the server's name


class OutgoingRequest(Struct, frozen=True, gc=False):
    """For one server. `model`: the server's name. `progress`: of an attempt that may be given up."""

    call: Call
    target: Target
    body: CallBody | TextBatch
    model: str
    timeouts: Timeouts
    progress: AttemptProgress | None


class ServerExchange:
    def __init__(self, pool: Pool, keys: ServerKeyRegistry, outcomes: AttemptOutcomes) -> None:
        self._pool = pool
        self._keys = keys
        self._outcomes = outcomes
        self._endpoints = EndpointCache(keys)
        self._learned = LearnedSupport()

    async def attempt(
        self,
        call: Call,
        target: Target,
        body: CallBody,
        timeouts: Timeouts,
        progress: AttemptProgress | None = None,
    ) -> Reply | AttemptFailure:
        model = target.model or call.model
        request = OutgoingRequest(call, target, body, model, timeouts, progress)
        endpoint = self._endpoints.find(target.server, call)
        support = learned = self._learned.find(target, model)
        lasting = True
        self._outcomes.begin(target.server.name, model)
        try:
            reply = await self._send(request, endpoint, support)
            while reply.error is not None:
                if (refusal := find_refused_field(call, target, body, reply, support)) is not None:
                    support, lasting = refusal.support, lasting and refusal.lasting
                elif endpoint.key and body.repeatable and (other := self._next_key(reply)) is not None:
                    endpoint = other
                else:
                    break
                reply.close()
                reply = await self._send(request, endpoint, support)
            if support is not learned and lasting and reply.error is None:
                self._learned.learn(target.server, model, support)
        except UpstreamError as exc:
            failure = classify_error(exc)
            return self._with_keys(failure, endpoint) if endpoint.key else failure
        found = classify_reply(reply)
        if found is None:
            return self._answered(call, reply)
        reply.close()
        return self._with_keys(found, endpoint) if endpoint.key else found

    async def shake_hands(
        self,
        call: Call,
        target: Target,
        request: Callable[[bytes, str], WebSocketRequest],
        timeouts: Timeouts,
    ) -> UpstreamSocket | Reply | AttemptFailure:
        """`request`: the handshake for a path and the server's name of the model."""
        endpoint, context, plan = self._endpoints.find(target.server, call), call.context, target.plan
        model = target.model or call.model
        asked = request(endpoint.target(plan.path, model, stream=True), model)
        server = target.server.name
        while True:
            headers = (*endpoint.headers_for(plan, context.forward), (b"x-request-id", context.id.encode()))
            asked = structs.replace(asked, headers=headers)
            try:
                outcome = await self._pool.open_websocket(endpoint.origin, asked, timeouts=timeouts)
            except UpstreamError as exc:
                return classify_error(exc)
            if not isinstance(outcome, HandshakeRejected):
                self._outcomes.count(server, "answered")
                self._keys.record_success(server, endpoint.key)
                return UpstreamSocket(endpoint, outcome, model)
            reply = handshake_reply(endpoint, outcome)
            if not endpoint.key or (other := self._next_key(reply)) is None:
                break
            endpoint = other
        if (failure := classify_handshake(reply)) is not None:
            return self._with_keys(failure, endpoint) if endpoint.key else failure
        self._outcomes.count(server, "answered")
        return reply.as_client_error(call.format, context.request_id)

    async def _send(self, request: OutgoingRequest, endpoint: UpstreamEndpoint, support: Support) -> Reply:
        timeouts = request.timeouts
        if timeouts.total is not None:
            return await self._send_in_time(request, endpoint, support, timeouts.total)
        call, plan, body, progress = request.call, request.target.plan, request.body, request.progress
        if body.vectors is not None and (batches := split_texts(body.vectors, plan)):

            async def exchange(batch: TextBatch) -> Reply:
                return await self._send(structs.replace(request, body=batch), endpoint, support)

            return await exchange_batches(exchange, batches, body.vectors, plan, call.operation.format)
        context = call.context
        deadline = trio.current_time() + timeouts.first_byte
        response = await self._pool.request(
            b"POST",
            endpoint.origin,
            endpoint.target(plan.path, request.model, stream=call.facts.stream),
            (
                *endpoint.headers_for(plan, context.forward),
                *body.headers(request.model),
                (b"x-request-id", context.id.encode()),
            ),
            body.content(plan, request.model, support),
            timeouts=timeouts,
            sending=None if progress is None else progress.sending,
        )
        reply = None
        try:
            reader = ReplyReader(
                endpoint, call, plan, body.conversation, body.vectors, request.model, progress
            )
            reply = await reader.read(response, deadline)
        finally:
            if reply is None or reply.response is None:
                response.close()
        return reply

    async def _send_in_time(
        self, request: OutgoingRequest, endpoint: UpstreamEndpoint, support: Support, total: float
    ) -> Reply:
        """With the total timeout of a server, which also bounds the rest of a stream."""
        deadline = trio.current_time() + total
        plain = structs.replace(request, timeouts=replace(request.timeouts, total=None))
        with trio.move_on_at(deadline):
            reply = await self._send(plain, endpoint, support)
            if reply.response is not None:
                reply.response.ends_at = deadline
            return reply
        raise FirstByteTimeout("the response took too long", phase="body", sent=True)

    def _answered(self, call: Call, reply: Reply) -> Reply:
        self._outcomes.record_answer(reply)
        if reply.endpoint.key:
            self._keys.record_success(reply.endpoint.server.name, reply.endpoint.key)
        if reply.error is not None:
            return reply.as_client_error(call.format, call.context.request_id)
        return reply

    def _next_key(self, reply: Reply) -> UpstreamEndpoint | None:
        """The endpoint with another key if the server refuses or limits the key of this reply, which then
        rests. None if no key is left.
        """
        endpoint, failed = reply.endpoint, key_failure(reply)
        if failed is None:
            return None
        self._keys.rest(endpoint.server, endpoint.key, *failed)
        if (key := self._keys.find_usable(endpoint.server)) is None:
            return None
        reason = str(reply.status)
        self._outcomes.count(endpoint.server.name, reason)
        # The server may have other keys by now, of which this request knows nothing.
        earlier, other = endpoint.key_uses(reason), UpstreamEndpoint.to(endpoint.server).by_key[key]
        return structs.replace(other, stand_ins=endpoint.stand_ins, earlier=earlier)

    def _with_keys(self, failure: AttemptFailure, endpoint: UpstreamEndpoint) -> AttemptFailure:
        """Of a server with several keys: it is limited until the first of them can be used."""
        after = failure.retry_after
        if after and failure.kind == "limit":
            after = min(after, self._keys.seconds_until_usable(endpoint.server)) or after
        return structs.replace(failure, retry_after=after, keys=endpoint.key_uses(failure.reason))
