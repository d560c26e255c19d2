"""Hedged requests: if the first content of a stream is late, the request is also sent to another target.

The first content wins, and the other attempt is cancelled (Dean and Barroso, "The tail at scale", 2013).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio
from msgspec import Struct

from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.failures import AttemptFailure

HEDGE_LOST: Final = "hedge_lost"  # the reason of an attempt that another one has overtaken
A = TypeVar("A")
HedgeOutcome = Reply | AttemptFailure


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
    `overtaken` is called for an attempt before it is cancelled. An error of the request decides only if the
    first attempt has it: the second server may have another opinion.
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
                if not running or _decides(outcome, is_first=attempt is first):
                    decided = attempt, outcome
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
