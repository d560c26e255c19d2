"""Argon2id: few at a time, bounded in waiting, and as slow for nobody as for somebody."""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio
import trio.testing
from argon2 import PasswordHasher, extract_parameters

from bluesminds.errors import InvalidRequest, RateLimited
from bluesminds.identity.password import AT_ONCE, CROWD, MAX_WAITING, NOBODY, REST, Passwords

PASSWORD = "correct horse"
T = TypeVar("T")


async def test_only_the_password_verifies() -> None:
    passwords = Passwords()
    stored = await passwords.hash(PASSWORD)
    assert await passwords.verify(PASSWORD, stored)
    assert not await passwords.verify(PASSWORD + " ", stored)
    assert not await passwords.verify("x" * 1025, stored)
    assert not await passwords.verify("", None)
    assert not await passwords.verify(PASSWORD, "not a hash")
    assert await passwords.hash(PASSWORD) != stored


async def test_an_accent_is_the_same_on_every_keyboard() -> None:
    passwords = Passwords()
    assert await passwords.verify("caf\u00e9 cr\u00e8me", await passwords.hash("cafe\u0301 cre\u0300me"))


async def test_the_cost_is_that_of_the_profile() -> None:
    stored = await Passwords().hash(PASSWORD)
    for one in (stored, NOBODY):
        found = extract_parameters(one)
        assert (found.memory_cost, found.time_cost) == (65536, 3)
        assert not Passwords().is_outdated(one)
    assert Passwords().is_outdated(PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD))


@pytest.mark.parametrize("password", ["", "nine char", "x" * 1025, "é" * 600])
async def test_a_password_has_a_length(password: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await Passwords().hash(password, param="new_password")
    assert (caught.value.code, caught.value.param) == ("invalid_password", "new_password")


async def test_nobody_takes_as_long_as_somebody() -> None:
    passwords = Passwords()
    stored = await passwords.hash(PASSWORD)

    async def seconds(hash_: str | None) -> float:
        began = time.process_time()
        await passwords.verify("wrong password", hash_)
        return time.process_time() - began

    known, unknown = [], []
    for _ in range(7):
        known.append(await seconds(stored))
        unknown.append(await seconds(None))
    # By processor time, and the least of each, so that other work on the machine does not count.
    assert min(unknown) == pytest.approx(min(known), rel=0.25)


async def at_once(passwords: Passwords, count: int, compute: Callable[[], T]) -> Counter[T]:
    found: Counter[T] = Counter()

    async def attempt() -> None:
        found[await passwords._work(compute)] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(attempt)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
async def test_a_crowd_yields_to_all_other_work_and_who_comes_alone_does_not() -> None:
    def policy() -> int:
        return os.sched_getscheduler(0)

    passwords = Passwords()
    assert await at_once(passwords, AT_ONCE, policy) == {os.SCHED_OTHER: AT_ONCE}
    began = trio.current_time()
    assert await at_once(passwords, AT_ONCE + MAX_WAITING, policy) == {
        os.SCHED_IDLE: AT_ONCE + MAX_WAITING - CROWD,
        os.SCHED_OTHER: CROWD,
    }
    assert trio.current_time() - began >= REST * (1 + (MAX_WAITING - CROWD) / AT_ONCE)
    assert await at_once(passwords, AT_ONCE, policy) == {os.SCHED_OTHER: AT_ONCE}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
async def test_where_no_priority_may_be_set_passwords_work_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As under a unit with SystemCallFilter=~@resources."""
    asked: list[int] = []

    def refuse(pid: int, policy: int, param: os.sched_param) -> None:
        asked.append(policy)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with trio.fail_after(10):
        assert await at_once(Passwords(), AT_ONCE + MAX_WAITING, str) == {"": AT_ONCE + MAX_WAITING}
    assert asked == [os.SCHED_IDLE] * (AT_ONCE + MAX_WAITING - CROWD)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
async def test_a_crowd_on_a_machine_that_is_never_idle_is_computed_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    idle, began = threading.Event(), threading.Semaphore(AT_ONCE)

    def work() -> str:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            return "hash"
        assert began.acquire(blocking=False), "more of them wait for the machine than may be"
        idle.wait(5)
        return "late"

    passwords = Passwords()
    everybody = AT_ONCE + MAX_WAITING
    assert await at_once(passwords, everybody, work) == {"hash": everybody}
    assert await at_once(passwords, everybody, work) == {"hash": everybody}
    idle.set()
    with trio.fail_after(5):
        while passwords._aside.borrowed_tokens:
            await trio.lowlevel.checkpoint()


async def test_few_work_some_wait_and_the_rest_is_refused_at_once() -> None:
    passwords = Passwords()
    going, working = threading.Event(), threading.Semaphore(AT_ONCE)
    outcomes: list[str] = []

    def work() -> str:
        assert working.acquire(blocking=False), "more at once than may be"
        going.wait(5)
        working.release()
        return "hash"

    async def attempt() -> None:
        try:
            outcomes.append(await passwords._work(work))
        except RateLimited as exc:
            outcomes.append(exc.code)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(attempt)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert outcomes == ["too_many_attempts"] * (50 - AT_ONCE - MAX_WAITING)
        going.set()
    assert outcomes.count("hash") == AT_ONCE + MAX_WAITING
    assert AT_ONCE <= 2
