"""Password hashing with Argon2id (RFC 9106, second recommended parameter set, one lane) in a worker thread.

A computation takes 64 MiB and one core for some tenths of a second, and any client can ask for one. So one
runs at a time, MAX_QUEUED more may wait, and further ones are rejected.
"""

import unicodedata
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from bluesminds.common.errors import InvalidRequest, RateLimited

MIN_LENGTH: Final = 10
MAX_LENGTH: Final = 1024  # bytes; hashing cost grows with length
MAX_QUEUED: Final = 8
RETRY_AFTER: Final = 3.0  # seconds; about the time a full queue takes
PASSWORD_HASHER: Final = PasswordHasher(time_cost=3, memory_cost=65536, parallelism=1)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Passwords:
    """`hash` and `verify` raise RateLimited when MAX_QUEUED computations are waiting."""

    def __init__(self, hasher: PasswordHasher = PASSWORD_HASHER) -> None:
        self._hasher = hasher
        self._limiter = trio.CapacityLimiter(1)

    async def hash(self, password: str, *, param: str = "password") -> str:
        """The PHC string to store. Raises InvalidRequest, which names `param`, for a wrong length."""
        password = _normalized(password)
        if len(password) < MIN_LENGTH or len(password.encode()) > MAX_LENGTH:
            raise InvalidRequest(
                "invalid_password",
                f"A password must have {MIN_LENGTH} to {MAX_LENGTH} characters.",
                param=param,
            )
        return await self._compute(self._hasher.hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether `stored` is a hash of this password. None, for a user that does not exist, is False after
        the same work, so that the response time does not show which users exist.
        """
        if len(password) > MAX_LENGTH:
            return False
        return await self._compute(self._matches, stored or dummy_hash(self._hasher), _normalized(password))

    def is_outdated(self, stored: str) -> bool:
        """Whether the parameters of the hash are outdated."""
        return self._hasher.check_needs_rehash(stored)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _compute(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        if self._limiter.statistics().tasks_waiting >= MAX_QUEUED:
            raise RateLimited(
                "too_many_attempts",
                "Too many login attempts in progress. Try again in a few seconds.",
                retry_after=RETRY_AFTER,
            )
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)


def dummy_hash(hasher: PasswordHasher) -> str:
    """A hash with the parameters of `hasher`, of no known password: salt and tag are zeros."""
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${cost}${'A' * 22}${'A' * 43}"


def _normalized(password: str) -> str:
    """NFC: keyboards write an accent as one or as two code points."""
    return unicodedata.normalize("NFC", password)
