"""The attempts of one request: which targets are left, and what each failure leaves.

A target that has failed may be tried again after a pause, if that is safe. The fallback models of a route
come before a second attempt, but the only server of the first model is tried once more before them. They also
come after a refusal that depends on the model, if the route says so.
"""

import math
from collections.abc import Sequence
from typing import Final, Protocol

import trio
from msgspec import Struct

from bluesminds.common.errors import UpstreamFailed
from bluesminds.common.routes import FallbackReason
from bluesminds.common.values import Usage
from bluesminds.gateway.call import Call
from bluesminds.gateway.routing.load import RunningAttempt
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.routing.server_keys import AttemptKey
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.backoff import Backoff
from bluesminds.gateway.upstream.failures import AttemptFailure
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.gateway.upstream.progress import AttemptProgress
from bluesminds.wire.errors import refusal_kind

ALL_MODELS: Final = 2  # attempts for a model and its fallback models together, as a multiple of those for one


class AttemptRecord(Protocol):
    """Records the end of one attempt."""

    def fail(self, reason: str, keys: Sequence[AttemptKey] = (), *, billed: bool = False) -> int:
        """`keys`: those of a server that has several. `billed`: the vendor may bill the attempt. Returns its
        estimated cost then, in nano-USD.
        """

    def lose(self, usage: Usage) -> int:
        """Another attempt of a hedged request has answered first. `usage`: what this one has used. Returns
        its cost in nano-USD.
        """

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


class Try(Struct, frozen=True, eq=False, gc=False):
    """An attempt, not before `due`. `repetition`: the number of earlier attempts with this server."""

    target: Target
    due: float = -math.inf  # Trio's clock
    repetition: int = 0


class BegunAttempt(Struct, frozen=True, eq=False, gc=False):
    """`slot` counts it as load of the server. `is_last`: no other target is left. `progress` is set if the
    attempt can be given up for another one.
    """

    turn: Try
    record: AttemptRecord
    slot: RunningAttempt | None
    is_last: bool
    progress: AttemptProgress | None = None

    @property
    def target(self) -> Target:
        return self.turn.target


class Tries:
    """`waiting`: the attempts that are left. `count`: those that have begun. `attempts`: at most, for each
    model.
    """

    __slots__ = (
        "_attempts",
        "_backoff",
        "_call",
        "_failed",
        "_most",
        "_outcomes",
        "count",
        "routed",
        "waiting",
    )

    def __init__(
        self,
        call: Call,
        targets: Sequence[Target],
        routed: RoutedTargets | None,
        attempts: int,
        backoff: Backoff,
        outcomes: AttemptOutcomes,
    ) -> None:
        self.waiting = [Try(target) for target in targets]
        self.count = 0
        self.routed = routed
        self._call = call
        self._attempts = attempts
        self._most = attempts if routed is None else ALL_MODELS * attempts
        self._backoff = backoff
        self._outcomes = outcomes
        self._failed: dict[str, int] = {}  # attempts by model

    def next(self) -> Try:
        waiting = self.waiting
        return waiting[0] if len(waiting) == 1 else min(waiting, key=_due)

    def due_by(self, now: float) -> list[Try]:
        """Targets that need not wait for a pause; unusable servers only if there is no other."""
        due = sorted((one for one in self.waiting if one.due <= now), key=_due)
        if len(due) > 1:
            due = [one for one in due if self._outcomes.is_usable(self._call, one.target)] or due
        return due

    def begin(self, turn: Try) -> bool:
        """The attempt begins. Returns whether no other target is left for it."""
        self.count += 1
        waiting = self.waiting
        waiting.remove(turn)
        is_last = not waiting or waiting[0].repetition > 0
        is_last = is_last or self._failed.get(turn.target.serves, 0) + 1 >= self._attempts
        if is_last and self.routed is not None and self.count < self._most:
            return not self.routed.has_more("timeout")
        return is_last

    def add_failure(self, turn: Try, failure: AttemptFailure) -> None:
        """What is left after a failed attempt: `waiting` may get a repetition, and the targets of a fallback
        model.
        """
        model, routed = turn.target.serves, self.routed
        self._failed[model] = self._failed.get(model, 0) + 1
        again = None
        if self._failed[model] >= self._attempts:
            self.waiting = [one for one in self.waiting if one.target.serves != model]
        else:
            again = self._repetition(turn, failure)
        if routed is not None and self.count < self._most and all(one.repetition for one in self.waiting):
            is_only = not (model or self.waiting) and again is not None and again.repetition == 1
            if not (is_only and failure.kind == "error"):
                self.fall_back(turn.target, failure.kind)
        if again is not None:
            self.waiting.append(again)

    def add_lost_failure(self, turn: Try, failure: AttemptFailure) -> None:
        """A failure that decides nothing, because another attempt is still running."""
        model = turn.target.serves
        self._failed[model] = self._failed.get(model, 0) + 1
        if (again := self._repetition(turn, failure)) is not None:
            self.waiting.append(again)

    def may_continue(self, failure: AttemptFailure) -> bool:
        """Whether another attempt may follow this failure."""
        routed = self.routed
        repeats = not failure.accepted or routed is None or routed.options.repeat_accepted
        return bool(self.waiting) and self.count < self._most and repeats

    def fall_back_after(self, target: Target, outcome: object) -> bool:
        """After a refusal that depends on the model, only the targets of the next model are left: the other
        servers of this one would refuse too. False for any other outcome.
        """
        if self.count >= self._most or not isinstance(outcome, Reply) or outcome.error is None:
            return False
        kind = refusal_kind(outcome.error)
        earlier, self.waiting = self.waiting, []
        if kind is None or not self.fall_back(target, kind):
            self.waiting = earlier
            return False
        outcome.close()
        return True

    def fall_back(self, failed: Target, reason: FallbackReason) -> bool:
        """Add the targets of the next model. False if there is none, or if the route does not allow it."""
        more = () if self.routed is None else self.routed.take(reason)
        if more:
            self.waiting += [Try(target) for target in more]
            self._outcomes.record_replacement(self._call, failed, more[0], reason)
        return bool(more)

    def _repetition(self, failed: Try, failure: AttemptFailure) -> Try | None:
        """Another attempt with the same server after a pause. None if that is not safe, or of no use."""
        if not failure.repeatable or self._outcomes.seconds_until_trial(self._call, failed.target):
            return None
        pause = self._backoff.pause(failed.repetition, failure.retry_after)
        return Try(failed.target, trio.current_time() + pause, failed.repetition + 1)

    def final_error(self, error: UpstreamFailed) -> UpstreamFailed:
        """SDKs should not retry if the gateway has retried already. The exception is 429, because SDKs wait
        longer than the gateway.
        """
        if self.count == 1 or error.status == 429:
            return error
        return error.with_headers({"x-should-retry": "false"})


def _due(turn: Try) -> float:
    return turn.due
