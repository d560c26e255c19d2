"""Passwords: Argon2id (RFC 9106, the low-memory profile of 64 MiB), off the event loop, at most two at a
time.

Two, because each costs 64 MiB and a core: a flood of logins must not starve the request path.
"""

import trio
from argon2 import PasswordHasher

from bluesminds.errors import InvalidRequest

MIN_LENGTH = 10
MAX_LENGTH = 1024  # bytes; hashing cost grows with length


class Passwords:
    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._limiter = trio.CapacityLimiter(2)

    async def hash(self, password: str) -> str:
        """Raises InvalidRequest for a password that is too short or too long."""
        if not len(password) >= MIN_LENGTH or len(password.encode()) > MAX_LENGTH:
            raise InvalidRequest(
                "invalid_password",
                f"A password has {MIN_LENGTH} to {MAX_LENGTH} characters.",
                param="password",
            )
        return await trio.to_thread.run_sync(self._hasher.hash, password, limiter=self._limiter)
