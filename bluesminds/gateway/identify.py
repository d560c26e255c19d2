"""Key to Caller, without a database on the hot path.

Found and unknown digests are kept for a few seconds; `forget` empties the cache at once, so a key revoked
through this process is refused from the next request on, and one revoked elsewhere after `cache_seconds`. A
look-up that was under way when `forget` was called does not enter the cache. Junk is refused by its
checksum before anything is hashed.
"""

from collections.abc import Awaitable, Callable

import trio

from bluesminds.clock import Clock
from bluesminds.crypto import is_well_formed, key_digest
from bluesminds.errors import Unauthenticated, Unavailable
from bluesminds.values import Arrival, Caller
from storage.base import StorageUnavailable
from storage.keys import KeyHolder

MAX_CACHED = 50_000  # digests of each kind

LookUp = Callable[[bytes], Awaitable[KeyHolder | None]]


class KeyRing:
    """Callers by key digest. `look_up` asks the store; default limits (0 is none) serve keys without their
    own.
    """

    def __init__(
        self,
        look_up: LookUp,
        *,
        pepper: bytes,
        clock: Clock,
        cache_seconds: float,
        requests_per_minute: int,
        concurrency: int,
    ) -> None:
        self._look_up = look_up
        self._pepper = pepper
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._defaults = (requests_per_minute, concurrency)
        self._callers: dict[bytes, tuple[float, Caller | Unauthenticated]] = {}
        self._epoch = 0
        self.used: dict[str, int] = {}  # key id to wall time in ms, taken by the keeper that stores it

    def forget(self) -> None:
        """Drop everything known: keys or users have changed."""
        self._callers.clear()
        self._epoch += 1

    async def identify(self, arrival: Arrival) -> Caller:
        """Raises Unauthenticated, or Unavailable when the store cannot answer."""
        digest = self._digest(arrival)
        cached = self._callers.get(digest)
        if cached is None or cached[0] <= trio.current_time():
            found = await self._load(digest, arrival)
        else:
            found = cached[1]
        if isinstance(found, Unauthenticated):
            raise Unauthenticated(found.code, found.message)
        if found.expires_at is not None and found.expires_at <= arrival.at_ms:
            raise Unauthenticated("api_key_expired", "This API key has expired. Create a new one.")
        self.used[found.key_id] = arrival.at_ms
        return found

    def _digest(self, arrival: Arrival) -> bytes:
        key = arrival.credential
        if not key:
            raise Unauthenticated(
                "missing_api_key", "No API key was sent. Send it as `Authorization: Bearer bm_…`."
            )
        if not is_well_formed(key):
            raise Unauthenticated("invalid_api_key", _not_a_key(arrival))
        return key_digest(self._pepper, key)

    async def _load(self, digest: bytes, arrival: Arrival) -> Caller | Unauthenticated:
        epoch = self._epoch
        try:
            owner = await self._look_up(digest)
        except StorageUnavailable as exc:
            raise Unavailable(
                "storage_unavailable", "Keys cannot be checked right now. Try again shortly."
            ) from exc
        found = self._judge(owner, arrival)
        if epoch == self._epoch:
            self._remember(digest, found)
        return found

    def _remember(self, digest: bytes, found: Caller | Unauthenticated) -> None:
        if len(self._callers) >= MAX_CACHED:
            self._callers.pop(next(iter(self._callers)))
        self._callers[digest] = (trio.current_time() + self._cache_seconds, found)

    def _judge(self, owner: KeyHolder | None, arrival: Arrival) -> Caller | Unauthenticated:
        if owner is None:
            return Unauthenticated("invalid_api_key", _not_a_key(arrival))
        key = owner.key
        if key.revoked_at is not None:
            return Unauthenticated("api_key_revoked", "This API key has been revoked. Create a new one.")
        if owner.user_disabled_at is not None:
            return Unauthenticated("user_disabled", "The account of this API key is disabled.")
        rpm, concurrency = self._defaults
        return Caller(
            key_id=key.id,
            user_id=key.user_id,
            key_name=key.name,
            requests_per_minute=rpm if key.rpm is None else key.rpm,
            concurrency=concurrency if key.concurrency is None else key.concurrency,
            expires_at=key.expires_at,
        )


def _not_a_key(arrival: Arrival) -> str:
    ending = (arrival.credential or "")[-4:] if len(arrival.credential or "") > 12 else ""
    which = f" (it ends in {ending})" if ending.isascii() and ending.isalnum() else ""
    where = f"in the `{arrival.credential_header}` header{which}"
    return f"The API key {where} is not known here. Check it for typing errors."
