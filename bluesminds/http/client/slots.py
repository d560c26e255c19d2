"""Who may use or open which connection: the pool's arithmetic, decided synchronously and without waiting.

Two caps hold at every instant: connections in total and per origin, idle ones included. Waiting is first
come, first served among those who can use what became free. While anyone waits for the total cap no
connection is idle anywhere, and a lane with waiters has no idle one; so taking an idle one overtakes nobody.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

import trio

from bluesminds.http.client.connection import Connection
from bluesminds.http.client.origin import Origin


class OriginSlots:
    """One origin's share of the pool."""

    __slots__ = ("host_lines", "idle", "open", "origin", "waiting")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.host_lines = f" HTTP/1.1\r\nHost: {origin.authority}\r\nAccept-Encoding: identity\r\n".encode(
            "ascii"
        )
        self.idle: deque[Connection] = deque()  # longest idle first
        self.open = 0  # connections being opened, in use or idle
        self.waiting: OrderedDict[int, Waiter] = OrderedDict()


class Waiter:
    """A place in the queue. Once granted it holds a connection, or (None) the right to open one."""

    __slots__ = ("connection", "granted", "lane", "number", "woken")

    def __init__(self, lane: OriginSlots, number: int) -> None:
        self.lane = lane
        self.number = number
        self.granted = False
        self.connection: Connection | None = None
        self.woken = trio.Event()


class Slots:
    """All lanes under one total. Every method leaves the caps and the queue true."""

    def __init__(self, max_total: int, max_per_origin: int) -> None:
        if max_total < 1 or max_per_origin < 1:
            raise ValueError("a pool needs room for at least one connection")
        self._max_total = max_total
        self._max_per_origin = max_per_origin
        self._total = 0
        self._issued = 0
        self.lanes: dict[Origin, OriginSlots] = {}

    def lane(self, origin: Origin) -> OriginSlots:
        lane = self.lanes.get(origin)
        if lane is None:
            lane = self.lanes[origin] = OriginSlots(origin)
        return lane

    def reserve(self, lane: OriginSlots) -> bool:
        """Count one more connection for the lane, closing another lane's longest idle one if need be."""
        if lane.open >= self._max_per_origin:
            return False
        if self._total >= self._max_total and not self._evict():
            return False
        lane.open += 1
        self._total += 1
        return True

    def enqueue(self, lane: OriginSlots) -> Waiter:
        self._issued += 1
        waiter = lane.waiting[self._issued] = Waiter(lane, self._issued)
        return waiter

    def abandon(self, waiter: Waiter) -> None:
        """The waiter gives up its place, or passes on what it was granted and never used."""
        if not waiter.granted:
            waiter.lane.waiting.pop(waiter.number, None)
        elif waiter.connection is None:
            self.forget(waiter.lane)
        else:
            self.give_back(waiter.lane, waiter.connection)

    def forget(self, lane: OriginSlots) -> None:
        """One of the lane's counted connections is closed, or was never opened."""
        lane.open -= 1
        self._total -= 1
        heir = self._first_waiting(lane)
        if heir is not None:
            self._allow(heir)

    def give_back(self, lane: OriginSlots, connection: Connection) -> None:
        """A healthy connection is free: hand it to the first in the queue, or keep it idle."""
        heir = self._first_waiting(lane)
        if heir is None:
            connection.idle_since = trio.current_time()
            lane.idle.append(connection)
        elif heir.lane is lane:
            self._grant(heir, connection)
        else:
            connection.close()
            lane.open -= 1
            self._total -= 1
            self._allow(heir)

    def drop_idle(self, lane: OriginSlots, connection: Connection) -> None:
        lane.idle.remove(connection)
        connection.close()
        self.forget(lane)

    def prune(self) -> None:
        """Forget origins nobody uses, so that callers who meet many of them do not grow the pool."""
        for origin in [o for o, lane in self.lanes.items() if not lane.open and not lane.waiting]:
            del self.lanes[origin]

    def idle(self) -> Iterator[tuple[OriginSlots, Connection]]:
        for lane in self.lanes.values():
            for connection in lane.idle:
                yield lane, connection

    def refuse_all(self) -> None:
        """Wake every waiter without a grant: nothing will become free any more."""
        for lane in self.lanes.values():
            for waiter in lane.waiting.values():
                waiter.woken.set()
            lane.waiting.clear()

    def _first_waiting(self, freed: OriginSlots) -> Waiter | None:
        """The earliest waiter who can use a slot or connection just freed in a lane."""
        first: Waiter | None = None
        for lane in self.lanes.values():
            if lane.waiting and (lane is freed or lane.open < self._max_per_origin):
                head = next(iter(lane.waiting.values()))
                if first is None or head.number < first.number:
                    first = head
        return first

    def _allow(self, waiter: Waiter) -> None:
        waiter.lane.open += 1
        self._total += 1
        self._grant(waiter, None)

    def _grant(self, waiter: Waiter, connection: Connection | None) -> None:
        del waiter.lane.waiting[waiter.number]
        waiter.granted = True
        waiter.connection = connection
        waiter.woken.set()

    def _evict(self) -> bool:
        stale = min((lane for lane in self.lanes.values() if lane.idle), key=_idle_since, default=None)
        if stale is None:
            return False
        stale.idle.popleft().close()
        stale.open -= 1
        self._total -= 1
        return True


def _idle_since(lane: OriginSlots) -> float:
    return lane.idle[0].idle_since
