"""The pool's limits under every order of start, end, failure and cancellation."""

import socket
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesminds.http.client.connection import UpstreamConnection
from bluesminds.http.client.origin import UpstreamOrigin
from bluesminds.http.client.slots import OriginSlots, PoolSlots, Waiter
from bluesminds.http.wire import SocketWire

ORIGINS = [UpstreamOrigin("http", name, 80) for name in "abc"]
Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "start", "start", "healthy", "broken", "cancel", "drop idle", "prune"]),
        st.integers(0, 20),
    ),
    max_size=60,
)


class Model:
    """Plays steps against real slots and checks the invariants after each."""

    def __init__(self, max_total: int, max_per_origin: int) -> None:
        self.max_total = max_total
        self.max_per_origin = max_per_origin
        self.slots = PoolSlots(max_total, max_per_origin)
        self.using: list[tuple[OriginSlots, UpstreamConnection]] = []
        self.waiters: list[Waiter] = []
        self.sockets: list[socket.socket] = []

    def play(self, step: Step) -> None:
        action, number = step
        moves: dict[str, Callable[[int], None]] = {
            "start": self.start,
            "healthy": self.healthy,
            "broken": self.broken,
            "cancel": self.cancel_waiter,
            "drop idle": self.close_idle,
            "prune": lambda _: self.slots.prune(),
        }
        moves[action](number)
        self.collect_grants()
        self.check()

    def start(self, number: int) -> None:
        origin_slots = self.slots.for_origin(ORIGINS[number % len(ORIGINS)])
        if origin_slots.idle:
            assert not origin_slots.waiting, "took an idle connection past the queue"
            self.using.append((origin_slots, origin_slots.idle.pop()))
        elif self.slots.reserve(origin_slots):
            assert not origin_slots.waiting, "opened a connection past the queue"
            self.using.append((origin_slots, self.connection()))
        else:
            self.waiters.append(self.slots.enqueue(origin_slots))

    def healthy(self, number: int) -> None:
        if self.using:
            self.slots.return_connection(*self.using.pop(number % len(self.using)))

    def broken(self, number: int) -> None:
        if self.using:
            origin_slots, connection = self.using.pop(number % len(self.using))
            connection.close()
            self.slots.release(origin_slots)

    def cancel_waiter(self, number: int) -> None:
        if self.waiters:
            self.slots.cancel(self.waiters.pop(number % len(self.waiters)))

    def close_idle(self, number: int) -> None:
        idle = list(self.slots.idle())
        if idle:
            self.slots.close_idle(*idle[number % len(idle)])

    def collect_grants(self) -> None:
        """Half of the granted waiters continue at once; the others may still be cancelled."""
        granted = [waiter for waiter in self.waiters if waiter.granted]
        for waiter in granted[::2]:
            self.waiters.remove(waiter)
            self.using.append((waiter.slots, waiter.connection or self.connection()))

    def connection(self) -> UpstreamConnection:
        ours, theirs = socket.socketpair()
        self.sockets += (ours, theirs)
        return UpstreamConnection(SocketWire(ours), lambda _: None)

    def check(self) -> None:
        by_origin = list(self.slots.by_origin.values())
        total = sum(origin_slots.open for origin_slots in by_origin)
        idle = sum(len(origin_slots.idle) for origin_slots in by_origin)
        granted = sum(waiter.granted for waiter in self.waiters)
        assert total == len(self.using) + idle + granted <= self.max_total
        assert all(origin_slots.open <= self.max_per_origin for origin_slots in by_origin)
        assert all(connection.wire.fileno() >= 0 for _, connection in self.using)
        for origin_slots in by_origin:
            numbers = list(origin_slots.waiting)
            assert numbers == sorted(numbers)
            if origin_slots.waiting:
                assert not origin_slots.idle
                assert origin_slots.open == self.max_per_origin or (total == self.max_total and not idle), (
                    "idle slot"
                )
        queued = {id(waiter) for origin_slots in by_origin for waiter in origin_slots.waiting.values()}
        assert queued == {id(waiter) for waiter in self.waiters if not waiter.granted}


@settings(max_examples=300)
@given(steps=STEPS, max_total=st.integers(1, 4), max_per_origin=st.integers(1, 4))
def test_slots_any_steps_keep_limits_and_order(
    steps: list[Step], max_total: int, max_per_origin: int
) -> None:
    async def main() -> None:
        model = Model(max_total, max_per_origin)
        try:
            for step in steps:
                model.play(step)
        finally:
            for sock in model.sockets:
                sock.close()

    trio.run(main)


async def test_slots_waiters_are_served_in_order() -> None:
    slots = PoolSlots(1, 1)
    by_origin = [slots.for_origin(origin) for origin in ORIGINS]
    assert slots.reserve(by_origin[0])
    waiters = [slots.enqueue(by_origin[number]) for number in (1, 0, 2, 1)]
    for served, waiter in enumerate(waiters):
        slots.release(by_origin[0] if not served else waiters[served - 1].slots)
        assert waiter.granted
        assert not any(later.granted for later in waiters[served + 1 :])


@pytest.mark.parametrize("caps", [(0, 1), (1, 0), (-1, 1)])
def test_slots_without_room_are_rejected(caps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        PoolSlots(*caps)
