"""Sends requests to one server after the other until one responds.

Every attempt after the first one needs a token of the retry budget (`retry_budget.py`).

If a server cannot be reached, closes the connection, is overloaded or rejects the gateway's key, the next one
is tried. This ends when the client has received a byte; for a stream, when the first event was read. If no
other server is left and the failure is safe to repeat, a server is tried again after a pause. An error of the
request (any other 4xx) is final. A response that is not streamed has no time limit except the total timeout,
because the next server would charge for the request again.

`tries.py` decides what comes next, `server_exchange.py` makes one attempt, and `outcomes.py` records it. If
the route says so, a stream whose first content is late is also sent to a second target (`hedging.py`).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import trio
from msgspec import structs

from bluesminds.common.errors import UpstreamFailed
from bluesminds.common.routes import DEFAULT_OPTIONS, RouteOptions
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.routing.capacity_queue import CapacityQueue
from bluesminds.gateway.routing.load import LoadRegistry, RunningAttempt
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.backoff import Backoff
from bluesminds.gateway.upstream.extra_budget import ExtraBudget
from bluesminds.gateway.upstream.failures import AttemptFailure
from bluesminds.gateway.upstream.hedging import Hedger
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.gateway.upstream.retry_budget import RetryBudget
from bluesminds.gateway.upstream.server_exchange import ServerExchange, UpstreamSocket
from bluesminds.gateway.upstream.slots import AttemptSlots
from bluesminds.gateway.upstream.timeouts import TimeoutTable, with_server
from bluesminds.gateway.upstream.tries import AttemptLog, BegunAttempt, Tries
from bluesminds.http.client.pool import Pool, Timeouts, WebSocketRequest

T = TypeVar("T")


class Sender:
    """`attempts`: maximum attempts of one request for each model, over all its servers."""

    def __init__(
        self,
        pool: Pool,
        outcomes: AttemptOutcomes,
        load: LoadRegistry,
        queue: CapacityQueue,
        keys: ServerKeyRegistry,
        *,
        timeouts: TimeoutTable,
        attempts: int,
        backoff: Backoff,
        hedges: ExtraBudget,
    ) -> None:
        self.outcomes = outcomes
        self._load = load
        self._timeouts = timeouts
        self._attempts = attempts
        self._backoff = backoff
        self._budget = RetryBudget()
        self._exchange = ServerExchange(pool, keys, outcomes)
        self._slots = AttemptSlots(load, queue)
        self._hedger = Hedger(outcomes, self._slots, hedges)

    async def send(
        self,
        call: Call,
        body: CallBody,
        targets: Sequence[Target],
        log: AttemptLog,
        routed: RoutedTargets | None = None,
    ) -> Reply:
        """The first Reply to forward; the caller closes it. `routed` has the targets of fallback models.

        Raises UpstreamFailed if no server responded.
        """
        options = DEFAULT_OPTIONS if routed is None else routed.options

        def run(begun: BegunAttempt) -> Awaitable[Reply | AttemptFailure]:
            target = begun.turn.target
            timeouts = self._timeouts_of(call, target, options, is_last=begun.is_last)
            if begun.slot is None:
                return self._exchange.attempt(call, target, body, timeouts, begun.progress)
            return self._measured_attempt(call, body, timeouts, begun, begun.slot)

        tries = Tries(call, targets, routed, self._attempts, self._backoff, self.outcomes)
        if routed is None or options.hedge_after is None or not self._hedger.is_possible(call, body):
            return await self._try_targets(call, tries, log, run, body)

        async def hedge(first: BegunAttempt) -> tuple[Reply | AttemptFailure, BegunAttempt]:
            return await self._hedger.run(call, routed, tries, first, log, run)

        self._hedger.add_request(routed)
        return await self._try_targets(call, tries, log, run, body, hedge)

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

        def run(begun: BegunAttempt) -> Awaitable[UpstreamSocket | Reply | AttemptFailure]:
            own = begun.target.server.options
            used = timeouts if own is None else with_server(timeouts, own)
            return self._exchange.shake_hands(call, begun.target, request, used)

        tries = Tries(call, targets, None, self._attempts, self._backoff, self.outcomes)
        return await self._try_targets(call, tries, log, run)

    async def _try_targets(
        self,
        call: Call,
        tries: Tries,
        log: AttemptLog,
        run: Callable[[BegunAttempt], Awaitable[T | AttemptFailure]],
        body: CallBody | None = None,
        hedge: Callable[[BegunAttempt], Awaitable[tuple[T | AttemptFailure, BegunAttempt]]] | None = None,
    ) -> T:
        """`body` is None for sessions."""
        budget = _budget_name(call, tries)
        self._budget.add_request(budget)
        while True:
            begun = await self._begin(call, tries, log, body)
            if hedge is None or begun.is_last or not tries.waiting:
                outcome = await run(begun)
            else:
                outcome, begun = await hedge(begun)
            target = begun.turn.target
            if not isinstance(outcome, AttemptFailure):
                if tries.routed is None or body is None or not body.repeatable:
                    return outcome
                if not tries.fall_back_after(target, outcome):
                    return outcome
                begun.record.fail("refused")
                continue
            begun.record.fail(outcome.reason, outcome.keys, billed=outcome.accepted)
            self.outcomes.record_failure(call, target, outcome)
            if body is not None and not body.repeatable:
                raise tries.final_error(_upload_error(outcome.error))
            tries.add_failure(begun.turn, outcome)
            if not (tries.may_continue(outcome) and self._budget.take(budget)):
                raise tries.final_error(self.outcomes.with_retry_after(call, target, outcome.error))

    async def _begin(self, call: Call, tries: Tries, log: AttemptLog, body: CallBody | None) -> BegunAttempt:
        """The next attempt, when its pause is over and its server has room."""
        turn, slot = tries.next(), None
        if turn.repetition:
            await trio.sleep_until(turn.due)
        if body is not None and self._load.enabled:  # sessions do not count
            if self._load.capped:
                turn, slot = await self._slots.take(call, tries, log)
            else:
                slot = self._slots.begin(call, turn.target)
        is_last = tries.begin(turn)
        return BegunAttempt(turn, log.try_target(turn.target), slot, is_last)

    def _timeouts_of(self, call: Call, target: Target, options: RouteOptions, *, is_last: bool) -> Timeouts:
        table, stream, own = self._timeouts, call.facts.stream, target.server.options
        if own is not None:
            return table.for_server(own, options, stream=stream, is_last=is_last)
        return table.for_stream(options, is_last=is_last) if stream else table.json

    async def _measured_attempt(
        self, call: Call, body: CallBody, timeouts: Timeouts, begun: BegunAttempt, running: RunningAttempt
    ) -> Reply | AttemptFailure:
        """An attempt that is counted as load of the server, until the Reply is closed."""
        outcome = None
        try:
            outcome = await self._exchange.attempt(call, begun.turn.target, body, timeouts, begun.progress)
            if isinstance(outcome, AttemptFailure):
                running.failed()
            elif outcome.error is None:
                running.answered()
                return structs.replace(outcome, running=running)
            return outcome
        finally:
            if not isinstance(outcome, Reply) or outcome.error is not None:
                running.end()


def _budget_name(call: Call, tries: Tries) -> str:
    """Failures of a user's key must not use up the retries of others."""
    first = tries.waiting[0].target.server
    if first.is_own:
        return first.name
    return call.model if tries.routed is None else tries.routed.name


def _upload_error(error: UpstreamFailed) -> UpstreamFailed:
    message = f"{error.message} The upload had begun, so no other server was tried."
    return UpstreamFailed(error.status, error.code, message, headers=error.headers)
