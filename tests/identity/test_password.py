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

from bluesminds.common.errors import InvalidRequest, RateLimited
from bluesminds.identity import password
from bluesminds.identity.password import ALLOWANCE, LONG, MAX_WAITING, NOBODY, PATIENCE, USUAL, Passwords

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


def policy() -> int:
    return os.sched_getscheduler(0)


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
        autojump_clock.jump(LONG)

    monkeypatch.setattr(password, "PATIENCE", math.inf)
    passwords, began = Passwords(), trio.current_time()
    for number in range(20):
        await passwords._work(work)
        rested = trio.current_time() - began - (number + 1) * LONG
        assert rested == pytest.approx(max(0.0, number * LONG - ALLOWANCE))
    await trio.sleep(60)
    rested = trio.current_time()
    await passwords._work(work)
    assert trio.current_time() - rested == pytest.approx(LONG)


async def test_what_takes_long_because_of_other_work_is_not_owed_in_full(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        autojump_clock.jump(10 * LONG)

    monkeypatch.setattr(password, "PATIENCE", math.inf)
    passwords, began = Passwords(), trio.current_time()
    for _ in range(20):
        await passwords._work(work)
    # No rest of half a second is ever due beside five seconds.
    assert trio.current_time() - began == pytest.approx(20 * 10 * LONG)
    monkeypatch.setattr(password, "thread_time", autojump_clock.current_time)
    await passwords._work(work)
    began = trio.current_time()
    await passwords._work(work)
    assert trio.current_time() - began == pytest.approx(2 * 10 * LONG - ALLOWANCE), "where it had the core"


@linux
async def test_beyond_a_burst_it_yields_to_all_other_work(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> int:
        autojump_clock.jump(0.5)
        return policy()

    monkeypatch.setattr(password, "PATIENCE", math.inf)
    passwords = Passwords()
    found = [await passwords._work(work) for _ in range(20)]
    plain = found.count(os.SCHED_OTHER)
    assert found == [*[os.SCHED_OTHER] * plain, *[os.SCHED_IDLE] * (20 - plain)]
    assert ALLOWANCE / 0.5 <= plain < 20
    await trio.sleep(60)
    assert await passwords._work(policy) == os.SCHED_OTHER


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
    begun, go_on, starved = threading.Semaphore(0), threading.Event(), []

    def work() -> str:
        if policy() == os.SCHED_OTHER:
            return "hash"
        starved.append(threading.current_thread())
        begun.release()
        go_on.wait(120)
        return "late"

    passwords, everybody, asked = Passwords(), 1 + MAX_WAITING, trio.current_time()
    assert await at_once(passwords, everybody, work) == {"hash": everybody}
    assert await at_once(passwords, everybody, work) == {"hash": everybody}
    rests = 2 * everybody * (1 + 2 * USUAL)
    assert trio.current_time() - asked < PATIENCE + rests, "one waits in vain, and not each of them"
    assert begun.acquire(timeout=60)
    assert len(starved) == passwords._aside.borrowed_tokens == 1, "no more of them wait"
    go_on.set()
    starved[0].join(60)
    while passwords._aside.borrowed_tokens:
        await trio.lowlevel.checkpoint()
    monkeypatch.setattr(password, "PATIENCE", math.inf)
    assert await passwords._work(policy) == os.SCHED_IDLE, "the next one yields again"


async def test_one_works_some_wait_and_the_rest_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(password, "ALLOWANCE", math.inf)
    passwords = Passwords()
    going, working = threading.Event(), threading.Lock()
    outcomes: list[str] = []

    def work() -> str:
        assert working.acquire(blocking=False), "more at once than may be"
        going.wait(60)
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
        assert outcomes == ["too_many_attempts"] * (50 - 1 - MAX_WAITING)
        going.set()
    assert outcomes.count("hash") == 1 + MAX_WAITING


async def test_one_who_leaves_owes_a_rest_too(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a flood of logins that hang up at once could have a core for itself."""
    monkeypatch.setattr(password, "ALLOWANCE", -1.0)
    go_on, passwords = threading.Event(), Passwords()
    with trio.move_on_after(1 + PATIENCE / 2):  # the first rests for a second
        await passwords._work(go_on.wait)
    owed = passwords._rested_at
    go_on.set()
    assert owed >= 1 + 2 * USUAL
