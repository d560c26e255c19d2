"""Argon2id: parameters, lengths, the dummy hash, and the bounded queue."""

import threading

import pytest
import trio
import trio.testing
from argon2 import PasswordHasher, extract_parameters

from bluesminds.common.errors import InvalidRequest, RateLimited
from bluesminds.identity.password import MAX_QUEUED, Passwords, dummy_hash

PASSWORD = "correct horse"


async def test_verify_accepts_only_the_password() -> None:
    passwords = Passwords()
    stored = await passwords.hash(PASSWORD)
    assert await passwords.verify(PASSWORD, stored)
    assert not await passwords.verify(PASSWORD + " ", stored)
    assert not await passwords.verify("x" * 1025, stored)
    assert not await passwords.verify("", None)
    assert not await passwords.verify(PASSWORD, "not a hash")
    assert await passwords.hash(PASSWORD) != stored


async def test_verify_ignores_how_an_accent_is_encoded() -> None:
    passwords = Passwords()
    assert await passwords.verify("caf\u00e9 cr\u00e8me", await passwords.hash("cafe\u0301 cre\u0300me"))


async def test_hash_has_the_parameters_of_rfc_9106_and_so_has_the_dummy_hash() -> None:
    passwords = Passwords()
    for one in (await passwords.hash(PASSWORD), dummy_hash(passwords._hasher)):
        found = extract_parameters(one)
        assert (found.memory_cost, found.time_cost, found.parallelism) == (65536, 3, 1)
        assert not passwords.is_outdated(one)
    assert passwords.is_outdated(PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD))


@pytest.mark.parametrize("password", ["", "nine char", "x" * 1025, "é" * 600])
async def test_hash_of_a_wrong_length_is_rejected(password: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await Passwords().hash(password, param="new_password")
    assert (caught.value.code, caught.value.param) == ("invalid_password", "new_password")


async def test_full_queue_rejects_the_next_computation() -> None:
    passwords = Passwords()
    computing, finish, running = trio.Event(), threading.Event(), threading.Lock()
    results: list[str] = []

    def compute() -> str:
        assert running.acquire(blocking=False), "two computations at a time"
        trio.from_thread.run_sync(computing.set)
        finish.wait()
        running.release()
        return "hash"

    async def attempt() -> None:
        results.append(await passwords._compute(compute))

    async with trio.open_nursery() as nursery:
        for _ in range(1 + MAX_QUEUED):
            nursery.start_soon(attempt)
        try:
            await computing.wait()
            await trio.testing.wait_all_tasks_blocked()
            for rejected in (passwords.hash(PASSWORD), passwords.verify(PASSWORD, None)):
                with pytest.raises(RateLimited) as caught:
                    await rejected
                assert caught.value.code == "too_many_attempts"
                assert int(caught.value.headers["retry-after"]) > 0
            assert results == []
        finally:
            finish.set()
    assert results == ["hash"] * (1 + MAX_QUEUED)
    assert not await passwords.verify(PASSWORD, None)
