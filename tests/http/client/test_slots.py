"""The pool's arithmetic under every order of starting, finishing, failing and giving up."""

import socket
from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesminds.http.client.connection import Connection
from bluesminds.http.client.origin import Origin
from bluesminds.http.client.slots import OriginSlots, Slots, Waiter
from bluesminds.http.wire import SocketWire

ORIGINS = [Origin("http", name, 80) for name in "abc"]
Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "start", "start", "healthy", "broken", "give up", "drop idle", "prune"]),
        st.integers(0, 20),
    ),
    max_size=60,
)


class Model:
    """Plays steps against real slots and checks after each what must always hold."""

    def __init__(self, max_total: int, max_per_origin: int) -> None:
        self.max_total = max_total
        self.max_per_origin = max_per_origin
        self.slots = Slots(max_total, max_per_origin)
        self.using: list[tuple[OriginSlots, Connection]] = []
        self.waiters: list[Waiter] = []
        self.sockets: list[socket.socket] = []

    def play(self, step: Step) -> None:
        action, number = step
        moves: dict[str, Callable[[int], None]] = {
            "start": self.start,
            "healthy": self.healthy,
            "broken": self.broken,
            "give up": self.give_up,
            "drop idle": self.drop_idle,
            "prune": lambda _: self.slots.prune(),
        }
        moves[action](number)
        self.collect_grants()
        self.check()

    def start(self, number: int) -> None:
        lane = self.slots.lane(ORIGINS[number % len(ORIGINS)])
        if lane.idle:
            assert not lane.waiting, "took an idle connection past the queue"
            self.using.append((lane, lane.idle.pop()))
        elif self.slots.reserve(lane):
            assert not lane.waiting, "opened a connection past the queue"
            self.using.append((lane, self.connection()))
        else:
            self.waiters.append(self.slots.enqueue(lane))

    def healthy(self, number: int) -> None:
        if self.using:
            self.slots.give_back(*self.using.pop(number % len(self.using)))

    def broken(self, number: int) -> None:
        if self.using:
            lane, connection = self.using.pop(number % len(self.using))
            connection.close()
            self.slots.forget(lane)

    def give_up(self, number: int) -> None:
        if self.waiters:
            self.slots.abandon(self.waiters.pop(number % len(self.waiters)))

    def drop_idle(self, number: int) -> None:
        idle = list(self.slots.idle())
        if idle:
            self.slots.drop_idle(*idle[number % len(idle)])

    def collect_grants(self) -> None:
        """Half of the granted waiters notice at once; the others may still give up."""
        granted = [waiter for waiter in self.waiters if waiter.granted]
        for waiter in granted[::2]:
            self.waiters.remove(waiter)
            self.using.append((waiter.lane, waiter.connection or self.connection()))

    def connection(self) -> Connection:
        ours, theirs = socket.socketpair()
        self.sockets += (ours, theirs)
        return Connection(SocketWire(ours), lambda _: None)

    def check(self) -> None:
        lanes = list(self.slots.lanes.values())
        total = sum(lane.open for lane in lanes)
        idle = sum(len(lane.idle) for lane in lanes)
        granted = sum(waiter.granted for waiter in self.waiters)
        assert total == len(self.using) + idle + granted <= self.max_total
        assert all(lane.open <= self.max_per_origin for lane in lanes)
        assert all(connection.wire.fileno() >= 0 for _, connection in self.using)
        for lane in lanes:
            numbers = list(lane.waiting)
            assert numbers == sorted(numbers)
            if lane.waiting:
                assert not lane.idle
                assert lane.open == self.max_per_origin or (total == self.max_total and not idle), "idle slot"
        queued = {id(waiter) for lane in lanes for waiter in lane.waiting.values()}
        assert queued == {id(waiter) for waiter in self.waiters if not waiter.granted}


@settings(max_examples=300)
@given(steps=STEPS, max_total=st.integers(1, 4), max_per_origin=st.integers(1, 4))
def test_caps_and_queue_hold_after_every_step(steps: list[Step], max_total: int, max_per_origin: int) -> None:
    async def main() -> None:
        model = Model(max_total, max_per_origin)
        try:
            for step in steps:
                model.play(step)
        finally:
            for sock in model.sockets:
                sock.close()

    trio.run(main)


async def test_waiters_are_served_in_order() -> None:
    slots = Slots(1, 1)
    lanes = [slots.lane(origin) for origin in ORIGINS]
    assert slots.reserve(lanes[0])
    waiters = [slots.enqueue(lanes[number]) for number in (1, 0, 2, 1)]
    for served, waiter in enumerate(waiters):
        slots.forget(lanes[0] if not served else waiters[served - 1].lane)
        assert waiter.granted
        assert not any(later.granted for later in waiters[served + 1 :])


@pytest.mark.parametrize("caps", [(0, 1), (1, 0), (-1, 1)])
def test_a_pool_without_room_is_refused(caps: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="room"):
        Slots(*caps)
