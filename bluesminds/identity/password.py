"""Passwords: Argon2id of 64 MiB (RFC 9106's second profile, in one lane), off the event loop.

Each computation costs 64 MiB and a core for some tenths of a second, and whoever can reach the login can ask
for one. So one is computed at a time. Behind it a few may wait; the next is refused at once. Beyond a short
burst they may take half of the time: what comes then rests first and yields to other work, so that a flood of
logins cannot have a core for itself. On a machine that is never idle that would be for ever: after a while it
is computed plainly, and so is all that follows until the one left behind has ended. More than two are thus
never at work. An account that does not exist is verified against a hash of nothing, so that its answer takes
as long as any.
"""

import os
import sys
import threading
import unicodedata
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from time import thread_time
from typing import Any, Final, TypeVar

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from bluesminds.common.errors import InvalidRequest, RateLimited

MIN_LENGTH: Final = 10
MAX_LENGTH: Final = 1024  # bytes; hashing cost grows with length
MAX_WAITING: Final = 8
USUAL: Final = 0.2  # seconds that a computation takes; what is owed for one that is left
LONG: Final = 0.5  # seconds; where it takes longer, other work may have had the core meanwhile
ALLOWANCE: Final = 0.8  # seconds of rest that may be owed
PATIENCE: Final = 2.0  # seconds that a computation may wait for the machine
PAUSE: Final = 3.0  # seconds; those who wait are mostly done by then
# Salt and tag are zeros: the tag of no password that anybody could find.
NOBODY: Final = f"$argon2id$v=19$m=65536,t=3,p=1${'A' * 22}${'A' * 43}"
T = TypeVar("T")


class Passwords:
    """Every method raises RateLimited when too many are at it."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1)
        self._nobody = NOBODY
        self._turn = trio.Lock()
        self._aside = trio.CapacityLimiter(1)
        self._rested_at = 0.0  # on Trio's clock, when no rest is owed any more

    async def hash(self, password: str, *, param: str = "password") -> str:
        """Raises InvalidRequest, which names `param`, for a password that is too short or too long."""
        password = _composed(password)
        if not len(password) >= MIN_LENGTH or len(password.encode()) > MAX_LENGTH:
            raise InvalidRequest(
                "invalid_password", f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters.", param=param
            )
        return await self._work(self._hasher.hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the stored hash is of this password; with None it is not, after the same work."""
        if len(password) > MAX_LENGTH:
            return False
        return await self._work(self._matches, stored or self._nobody, _composed(password))

    def is_outdated(self, stored: str) -> bool:
        """Whether it was made with other parameters than new ones are."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _work(self, compute: Callable[..., T], *args: Any) -> T:  # noqa: ANN401
        if self._turn.statistics().tasks_waiting >= MAX_WAITING:
            raise too_many()
        async with self._turn:
            rest = self._rested_at - trio.current_time() - ALLOWANCE
            await trio.sleep(max(0.0, rest))
            return await self._compute(partial(compute, *args), aside=rest > 0)

    async def _compute(self, compute: Callable[[], T], *, aside: bool) -> T:
        timed = partial(_timed, compute)
        if aside and self._aside.available_tokens:
            with trio.move_on_after(
                PATIENCE
            ):  # a thread that is left to itself keeps its place until it ends
                return await self._owing(
                    trio.to_thread.run_sync(_yielding, timed, limiter=self._aside, abandon_on_cancel=True)
                )
        return await self._owing(trio.to_thread.run_sync(timed))

    async def _owing(self, computing: Awaitable[tuple[T, float]]) -> T:
        """The result; after it as long a rest is owed."""
        began = trio.current_time()
        self._rested_at = max(self._rested_at, began) + 2 * USUAL
        result, worked = await computing
        self._rested_at += 2 * (max(worked, min(trio.current_time() - began, LONG)) - USUAL)
        return result


def _timed(compute: Callable[[], T]) -> tuple[T, float]:
    """The result, and the seconds that this thread had a core for it."""
    began = thread_time()
    result = compute()
    return result, thread_time() - began


def _composed(password: str) -> str:
    """The same for the same characters, whichever way a keyboard writes an accent."""
    return unicodedata.normalize("NFC", password)


def too_many() -> RateLimited:
    return RateLimited(
        "too_many_attempts", "Too many people sign in right now. Try again shortly.", retry_after=PAUSE
    )


def _yielding(compute: Callable[[], T]) -> T:
    """The result, from a thread of its own that yields to every other: its priority cannot be raised again,
    and Trio's threads have other work after this.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            if sys.platform == "linux":
                with suppress(OSError):  # a sandbox may forbid it; nobody must wait for ever because of that
                    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            result.set_result(compute())
        except BaseException as exc:
            result.set_exception(exc)

    threading.Thread(target=run, name="password", daemon=True).start()
    return result.result()
