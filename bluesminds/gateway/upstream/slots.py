"""Finds a slot at a server for each attempt, and counts it as load of the server."""

import trio
from msgspec import Struct

from bluesminds.common.routes import DEFAULT_OPTIONS
from bluesminds.gateway.call import Call
from bluesminds.gateway.routing.capacity_queue import CapacityQueue, QueuedRequest
from bluesminds.gateway.routing.load import LoadRegistry, RunningAttempt
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.routed import RoutedTargets
from bluesminds.gateway.upstream.tries import AttemptLog, Tries, Try


class AttemptSlots(Struct, frozen=True):
    load: LoadRegistry
    queue: CapacityQueue

    def begin(self, call: Call, target: Target) -> RunningAttempt:
        """Without regard to caps."""
        return self.load.begin(target.server.name, target.model or call.model, stream=call.facts.stream)

    def try_begin(self, call: Call, target: Target, routed: RoutedTargets) -> RunningAttempt | None:
        """None if the server is at a cap."""
        if self.load.capped:
            return self.queue.begin(target, _queued(call, routed))
        return self.begin(call, target)

    async def take(self, call: Call, tries: Tries, log: AttemptLog) -> tuple[Try, RunningAttempt]:
        """The next target that is below its caps. If none is, the targets of fallback models are added, and
        then the request waits. Servers that are ejected are only used if no other one is left.
        """
        request = _queued(call, tries.routed)
        while True:
            now = trio.current_time()
            due = tries.due_by(now)
            for one in due:
                if (slot := self.queue.begin(one.target, request)) is not None:
                    return one, slot
            if not tries.fall_back(due[0].target, "limit"):
                break
        try:
            target, slot = await self.queue.wait([one.target for one in due], request)
        finally:
            log.has_queued(trio.current_time() - now)
        return next(one for one in due if one.target is target), slot


def _queued(call: Call, routed: RoutedTargets | None) -> QueuedRequest:
    options = DEFAULT_OPTIONS if routed is None else routed.options
    return QueuedRequest(
        call.account,
        call.model,
        call.facts.stream,
        "" if routed is None else routed.name,
        options.queue_timeout,
        options.queue_size,
    )
