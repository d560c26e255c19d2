"""Sends a request to one server after the other until one responds.

Every attempt after the first one needs a token of the retry budget (`retry_budget.py`).

If a server cannot be reached, closes the connection, is overloaded or rejects the gateway's key, the next one
is tried. This ends when the client has received a byte; for a stream, when the first event was read. If no
other server is left and the failure is safe to repeat, a server is tried again after a pause. An error of the
request (any other 4xx) is final. A response that is not streamed has no time limit except the total timeout,
because the next server would charge for the request again.

If the route says so, a stream whose first content is late is also sent to a second target (`hedging.py`).

The fallback models of a route come before a second attempt, but the only server of the first model is tried
once more before them. They also come after a refusal that depends on the model, if the route says so.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import trio
from msgspec import Struct, structs

from bluesminds.common.errors import UpstreamFailed, retry_headers
from bluesminds.common.log import Log
from bluesminds.common.money import read_usd
from bluesminds.common.routes import DEFAULT_OPTIONS, FallbackReason
from bluesminds.common.values import Server, server_label
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.routing.capacity_queue import CapacityQueue, QueuedRequest
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.load import LoadRegistry, RunningAttempt
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.server_keys import AttemptKey, ServerKeyRegistry
from bluesminds.gateway.upstream.attempt import Reply, ReplyReader, handshake_reply
from bluesminds.gateway.upstream.backoff import Backoff
from bluesminds.gateway.upstream.batches import TextBatch, exchange_batches, split_texts
from bluesminds.gateway.upstream.endpoint import UpstreamEndpoint
from bluesminds.gateway.upstream.extra_budget import ExtraBudget
from bluesminds.gateway.upstream.failures import (
    AttemptFailure,
    classify_error,
    classify_handshake,
    classify_reply,
    key_failure,
)
from bluesminds.gateway.upstream.hedging import HEDGE_LOST, run_hedged
from bluesminds.gateway.upstream.retry_budget import RetryBudget
from bluesminds.gateway.upstream.timeouts import TimeoutTable, with_server
from bluesminds.http.client.pool import (
    FirstByteTimeout,
    HandshakeRejected,
    Pool,
    Timeouts,
    UpstreamError,
    WebSocketRequest,
)
from bluesminds.http.websocket import WebSocket
from bluesminds.wire.errors import ErrorDetail, refusal_kind
from bluesminds.wire.support import Refusal, Support, blames_field, find_refusal, names_forced_usage

MAX_OWN_ENDPOINTS = 1000  # of users' own keys
MAX_LEARNED = 1000  # pairs of a server and a model
ALL_MODELS = 2  # attempts for a model and its fallback models together, as a multiple of those for one model
_UNAVAILABLE = frozenset((502, 503, 504))
_FULL = Support()
_WITHOUT_USAGE = Support(usage=False)

T = TypeVar("T")


class AttemptRecord(Protocol):
    """Records the end of one attempt."""

    def fail(self, reason: str, keys: Sequence[AttemptKey] = (), *, billed: bool = False) -> None:
        """`keys`: those of a server that has several. `billed`: the vendor may bill the attempt."""

    def lose(self) -> None:
        """Another attempt of a hedged request has answered first."""

    def decide(self) -> None:
        """The outcome of this attempt decides about a hedged request, whichever began last."""


class AttemptLog(Protocol):
    """Records what is done for a request."""

    def try_target(self, target: Target) -> AttemptRecord:
        """An attempt begins."""

    def input_cost(self, target: Target) -> int:
        """What the input costs at the target, in nano-USD; 0 if it has no price."""

    def has_queued(self, seconds: float) -> None:
        """The request has waited for a slot at a server."""


class UpstreamSocket(Struct, frozen=True):
    """A WebSocket to a server."""

    endpoint: UpstreamEndpoint
    socket: WebSocket
    model: str  # the server's name


class _Try(Struct, frozen=True):
    """An attempt, not before `due`. `repetition`: the number of earlier attempts with this server."""

    target: Target
    due: float = -math.inf  # Trio's clock
    repetition: int = 0


class _Begun(Struct, frozen=True, eq=False):
    """An attempt. `slot` counts it as load of the server. `is_last`: no other target is left."""

    turn: _Try
    record: AttemptRecord
    slot: RunningAttempt | None
    is_last: bool


_Failed = Sequence[tuple[_Try, AttemptFailure]]


class Sender:
    """`attempts`: maximum attempts of one request for each model, over all its servers."""

    def __init__(
        self,
        pool: Pool,
        health: ServerHealthRegistry,
        load: LoadRegistry,
        queue: CapacityQueue,
        keys: ServerKeyRegistry,
        *,
        timeouts: TimeoutTable,
        attempts: int,
        backoff: Backoff,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._pool = pool
        self._health = health
        self._load = load
        self._queue = queue
        self._keys = keys
        self._timeouts = timeouts
        self._attempts = attempts
        self._backoff = backoff
        self._metrics = metrics
        self._log = log
        self._budget = RetryBudget()
        self._hedges = ExtraBudget()
        self._endpoints: dict[str, UpstreamEndpoint] = {}
        self._own_endpoints: dict[str, UpstreamEndpoint] = {}
        self._learned: dict[tuple[str, str], Support] = {}  # by server and model, where fields were refused

    async def send(
        self,
        call: Call,
        body: CallBody,
        targets: Sequence[Target],
        log: AttemptLog,
        routed: RoutedTargets | None = None,
    ) -> Reply:
        """The first Reply to forward; the caller closes it. `routed`
        has the targets of fallback models.

        Raises UpstreamFailed if no server responded.
        """
        table, stream = self._timeouts, call.facts.stream
        options = DEFAULT_OPTIONS if routed is None else routed.options

        def run(
            target: Target, is_last: bool, slot: RunningAttempt | None
        ) -> Awaitable[Reply | AttemptFailure]:
            own = target.server.options
            if own is not None:
                timeouts = table.for_server(own, options, stream=stream, is_last=is_last)
            else:
                timeouts = table.for_stream(options, is_last=is_last) if stream else table.json
            if slot is None:
                return self._attempt(call, target, body, timeouts)
            return self._measured_attempt(call, target, body, timeouts, slot)

        if options.hedge_after is None or routed is None or not (stream and body.repeatable):
            return await self._try_targets(call, targets, log, run, body, routed)

        async def hedge(first: _Begun, waiting: list[_Try]) -> tuple[Reply | AttemptFailure, _Begun, _Failed]:
            return await self._run_hedged(call, routed, first, waiting, log, run)

        self._hedges.add_request(routed.name, options.hedge_share)
        return await self._try_targets(call, targets, log, run, body, routed, hedge)

    async def connect(
        self,
        call: Call,
        targets: Sequence[Target],
        log: AttemptLog,
        request: Callable[[bytes, str], WebSocketRequest],
        seconds: float,
    ) -> UpstreamSocket | Reply:
        """Open a WebSocket to the first server that does. A Reply is an error that is the client's own.
        `request`: the handshake for a path and the server's name of the model; the headers of the server are
        added. `seconds`: how long a server may take for it. Raises UpstreamFailed as `send` does.
        """
        timeouts = replace(self._timeouts.timeouts, first_byte=seconds)

        def run(
            target: Target, is_last: bool, slot: RunningAttempt | None
        ) -> Awaitable[UpstreamSocket | Reply | AttemptFailure]:
            own = target.server.options
            used = timeouts if own is None else with_server(timeouts, own)
            return self._shake_hands(call, target, request, used)

        return await self._try_targets(call, targets, log, run)

    async def _try_targets(
        self,
        call: Call,
        targets: Sequence[Target],
        log: AttemptLog,
        attempt: Callable[[Target, bool, RunningAttempt | None], Awaitable[T | AttemptFailure]],
        body: CallBody | None = None,
        routed: RoutedTargets | None = None,
        hedge: Callable[[_Begun, list[_Try]], Awaitable[tuple[T | AttemptFailure, _Begun, _Failed]]]
        | None = None,
    ) -> T:
        budget = call.model if routed is None else routed.name
        if targets[0].server.is_own:  # failures of a user's key must not use up the retries of others
            budget = targets[0].server.name
        self._budget.add_request(budget)
        waiting = [_Try(target) for target in targets]
        failed: dict[str, int] = {}  # attempts by model
        most = self._attempts if routed is None else ALL_MODELS * self._attempts
        tries = 0
        while True:
            tries += 1
            turn, slot = min(waiting, key=_due), None
            if turn.repetition:
                await trio.sleep_until(turn.due)
            if body is not None and self._load.enabled:  # sessions do not count
                if self._load.capped:
                    turn, slot = await self._take_slot(call, waiting, log, routed)
                else:
                    slot = self._begin(call, turn.target)
            waiting.remove(turn)
            record = log.try_target(turn.target)
            is_last = not waiting or waiting[0].repetition > 0
            model = turn.target.serves
            is_last = is_last or failed.get(model, 0) + 1 >= self._attempts
            if is_last and routed is not None and tries < most:
                is_last = not routed.has_more("timeout")
            if hedge is None or is_last or not waiting:
                outcome = await attempt(turn.target, is_last, slot)
            else:
                begun = _Begun(turn, record, slot, is_last)
                outcome, decisive, more_failed = await hedge(begun, waiting)
                if decisive is not begun or more_failed:
                    tries += 1
                turn, record = decisive.turn, decisive.record
                for earlier, failure in more_failed:
                    failed[model] = failed.get(model, 0) + 1
                    if (again := self._repetition(call, earlier, failure)) is not None:
                        waiting.append(again)
            if not isinstance(outcome, AttemptFailure):
                if routed is None or tries >= most:
                    return outcome
                if not (more := self._take_after_refusal(call, turn.target, outcome, body, routed)):
                    return outcome
                record.fail("refused")
                waiting = [_Try(target) for target in more]
                continue
            self._end_failed(call, turn.target, record, outcome)
            if body is not None and not body.repeatable:
                raise _final_error(_upload_error(outcome.error), tries)
            failed[model] = failed.get(model, 0) + 1
            again = None
            if failed[model] >= self._attempts:
                waiting = [one for one in waiting if one.target.serves != model]
            else:
                again = self._repetition(call, turn, outcome)
            if routed is not None and tries < most and all(one.repetition for one in waiting):
                is_only = not (model or waiting) and again is not None and again.repetition == 1
                if not (is_only and outcome.kind == "error"):
                    more = self._take(call, turn.target, outcome.kind, routed)
                    waiting += [_Try(target) for target in more]
            if again is not None:
                waiting.append(again)
            repeats = not outcome.accepted or routed is None or routed.options.repeat_accepted
            if not (waiting and tries < most and repeats and self._budget.take(budget)):
                raise _final_error(self._with_retry_after(call, turn.target, outcome.error), tries)

    async def _run_hedged(
        self,
        call: Call,
        routed: RoutedTargets,
        first: _Begun,
        waiting: list[_Try],
        log: AttemptLog,
        attempt: Callable[[Target, bool, RunningAttempt | None], Awaitable[Reply | AttemptFailure]],
    ) -> tuple[Reply | AttemptFailure, _Begun, _Failed]:
        """The outcome that decides, its attempt, and what has failed before it. The target of the second
        attempt is removed from `waiting`.
        """

        async def run(one: _Begun) -> Reply | AttemptFailure:
            return await attempt(one.turn.target, one.is_last, one.slot)

        seconds: list[_Begun] = []

        def begin_second() -> _Begun | None:
            begun = self._begin_hedge(call, routed, first.turn.target, waiting, log)
            if begun is not None:
                seconds.append(begun)
            return begun

        def overtaken(one: _Begun) -> None:
            if one.slot is not None:
                one.slot.overtaken()

        after = routed.options.hedge_after or 0.0
        try:
            found = await run_hedged(run, first, begin_second, after, overtaken)
        except BaseException:  # the usage row is about the attempt that began last
            if seconds:
                self._lose(call, first)
            raise
        failed = []
        for one, outcome in found.ended:
            if isinstance(outcome, AttemptFailure):
                self._end_failed(call, one.turn.target, one.record, outcome)
                failed.append((one.turn, outcome))
            elif outcome.error is not None:
                one.record.fail("refused")
            else:
                self._lose(call, one)
        for one in found.cancelled:
            self._lose(call, one)
        found.decisive.record.decide()
        return found.outcome, found.decisive, failed

    def _begin_hedge(
        self,
        call: Call,
        routed: RoutedTargets,
        first: Target,
        waiting: list[_Try],
        log: AttemptLog,
    ) -> _Begun | None:
        """The second attempt of a hedged request. None if no healthy target has room, or if the route has
        used up its share or its amount.
        """
        options = routed.options
        for turn in waiting:
            target = turn.target
            if turn.repetition or not _may_hedge(first, target) or not self.is_usable(call, target):
                continue
            slot = None
            if self._load.capped:
                slot = self._queue.begin(target, self._queued(call, routed))
                if slot is None:
                    continue
            nano = max(log.input_cost(first), log.input_cost(target))
            daily = read_usd(options.hedge_daily_usd)
            if not self._hedges.take(routed.name, call.context.at_ms, nano, daily):
                if slot is not None:
                    slot.end()
                return None
            if slot is None and self._load.enabled:
                slot = self._begin(call, target)
            waiting.remove(turn)
            is_last = not waiting or waiting[0].repetition > 0
            return _Begun(turn, log.try_target(target), slot, is_last)
        return None

    def _repetition(self, call: Call, failed: _Try, failure: AttemptFailure) -> _Try | None:
        """Another attempt with the same server after a pause. None if that is not safe, or of no use."""
        if not failure.repeatable or self._seconds_until_trial(call, failed.target):
            return None
        pause = self._backoff.pause(failed.repetition, failure.retry_after)
        return _Try(failed.target, trio.current_time() + pause, failed.repetition + 1)

    def _lose(self, call: Call, lost: _Begun) -> None:
        """Another attempt has answered first, which says nothing about the health of this server."""
        target = lost.turn.target
        lost.record.lose()
        self._count(target.server.name, HEDGE_LOST)
        self._health.release(target.server.name, target.model or call.model)

    def _end_failed(self, call: Call, target: Target, record: AttemptRecord, failure: AttemptFailure) -> None:
        record.fail(failure.reason, failure.keys, billed=failure.accepted)
        self._record_failure(call, target, failure)

    def _queued(self, call: Call, routed: RoutedTargets | None) -> QueuedRequest:
        options = DEFAULT_OPTIONS if routed is None else routed.options
        return QueuedRequest(
            call.account,
            call.model,
            call.facts.stream,
            "" if routed is None else routed.name,
            options.queue_timeout,
            options.queue_size,
        )

    async def _take_slot(
        self, call: Call, waiting: list[_Try], log: AttemptLog, routed: RoutedTargets | None
    ) -> tuple[_Try, RunningAttempt]:
        """The next target that is below its caps. If none is, the targets of fallback models are added, and
        then the request waits. Servers that are ejected are only used if no other one is left.
        """
        request = self._queued(call, routed)
        while True:
            now = trio.current_time()
            due = sorted((one for one in waiting if one.due <= now), key=_due)
            if len(due) > 1:
                due = [one for one in due if self.is_usable(call, one.target)] or due
            for one in due:
                if (slot := self._queue.begin(one.target, request)) is not None:
                    return one, slot
            more = () if routed is None else self._take(call, due[0].target, "limit", routed)
            if not more:
                break
            waiting += [_Try(target) for target in more]
        try:
            target, slot = await self._queue.wait([one.target for one in due], request)
        finally:
            log.has_queued(trio.current_time() - now)
        return next(one for one in due if one.target is target), slot

    def _begin(self, call: Call, target: Target) -> RunningAttempt:
        return self._load.begin(target.server.name, target.model or call.model, stream=call.facts.stream)

    def is_usable(self, call: Call, target: Target) -> bool:
        return self._health.is_usable(target.server.name, target.model or call.model)

    def release(self, reply: Reply) -> None:
        """The end of a stream says nothing about its server."""
        self._health.release(reply.endpoint.server.name, reply.model)

    def _seconds_until_trial(self, call: Call, target: Target) -> float:
        """0 for a server that is not ejected."""
        return self._health.seconds_until_trial(target.server.name, target.model or call.model)

    def _with_retry_after(self, call: Call, target: Target, error: UpstreamFailed) -> UpstreamFailed:
        """If the server is ejected, the client should wait until it is tried again."""
        if error.status not in _UNAVAILABLE or "retry-after" in error.headers:
            return error
        seconds = self._seconds_until_trial(call, target)
        return error.with_headers(retry_headers(seconds)) if seconds > 0 else error

    def _take_after_refusal(
        self, call: Call, target: Target, outcome: object, body: CallBody | None, routed: RoutedTargets
    ) -> Sequence[Target]:
        """The targets of the next model after a refusal that depends on the model. The other servers of this
        model would refuse too.
        """
        if not isinstance(outcome, Reply) or outcome.error is None or body is None or not body.repeatable:
            return ()
        kind = refusal_kind(outcome.error)
        more = () if kind is None else self._take(call, target, kind, routed)
        if more:
            outcome.close()
        return more

    def _take(
        self, call: Call, failed: Target, reason: FallbackReason, routed: RoutedTargets
    ) -> Sequence[Target]:
        more = routed.take(reason)
        if more:
            self._log.warning(
                "model_replaced",
                request_id=call.context.request_id,
                model=failed.serves or call.model,
                replacement=more[0].serves or call.model,
                reason=reason,
            )
        return more

    def stream_ended(self, call: Call, reply: Reply, error: ErrorDetail | None, *, implausible: bool) -> None:
        """A stream is complete, or ended with the `error` that the server sent in it."""
        server, model = reply.endpoint.server.name, reply.model
        if implausible:
            self.warn_implausible_usage(call, server)
        if error is None:
            self._health.record_success(server, model)
            return
        self._count(server, "error_in_stream")
        if not error.blames_request():
            self._health.record_failure(server, model, "error_in_stream")

    def stream_failed(self, reply: Reply, reason: str) -> None:
        """A stream has ended before its answer was complete."""
        self._record_shortfall(reply.endpoint.server.name, reply.model, reason)

    def socket_ended(self, upstream: UpstreamSocket, failure: str | None) -> None:
        """A session with a server has ended, by its `failure` or not."""
        server = upstream.endpoint.server.name
        if failure is None:
            self._health.record_success(server, upstream.model)
        else:
            self._record_shortfall(server, upstream.model, failure)

    def total_timeout(self, call: Call, target: Target) -> None:
        """The total timeout expired before the server responded."""
        self._record_shortfall(target.server.name, target.model or call.model, "total_timeout")

    async def _measured_attempt(
        self, call: Call, target: Target, body: CallBody, timeouts: Timeouts, running: RunningAttempt
    ) -> Reply | AttemptFailure:
        """An attempt that is counted as load of the server, until the Reply is closed."""
        outcome = None
        try:
            outcome = await self._attempt(call, target, body, timeouts)
            if isinstance(outcome, AttemptFailure):
                running.failed()
            elif outcome.error is None:
                running.answered()
                return structs.replace(outcome, running=running)
            return outcome
        finally:
            if not isinstance(outcome, Reply) or outcome.error is not None:
                running.end()

    async def _attempt(
        self, call: Call, target: Target, body: CallBody, timeouts: Timeouts
    ) -> Reply | AttemptFailure:
        endpoint = self._endpoint(target.server, call)
        model = target.model or call.model
        support = learned = self._support(target, model)
        lasting = True
        self._health.begin(target.server.name, model)
        try:
            reply = await self._exchange(call, endpoint, target, body, support, timeouts)
            while reply.error is not None:
                if (refusal := _find_refusal(call, target, body, reply, support)) is not None:
                    support, lasting = refusal.support, lasting and refusal.lasting
                elif endpoint.key and body.repeatable and (other := self._next_key(reply)) is not None:
                    endpoint = other
                else:
                    break
                reply.close()
                reply = await self._exchange(call, endpoint, target, body, support, timeouts)
            if support is not learned and lasting and reply.error is None:
                self._learn(target.server, model, support)
        except UpstreamError as exc:
            failure = classify_error(exc)
            return self._with_keys(failure, endpoint) if endpoint.key else failure
        found = classify_reply(reply)
        if found is None:
            return self._answered(call, reply)
        reply.close()
        return self._with_keys(found, endpoint) if endpoint.key else found

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
        self._count(endpoint.server.name, reason)
        # The server may have other keys by now, of which this request knows nothing.
        earlier, other = endpoint.key_uses(reason), UpstreamEndpoint.to(endpoint.server).by_key[key]
        return structs.replace(other, stand_ins=endpoint.stand_ins, earlier=earlier)

    def _with_keys(self, failure: AttemptFailure, endpoint: UpstreamEndpoint) -> AttemptFailure:
        """Of a server with several keys: it is limited until the first of them can be used."""
        after = failure.retry_after
        if after and failure.kind == "limit":
            after = min(after, self._keys.seconds_until_usable(endpoint.server)) or after
        return structs.replace(failure, retry_after=after, keys=endpoint.key_uses(failure.reason))

    async def _shake_hands(
        self,
        call: Call,
        target: Target,
        request: Callable[[bytes, str], WebSocketRequest],
        timeouts: Timeouts,
    ) -> UpstreamSocket | Reply | AttemptFailure:
        endpoint, context, plan = self._endpoint(target.server, call), call.context, target.plan
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
                self._count(server, "answered")
                self._keys.record_success(server, endpoint.key)
                return UpstreamSocket(endpoint, outcome, model)
            reply = handshake_reply(endpoint, outcome)
            if not endpoint.key or (other := self._next_key(reply)) is None:
                break
            endpoint = other
        if (failure := classify_handshake(reply)) is not None:
            return self._with_keys(failure, endpoint) if endpoint.key else failure
        self._count(server, "answered")
        return reply.as_client_error(call.format, context.request_id)

    async def _exchange(
        self,
        call: Call,
        endpoint: UpstreamEndpoint,
        target: Target,
        body: CallBody | TextBatch,
        support: Support,
        timeouts: Timeouts,
    ) -> Reply:
        if timeouts.total is not None:
            return await self._exchange_in_time(call, endpoint, target, body, support, timeouts)
        context, plan = call.context, target.plan
        if body.vectors is not None and (batches := split_texts(body.vectors, plan)):

            async def exchange(batch: TextBatch) -> Reply:
                return await self._exchange(call, endpoint, target, batch, support, timeouts)

            return await exchange_batches(exchange, batches, body.vectors, plan, call.operation.format)
        deadline = trio.current_time() + timeouts.first_byte
        model = target.model or call.model
        response = await self._pool.request(
            b"POST",
            endpoint.origin,
            endpoint.target(plan.path, model, stream=call.facts.stream),
            (
                *endpoint.headers_for(plan, context.forward),
                *body.headers(model),
                (b"x-request-id", context.id.encode()),
            ),
            body.content(plan, model, support),
            timeouts=timeouts,
        )
        reply = None
        try:
            reader = ReplyReader(endpoint, call, plan, body.conversation, body.vectors, model)
            reply = await reader.read(response, deadline)
        finally:
            if reply is None or reply.response is None:
                response.close()
        return reply

    async def _exchange_in_time(
        self,
        call: Call,
        endpoint: UpstreamEndpoint,
        target: Target,
        body: CallBody | TextBatch,
        support: Support,
        timeouts: Timeouts,
    ) -> Reply:
        """With the total timeout of a server, which also bounds the rest of a stream."""
        deadline = trio.current_time() + (math.inf if timeouts.total is None else timeouts.total)
        with trio.move_on_at(deadline):
            plain = replace(timeouts, total=None)
            reply = await self._exchange(call, endpoint, target, body, support, plain)
            if reply.response is not None:
                reply.response.ends_at = deadline
            return reply
        raise FirstByteTimeout("the response took too long", phase="body", sent=True)

    def _answered(self, call: Call, reply: Reply) -> Reply:
        """For a stream, the health of the server is recorded when the stream ends."""
        server = reply.endpoint.server.name
        self._count(server, "answered")
        if reply.endpoint.key:
            self._keys.record_success(server, reply.endpoint.key)
        if reply.error is not None:
            self._health.release(server, reply.model)
            return reply.as_client_error(call.format, call.context.request_id)
        if reply.stage is None:
            self._health.record_success(server, reply.model)
        return reply

    def _record_failure(self, call: Call, target: Target, failure: AttemptFailure) -> None:
        server = target.server.name
        self._count(server, failure.reason)
        if failure.retry_after and failure.kind == "limit":
            self._health.rest(server, target.model or call.model, failure.retry_after)
        if failure.blames_server:
            self._health.record_failure(server, target.model or call.model, failure.reason)
        else:
            self._health.release(server, target.model or call.model)
        self._log.warning(
            "attempt_failed",
            request_id=call.context.request_id,
            server=server,
            model=target.model or call.model,
            reason=failure.reason,
        )

    def _record_shortfall(self, server: str, model: str, reason: str) -> None:
        self._count(server, reason)
        self._health.record_failure(server, model, reason)

    def warn_implausible_usage(self, call: Call, server: str) -> None:
        self._log.warning(
            "usage_implausible", request_id=call.context.request_id, server=server, model=call.model
        )

    def _count(self, server: str, outcome: str) -> None:
        self._metrics.attempts[server_label(server), outcome] += 1

    def _support(self, target: Target, model: str) -> Support:
        if self._learned and (known := self._learned.get((target.server.name, model))) is not None:
            return known
        return _FULL if target.plan.asks_usage else _WITHOUT_USAGE

    def _learn(self, server: Server, model: str, support: Support) -> None:
        """Every request would fail once more otherwise."""
        if len(self._learned) >= MAX_LEARNED:
            del self._learned[next(iter(self._learned))]
        self._learned[server.name, model] = support

    def _endpoint(self, server: Server, call: Call) -> UpstreamEndpoint:
        """The endpoint, with the key for this request."""
        if server.is_own:
            return self._own_endpoint(server, call)
        endpoint = self._endpoints.get(server.name)
        if endpoint is None or endpoint.server is not server:
            endpoint = self._endpoints[server.name] = UpstreamEndpoint.to(server)
            self._learned = {pair: known for pair, known in self._learned.items() if pair[0] != server.name}
        if server.more_keys and not call.own_key:
            endpoint = endpoint.by_key[self._keys.choose(server)]
        if call.stand_ins:
            return structs.replace(endpoint, stand_ins=call.stand_ins)
        return endpoint.with_key(call.context.credential or "") if call.own_key else endpoint

    def _own_endpoint(self, server: Server, call: Call) -> UpstreamEndpoint:
        """Of a user's own key. The server is another value whenever the user's account is read again."""
        endpoint = self._own_endpoints.get(server.name)
        if endpoint is None or (endpoint.server is not server and endpoint.server != server):
            if len(self._own_endpoints) >= MAX_OWN_ENDPOINTS:
                del self._own_endpoints[next(iter(self._own_endpoints))]
            endpoint = self._own_endpoints[server.name] = UpstreamEndpoint.to(server)
        return structs.replace(endpoint, stand_ins=call.stand_ins) if call.stand_ins else endpoint


def _may_hedge(first: Target, second: Target) -> bool:
    """Users pay for their own keys. Requests in another format, or for another model, are not the same."""
    return (
        second.serves == first.serves
        and not (first.server.is_own or second.server.is_own)
        and (second.plan.format, second.plan.translated) == (first.plan.format, first.plan.translated)
    )


def _due(turn: _Try) -> float:
    return turn.due


def _find_refusal(
    call: Call, target: Target, body: CallBody, reply: Reply, support: Support
) -> Refusal | None:
    """The optional field that the error is about: stream_options, which the gateway adds to streams that did
    not ask for usage, or a field of a translation.
    """
    plan, facts = target.plan, call.facts
    streamed = facts.stream and not call.format.is_media
    added = support.usage and streamed and (plan.translated or not facts.wants_usage)
    if added and names_forced_usage(reply.error_status, reply.body):
        return Refusal(structs.replace(support, usage=False))
    if not plan.translated or not blames_field(reply.error_status):
        return None
    if reply.error is None or body.conversation is None:
        return None
    bound = plan.bound if plan.format == "chat" else ""
    return find_refusal(support, body.conversation, reply.error, bound=bound)


def _upload_error(error: UpstreamFailed) -> UpstreamFailed:
    message = f"{error.message} The upload had begun, so it went to no other server."
    return UpstreamFailed(error.status, error.code, message, headers=error.headers)


def _final_error(error: UpstreamFailed, tries: int) -> UpstreamFailed:
    """SDKs should not retry if the gateway has retried already. The exception is 429, because SDKs wait
    longer than the gateway.
    """
    return error if tries == 1 or error.status == 429 else error.with_headers({"x-should-retry": "false"})
