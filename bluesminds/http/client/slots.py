"""Connection limits of the pool: which request may use or open which connection. Nothing here waits.

Two limits hold at every instant: connections in total and per origin, idle ones included. Waiters are served
in order of arrival, among those that can use what became free. While a waiter waits for the total limit, no
connection is idle; an origin with waiters has no idle connection. So using an idle one never overtakes.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

import trio

from bluesminds.http.client.connection import UpstreamConnection
from bluesminds.http.client.origin import UpstreamOrigin


class OriginSlots:
    """The connections and waiters of one origin."""

    __slots__ = ("host_lines", "idle", "open", "origin", "waiting")

    def __init__(self, origin: UpstreamOrigin) -> None:
        self.origin = origin
        self.host_lines = f" HTTP/1.1\r\nHost: {origin.authority}\r\nAccept-Encoding: identity\r\n".encode(
            "ascii"
        )
        self.idle: deque[UpstreamConnection] = deque()  # longest idle first
        self.open = 0  # connections being opened, in use or idle
        self.waiting: OrderedDict[int, Waiter] = OrderedDict()


class Waiter:
    """A queued request. Once granted it has a connection, or None for permission to open one."""

    __slots__ = ("connection", "granted", "number", "slots", "woken")

    def __init__(self, slots: OriginSlots, number: int) -> None:
        self.slots = slots
        self.number = number
        self.granted = False
        self.connection: UpstreamConnection | None = None
        self.woken = trio.Event()


class PoolSlots:
    """All origins under one total limit. Every method keeps the limits and the queue consistent."""

    def __init__(self, max_total: int, max_per_origin: int) -> None:
        if max_total < 1 or max_per_origin < 1:
            raise ValueError("a pool needs at least one connection")
        self._max_total = max_total
        self._max_per_origin = max_per_origin
        self._total = 0
        self._issued = 0
        self.by_origin: dict[UpstreamOrigin, OriginSlots] = {}

    def for_origin(self, origin: UpstreamOrigin) -> OriginSlots:
        slots = self.by_origin.get(origin)
        if slots is None:
            slots = self.by_origin[origin] = OriginSlots(origin)
        return slots

    def reserve(self, slots: OriginSlots) -> bool:
        """Count one more connection, closing the longest idle one of another origin if needed."""
        if slots.open >= self._max_per_origin:
            return False
        if self._total >= self._max_total and not self._evict():
            return False
        slots.open += 1
        self._total += 1
        return True

    def enqueue(self, slots: OriginSlots) -> Waiter:
        self._issued += 1
        waiter = slots.waiting[self._issued] = Waiter(slots, self._issued)
        return waiter

    def cancel(self, waiter: Waiter) -> None:
        """Remove the waiter from the queue, or pass on the grant it did not use."""
        if not waiter.granted:
            waiter.slots.waiting.pop(waiter.number, None)
        elif waiter.connection is None:
            self.release(waiter.slots)
        else:
            self.return_connection(waiter.slots, waiter.connection)

    def release(self, slots: OriginSlots) -> None:
        """One of the origin's counted connections is closed, or was never opened."""
        slots.open -= 1
        self._total -= 1
        successor = self._first_waiting(slots)
        if successor is not None:
            self._grant_new(successor)

    def return_connection(self, slots: OriginSlots, connection: UpstreamConnection) -> None:
        """A reusable connection is free: pass it to the first waiter, or keep it idle."""
        successor = self._first_waiting(slots)
        if successor is None:
            connection.idle_since = trio.current_time()
            slots.idle.append(connection)
        elif successor.slots is slots:
            self._grant(successor, connection)
        else:
            connection.close()
            slots.open -= 1
            self._total -= 1
            self._grant_new(successor)

    def close_idle(self, slots: OriginSlots, connection: UpstreamConnection) -> None:
        slots.idle.remove(connection)
        connection.close()
        self.release(slots)

    def prune(self) -> None:
        """Remove unused origins, so that many origins do not grow the pool."""
        unused = [slots.origin for slots in self.by_origin.values() if not (slots.open or slots.waiting)]
        for origin in unused:
            del self.by_origin[origin]

    def idle(self) -> Iterator[tuple[OriginSlots, UpstreamConnection]]:
        for slots in self.by_origin.values():
            for connection in slots.idle:
                yield slots, connection

    def wake_all(self) -> None:
        """Wake every waiter without a grant: the pool is closing."""
        for slots in self.by_origin.values():
            for waiter in slots.waiting.values():
                waiter.woken.set()
            slots.waiting.clear()

    def _first_waiting(self, freed: OriginSlots) -> Waiter | None:
        """The earliest waiter that can use a slot or connection just freed in `freed`."""
        first: Waiter | None = None
        for slots in self.by_origin.values():
            if slots.waiting and (slots is freed or slots.open < self._max_per_origin):
                head = next(iter(slots.waiting.values()))
                if first is None or head.number < first.number:
                    first = head
        return first

    def _grant_new(self, waiter: Waiter) -> None:
        waiter.slots.open += 1
        self._total += 1
        self._grant(waiter, None)

    def _grant(self, waiter: Waiter, connection: UpstreamConnection | None) -> None:
        del waiter.slots.waiting[waiter.number]
        waiter.granted = True
        waiter.connection = connection
        waiter.woken.set()

    def _evict(self) -> bool:
        with_idle = (slots for slots in self.by_origin.values() if slots.idle)
        stale = min(with_idle, key=_idle_since, default=None)
        if stale is None:
            return False
        stale.idle.popleft().close()
        stale.open -= 1
        self._total -= 1
        return True


def _idle_since(slots: OriginSlots) -> float:
    return slots.idle[0].idle_since
