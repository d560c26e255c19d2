"""Readers of a broadcast."""

import threading

import pytest
import trio

from bluesminds.common import broadcast
from bluesminds.common.broadcast import Broadcast, TooManyReaders


def every(value: int) -> bool:
    return True


async def test_readers_get_only_accepted_values() -> None:
    numbers: Broadcast[int] = Broadcast()
    odd, all_ = numbers.subscribe("a", lambda value: value % 2 == 1), numbers.subscribe("b", every)
    for value in range(4):
        numbers.publish(value)
    assert await odd.receive(60) == ((1, 3), 0)
    assert await all_.receive(60) == ((0, 1, 2, 3), 0)


async def test_reader_that_is_slow_loses_the_newest_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "QUEUE", 2)
    numbers: Broadcast[int] = Broadcast()
    reader = numbers.subscribe("a", every)
    for value in range(5):
        numbers.publish(value)
    assert await reader.receive(60) == ((0, 1), 3)
    numbers.publish(9)
    assert await reader.receive(60) == ((9,), 0)


async def test_reader_waits_for_a_value_and_for_the_end(autojump_clock: trio.testing.MockClock) -> None:
    numbers: Broadcast[int] = Broadcast()
    reader = numbers.subscribe("a", every)
    assert await reader.receive(15) == ((), 0)
    assert trio.current_time() == 15
    async with trio.open_nursery() as nursery:
        found: list[object] = []

        async def receive() -> None:
            found.append(await reader.receive(60))

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        numbers.publish(1)
    assert found == [((1,), 0)]
    numbers.publish(2)
    numbers.end()
    assert await reader.receive(60) == ((2,), 0)
    assert await reader.receive(60) is None
    assert await numbers.subscribe("late", every).receive(60) is None


async def test_value_of_another_thread_is_read_later(autojump_clock: trio.testing.MockClock) -> None:
    numbers: Broadcast[int] = Broadcast()
    reader = numbers.subscribe("a", every)
    thread = threading.Thread(target=numbers.publish, args=(1,))
    thread.start()
    thread.join()
    assert await reader.receive(60) == ((1,), 0)


def test_readers_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcast, "READERS_OF_OWNER", 1)
    monkeypatch.setattr(broadcast, "READERS", 2)
    numbers: Broadcast[int] = Broadcast()
    first = numbers.subscribe("a", every)
    numbers.subscribe("b", every)
    for owner in ("a", "c"):
        with pytest.raises(TooManyReaders):
            numbers.subscribe(owner, every)
    first.close()
    numbers.subscribe("c", every)
    assert numbers.readers == 2
