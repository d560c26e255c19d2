"""Argon2id: few at a time, bounded in waiting, and as slow for nobody as for somebody."""

import math
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
from bluesminds.identity import password
from bluesminds.identity.password import ALLOWANCE, AT_ONCE, MAX_WAITING, NOBODY, Passwords

PASSWORD = "correct horse"
T = TypeVar("T")
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")


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


async def test_nobody_takes_as_long_as_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password, "ALLOWANCE", math.inf)
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


async def test_beyond_a_burst_it_takes_half_of_the_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        autojump_clock.jump(0.5 / AT_ONCE)

    monkeypatch.setattr(password, "PATIENCE", math.inf)
    passwords, began = Passwords(), trio.current_time()
    for number in range(20):
        worked = number * 0.5 / AT_ONCE
        await passwords._work(work)
        rested = trio.current_time() - began - worked - 0.5 / AT_ONCE
        assert rested == pytest.approx(max(0.0, worked / AT_ONCE - ALLOWANCE))
    await trio.sleep(60)
    rested = trio.current_time()
    await passwords._work(work)
    assert trio.current_time() - rested == pytest.approx(0.5 / AT_ONCE)


@linux
async def test_beyond_a_burst_it_yields_to_all_other_work(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> int:
        autojump_clock.jump(0.5)
        return os.sched_getscheduler(0)

    monkeypatch.setattr(password, "PATIENCE", math.inf)
    passwords = Passwords()
    found = [await passwords._work(work) for _ in range(20)]
    plain = found.count(os.SCHED_OTHER)
    assert found == [*[os.SCHED_OTHER] * plain, *[os.SCHED_IDLE] * (20 - plain)]
    assert ALLOWANCE / 0.5 <= plain < 20
    await trio.sleep(60)
    assert await passwords._work(work) == os.SCHED_OTHER


@linux
async def test_where_no_priority_may_be_set_passwords_work_all_the_same(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a unit with SystemCallFilter=~@resources."""
    asked: list[int] = []

    def refuse(pid: int, policy: int, param: os.sched_param) -> None:
        asked.append(policy)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(password, "ALLOWANCE", -1.0)
    monkeypatch.setattr(password, "PATIENCE", math.inf)
    assert await Passwords()._work(str) == ""
    assert asked == [os.SCHED_IDLE]


@linux
async def test_on_a_machine_that_is_never_idle_it_is_computed_all_the_same(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password, "ALLOWANCE", -1.0)
    idle, starved = threading.Event(), []

    def work() -> str:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            return "hash"
        starved.append(threading.current_thread())
        idle.wait(5)
        return "late"

    passwords = Passwords()
    everybody = AT_ONCE + MAX_WAITING
    assert await at_once(passwords, everybody, work) == {"hash": everybody}
    assert await at_once(passwords, everybody, work) == {"hash": everybody}
    assert len(starved) == passwords._aside.borrowed_tokens == AT_ONCE, "no more of them wait"
    idle.set()
    over = time.monotonic() + 5
    while passwords._aside.borrowed_tokens and time.monotonic() < over:
        await trio.lowlevel.checkpoint()
    assert passwords._aside.borrowed_tokens == 0


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
