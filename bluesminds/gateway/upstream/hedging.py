"""Hedged requests: if the first content of a stream is late, the request is also sent to another target.

The first content wins, and the other attempt is cancelled (Dean and Barroso, "The tail at scale", 2013).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio
from msgspec import Struct, structs

from bluesminds.common.money import read_usd
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.routing.plans import Target, may_hedge
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.extra_budget import ExtraBudget
from bluesminds.gateway.upstream.failures import AttemptFailure
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.gateway.upstream.progress import AttemptProgress
from bluesminds.gateway.upstream.slots import AttemptSlots
from bluesminds.gateway.upstream.tries import AttemptLog, BegunAttempt, Tries

HEDGE_LOST: Final = "hedge_lost"  # the reason of an attempt that another one has overtaken
A = TypeVar("A")
HedgeOutcome = Reply | AttemptFailure


class Hedger(Struct, frozen=True):
    outcomes: AttemptOutcomes
    slots: AttemptSlots
    budget: ExtraBudget

    def is_possible(self, call: Call, body: CallBody) -> bool:
        """What a server stores would be stored at two servers."""
        return call.facts.stream and body.repeatable and not body.stores

    def add_request(self, routed: RoutedTargets) -> None:
        self.budget.add_request(routed.name, routed.options.hedge_share)

    async def run(
        self,
        call: Call,
        routed: RoutedTargets,
        tries: Tries,
        first: BegunAttempt,
        log: AttemptLog,
        attempt: Callable[[BegunAttempt], Awaitable[HedgeOutcome]],
    ) -> tuple[HedgeOutcome, BegunAttempt]:
        """The outcome that decides, and its attempt. What has failed before is recorded."""
        first = structs.replace(first, progress=AttemptProgress())
        second: BegunAttempt | None = None
        reserved = 0

        def begin_second() -> BegunAttempt | None:
            nonlocal second, reserved
            if (found := self._begin_second(call, routed, tries, first.target, log)) is not None:
                second, reserved = found
            return second

        after = routed.options.hedge_after or 0.0
        try:
            found = await run_hedged(attempt, first, begin_second, after, _overtaken)
        except BaseException:  # the usage row is about the attempt that began last
            if second is not None:
                self._lose(call, first)
            raise
        spent = 0
        for one, outcome in found.ended:
            if isinstance(outcome, AttemptFailure):
                spent += one.record.fail(outcome.reason, outcome.keys, billed=outcome.accepted)
                self.outcomes.record_failure(call, one.target, outcome)
                tries.add_lost_failure(one.turn, outcome)
            elif outcome.error is not None:
                one.record.fail("refused")
            else:
                spent += self._lose(call, one)
        for one in found.cancelled:
            spent += self._lose(call, one)
        found.decisive.record.decide()
        if second is not None:
            self.budget.correct(routed.name, call.context.at_ms, spent - reserved)
        return found.outcome, found.decisive

    def _begin_second(
        self, call: Call, routed: RoutedTargets, tries: Tries, first: Target, log: AttemptLog
    ) -> tuple[BegunAttempt, int] | None:
        """The second attempt, and the nano-USD that are reserved for the one that loses. None if no healthy
        target has room, or if the route has used up its share or its amount.
        """
        daily = read_usd(routed.options.hedge_daily_usd)
        for turn in tries.waiting:
            target = turn.target
            if turn.repetition or not may_hedge(first, target) or not self.outcomes.is_usable(call, target):
                continue
            if (slot := self.slots.try_begin(call, target, routed)) is None:
                continue
            nano = max(log.input_cost(first), log.input_cost(target))
            if not self.budget.take(routed.name, call.context.at_ms, nano, daily):
                slot.end()
                return None
            is_last = tries.begin(turn)
            return BegunAttempt(turn, log.try_target(target), slot, is_last, AttemptProgress()), nano
        return None

    def _lose(self, call: Call, lost: BegunAttempt) -> int:
        """Returns the cost in nano-USD."""
        self.outcomes.record_lost(call, lost.target, HEDGE_LOST)
        return 0 if lost.progress is None else lost.record.lose(lost.progress.usage(call.facts))


def _overtaken(attempt: BegunAttempt) -> None:
    if attempt.slot is not None:
        attempt.slot.overtaken()


class HedgeResult(Struct, Generic[A], frozen=True):
    """The attempt that decides, and its outcome. `ended`: the others with an outcome, of which every Reply is
    closed. `cancelled`: those without one.
    """

    decisive: A
    outcome: HedgeOutcome
    ended: Sequence[tuple[A, HedgeOutcome]]
    cancelled: Sequence[A]


async def run_hedged(
    run: Callable[[A], Awaitable[HedgeOutcome]],
    first: A,
    begin_second: Callable[[], A | None],
    after: float,
    overtaken: Callable[[A], None],
) -> HedgeResult[A]:
    """Run the first attempt, and the second one `after` seconds later if the first has no outcome yet.
    `overtaken` is called for an attempt before it is cancelled. An error of the request decides at once only
    if the first attempt has it: the second server may have another opinion. If the first attempt then fails,
    the error of the second decides, because that server has judged the request.
    """
    ended: list[tuple[A, HedgeOutcome | Exception]] = []
    woken = trio.Event()

    async def run_one(attempt: A) -> None:
        try:
            outcome: HedgeOutcome | Exception = await run(attempt)
        except Exception as exc:  # raised below, without an exception group
            outcome = exc
        ended.append((attempt, outcome))
        woken.set()

    running, seen, decided = [first], 0, None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_one, first)
            with trio.move_on_after(after):
                await woken.wait()
            if not ended and (second := begin_second()) is not None:
                running.append(second)
                nursery.start_soon(run_one, second)
            while decided is None:
                if seen == len(ended):
                    woken = trio.Event()
                    await woken.wait()
                attempt, outcome = ended[seen]
                seen += 1
                running.remove(attempt)
                if _decides(outcome, is_first=attempt is first):
                    decided = attempt, outcome
                elif not running:
                    decided = next((one for one in ended if isinstance(one[1], Reply)), (attempt, outcome))
            for other in running:
                overtaken(other)
            nursery.cancel_scope.cancel()
    except BaseException:
        _close(ended)
        raise
    attempt, outcome = decided
    _close([one for one in ended if one[0] is not attempt])
    if isinstance(outcome, Exception):
        raise outcome
    others = [(one, what) for one, what in ended if one is not attempt and not isinstance(what, Exception)]
    known = [attempt, *(one for one, _ in others)]
    return HedgeResult(attempt, outcome, others, [one for one in running if one not in known])


def _close(ended: Sequence[tuple[A, HedgeOutcome | Exception]]) -> None:
    for _, outcome in ended:
        if isinstance(outcome, Reply):
            outcome.close()


def _decides(outcome: HedgeOutcome | Exception, *, is_first: bool) -> bool:
    if isinstance(outcome, Reply):
        return is_first or outcome.error is None
    return isinstance(outcome, Exception)
