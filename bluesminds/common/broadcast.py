"""Values for many readers: each reader has its own queue with a bound."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

QUEUE: Final = 1000  # values of one reader
READERS: Final = 100
READERS_OF_OWNER: Final = 8


class TooManyReaders(Exception):
    """READERS read, or READERS_OF_OWNER of the same owner."""


class Subscription(Generic[T]):
    """Values that `accept` allows. If QUEUE values wait, later ones are dropped and counted."""

    def __init__(self, broadcast: "Broadcast[T]", owner: str, accept: Callable[[T], bool]) -> None:
        self.owner = owner
        self._broadcast = broadcast
        self._accept = accept
        self._values: deque[T] = deque()
        self._dropped = 0
        self._changed = trio.Event()
        self._ended = False

    def offer(self, value: T) -> None:
        if not self._accept(value):
            return
        if len(self._values) >= QUEUE:
            self._dropped += 1
            return
        self._values.append(value)
        # Libraries may log in their own threads, where an event cannot be set. The reader finds their lines
        # later.
        if trio.lowlevel.in_trio_run():
            self._changed.set()

    async def receive(self, seconds: float) -> tuple[Sequence[T], int] | None:
        """The waiting values, and how many were dropped since the last call; without values after `seconds`.
        None at the end.
        """
        if not self._values:
            if self._ended:
                return None
            with trio.move_on_after(seconds):
                await self._changed.wait()
        self._changed = trio.Event()
        # One by one, because a thread may add more meanwhile.
        values = tuple([self._values.popleft() for _ in range(len(self._values))])
        dropped, self._dropped = self._dropped, 0
        return values, dropped

    def end(self) -> None:
        """No value follows."""
        self._ended = True
        self._changed.set()

    def close(self) -> None:
        self._broadcast.remove(self)


class Broadcast(Generic[T]):
    """Hands every value to all readers. `ended`: the process stops, and new readers get nothing."""

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription[T], ...] = ()
        self._ended = False

    @property
    def readers(self) -> int:
        return len(self._subscriptions)

    def publish(self, value: T) -> None:
        for subscription in self._subscriptions:
            subscription.offer(value)

    def subscribe(self, owner: str, accept: Callable[[T], bool]) -> Subscription[T]:
        """The caller closes it. Raises TooManyReaders."""
        same = sum(one.owner == owner for one in self._subscriptions)
        if len(self._subscriptions) >= READERS or same >= READERS_OF_OWNER:
            raise TooManyReaders
        subscription = Subscription(self, owner, accept)
        if self._ended:
            subscription.end()
        else:
            self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def remove(self, subscription: Subscription[T]) -> None:
        self._subscriptions = tuple(one for one in self._subscriptions if one is not subscription)

    def end(self) -> None:
        """Readers get what waits, and then the end."""
        self._ended = True
        for subscription in self._subscriptions:
            subscription.end()
