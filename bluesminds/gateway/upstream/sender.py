"""Sends a request to one server after the other until one answers.

A server that cannot be reached, closes the connection, is overloaded or rejects the gateway's key is left for
the next one, as long as the client has seen nothing: for a stream, until its first event has been read. When
no other server is left, a failure that is safe to repeat is tried again after a pause. A client's own error
(any other 4xx) is final. A response in one piece begins when it is finished, so only the total timeout
bounds it: asking the next server would pay for it again.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import trio
from msgspec import Struct, structs

from bluesminds.common.errors import UpstreamFailed
from bluesminds.common.log import Log
from bluesminds.common.values import Server
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.upstream.attempt import Reply, ReplyReader, handshake_reply
from bluesminds.gateway.upstream.backoff import Backoff
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.gateway.upstream.failures import (
    AttemptFailure,
    classify_error,
    classify_handshake,
    classify_reply,
)
from bluesminds.http.client.pool import HandshakeRejected, Pool, Timeouts, UpstreamError, WebSocketRequest
from bluesminds.http.websocket import WebSocket
from bluesminds.wire.errors import ErrorDetail, names_forced_usage

T = TypeVar("T")


class UpstreamSocket(Struct, frozen=True):
    """A WebSocket to a server."""

    endpoint: UpstreamEndpoint
    socket: WebSocket


class _Try(Struct, frozen=True):
    """A server to ask, not before `due`; `repetition` counts the earlier tries of it."""

    target: Target
    due: float = -math.inf  # Trio's clock
    repetition: int = 0


class Sender:
    """`attempts`: tries for one request, over all servers."""

    def __init__(
        self,
        pool: Pool,
        health: ServerHealthRegistry,
        *,
        timeouts: Timeouts,
        attempts: int,
        backoff: Backoff,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._pool = pool
        self._health = health
        self._timeouts = timeouts
        self._json_timeouts = replace(timeouts, first_byte=math.inf, between_chunks=math.inf)
        self._attempts = attempts
        self._backoff = backoff
        self._metrics = metrics
        self._log = log
        self._endpoints: dict[str, UpstreamEndpoint] = {}
        self._refusing_usage: set[str] = set()  # servers that do not take stream_options

    async def send(
        self, call: Call, body: CallBody, targets: Sequence[Target], begin: Callable[[str], None]
    ) -> Reply:
        """The first Reply to pass on; the caller closes it. `begin` is called with the server's name before
        each attempt.

        Raises UpstreamFailed when no server answered.
        """
        return await self._try_targets(call, targets, begin, lambda target: self._attempt(call, target, body))

    async def connect(
        self,
        call: Call,
        targets: Sequence[Target],
        begin: Callable[[str], None],
        request: Callable[[bytes], WebSocketRequest],
        seconds: float,
    ) -> UpstreamSocket | Reply:
        """Open a WebSocket to the first server that does. A Reply is an error that is the client's own.
        `request`: the handshake for a path; the headers of the server are added. `seconds`: how long a server
        may take for it. Raises UpstreamFailed as `send` does.
        """
        timeouts = replace(self._timeouts, first_byte=seconds)
        return await self._try_targets(
            call, targets, begin, lambda target: self._shake_hands(call, target, request, timeouts)
        )

    async def _try_targets(
        self,
        call: Call,
        targets: Sequence[Target],
        begin: Callable[[str], None],
        attempt: Callable[[Target], Awaitable[T | AttemptFailure]],
    ) -> T:
        waiting = [_Try(target) for target in targets]
        tries = 0
        while True:
            tries += 1
            turn = min(waiting, key=_due)
            waiting.remove(turn)
            if turn.repetition:
                await trio.sleep_until(turn.due)
            begin(turn.target.server.name)
            outcome = await attempt(turn.target)
            if not isinstance(outcome, AttemptFailure):
                return outcome
            self._record_failure(call, turn.target.server, outcome)
            if outcome.repeatable:
                pause = self._backoff.pause(turn.repetition, outcome.retry_after)
                waiting.append(_Try(turn.target, trio.current_time() + pause, turn.repetition + 1))
            if not waiting or tries >= self._attempts:
                raise _final_error(outcome, tries)

    def stream_ended(self, call: Call, reply: Reply, error: ErrorDetail | None, *, implausible: bool) -> None:
        """A stream has come to its end. `error`: the error that the server sent in it."""
        server = reply.endpoint.server.name
        if implausible:
            self.warn_implausible_usage(call, server)
        if error is None:
            self._health.record_success(server)
            return
        self._count(server, "error_in_stream")
        if not error.blames_request():
            self._health.record_failure(server, "error_in_stream")

    def stream_failed(self, reply: Reply, reason: str) -> None:
        """A stream has ended before its answer was complete."""
        self._record_shortfall(reply.endpoint.server.name, reason)

    def socket_ended(self, upstream: UpstreamSocket, failure: str | None) -> None:
        """A session with a server has ended, by its `failure` or not."""
        server = upstream.endpoint.server.name
        if failure is None:
            self._health.record_success(server)
        else:
            self._record_shortfall(server, failure)

    def total_timeout(self, server: str) -> None:
        """The total time was over before the server had answered."""
        self._record_shortfall(server, "total_timeout")

    async def _attempt(self, call: Call, target: Target, body: CallBody) -> Reply | AttemptFailure:
        endpoint = self._endpoint(target.server, call)
        server = target.server.name
        force_usage = server not in self._refusing_usage
        try:
            reply = await self._exchange(call, endpoint, target, body, force_usage=force_usage)
            if force_usage and self._refuses_forced_usage(call, target, reply):
                reply.close()
                reply = await self._exchange(call, endpoint, target, body, force_usage=False)
                if reply.error is None:
                    self._refusing_usage.add(server)
        except UpstreamError as exc:
            return classify_error(exc)
        failure = classify_reply(reply)
        if failure is None:
            return self._answered(call, reply)
        reply.close()
        return failure

    async def _shake_hands(
        self,
        call: Call,
        target: Target,
        request: Callable[[bytes], WebSocketRequest],
        timeouts: Timeouts,
    ) -> UpstreamSocket | Reply | AttemptFailure:
        endpoint, context, plan = self._endpoint(target.server, call), call.context, target.plan
        asked = request(endpoint.target(plan.path))
        headers = (*endpoint.headers_for(plan, context.forward), (b"x-request-id", context.id.encode()))
        asked = structs.replace(asked, headers=headers)
        try:
            outcome = await self._pool.open_websocket(endpoint.origin, asked, timeouts=timeouts)
        except UpstreamError as exc:
            return classify_error(exc)
        server = target.server.name
        if not isinstance(outcome, HandshakeRejected):
            self._count(server, "answered")
            return UpstreamSocket(endpoint, outcome)
        reply = handshake_reply(endpoint, outcome)
        if (failure := classify_handshake(reply)) is not None:
            return failure
        self._count(server, "answered")
        return reply.as_client_error(call.format, context.request_id)

    @staticmethod
    def _refuses_forced_usage(call: Call, target: Target, reply: Reply) -> bool:
        """The gateway adds stream_options to streams that did not ask for usage; some servers reject it."""
        added = call.facts.stream and (target.plan.translated or not call.facts.wants_usage)
        return added and reply.error is not None and names_forced_usage(reply.error_status, reply.body)

    async def _exchange(
        self, call: Call, endpoint: UpstreamEndpoint, target: Target, body: CallBody, *, force_usage: bool
    ) -> Reply:
        context, plan = call.context, target.plan
        response = await self._pool.request(
            b"POST",
            endpoint.origin,
            endpoint.target(plan.path),
            (*endpoint.headers_for(plan, context.forward), (b"x-request-id", context.id.encode())),
            body.content(plan, call.model, force_usage=force_usage),
            timeouts=self._timeouts if call.facts.stream else self._json_timeouts,
        )
        reply = None
        try:
            reader = ReplyReader(endpoint, call, plan, body.conversation)
            reply = await reader.read(response, self._timeouts.first_byte)
        finally:
            if reply is None or reply.response is None:
                response.close()
        return reply

    def _answered(self, call: Call, reply: Reply) -> Reply:
        """A stream has yet to show how it ends: its health is recorded then."""
        server = reply.endpoint.server.name
        self._count(server, "answered")
        if reply.error is not None:
            return reply.as_client_error(call.format, call.context.request_id)
        if reply.stage is None:
            self._health.record_success(server)
        return reply

    def _record_failure(self, call: Call, server: Server, failure: AttemptFailure) -> None:
        self._count(server.name, failure.reason)
        if failure.blames_server:
            self._health.record_failure(server.name, failure.reason)
        self._log.warning(
            "attempt_failed",
            request_id=call.context.request_id,
            server=server.name,
            model=call.model,
            reason=failure.reason,
        )

    def _record_shortfall(self, server: str, reason: str) -> None:
        self._count(server, reason)
        self._health.record_failure(server, reason)

    def warn_implausible_usage(self, call: Call, server: str) -> None:
        self._log.warning(
            "usage_implausible", request_id=call.context.request_id, server=server, model=call.model
        )

    def _count(self, server: str, outcome: str) -> None:
        self._metrics.attempts[server, outcome] += 1

    def _endpoint(self, server: Server, call: Call) -> UpstreamEndpoint:
        """With the key that this request may use."""
        endpoint = self._endpoints.get(server.name)
        if endpoint is None or endpoint.server is not server:
            endpoint = self._endpoints[server.name] = UpstreamEndpoint.to(server)
            self._refusing_usage.discard(server.name)
        return endpoint.with_key(call.context.credential or "") if call.own_key else endpoint


def _due(turn: _Try) -> float:
    return turn.due


def _final_error(failure: AttemptFailure, tries: int) -> UpstreamFailed:
    """SDKs should not repeat what the gateway has repeated already. After a 429 they wait longer than it."""
    error = failure.error
    return error if tries == 1 or error.status == 429 else error.with_headers({"x-should-retry": "false"})
