"""Key to Caller, without a database on the hot path.

Found and unknown digests are kept for a few seconds; `forget` empties the cache at once, so a key revoked
through this process is refused from the next request on, and one revoked elsewhere after `cache_seconds`. A
look-up that was under way when `forget` was called does not enter the cache. Requests that miss the same
digest at the same time share one look-up. Junk is refused by its checksum before anything is hashed.
"""

from collections.abc import Awaitable, Callable

import trio

from bluesminds.clock import Clock
from bluesminds.crypto import is_well_formed, key_digest
from bluesminds.errors import Unauthenticated, Unavailable
from bluesminds.values import Arrival, Caller
from storage.base import StorageBroken, StorageUnavailable
from storage.keys import KeyHolder

MAX_CACHED = 50_000  # digests of each kind

LookUp = Callable[[bytes], Awaitable[KeyHolder | None]]


class _LookUpUnderWay:
    """A look-up that others wait for. `found` stays None when whoever ran it was cancelled."""

    __slots__ = ("ended", "found")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.found: Caller | Unauthenticated | Unavailable | None = None


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
        self._under_way: dict[bytes, _LookUpUnderWay] = {}
        self.used: dict[str, int] = {}  # key id to wall time in ms, taken by the keeper that stores it

    def forget(self) -> None:
        """Drop everything known: keys or users have changed."""
        self._callers.clear()
        self._under_way.clear()  # who asks from now on must not get an answer from before

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
        while (other := self._under_way.get(digest)) is not None:
            await other.ended.wait()
            if isinstance(other.found, Unavailable):
                raise _no_storage()
            if other.found is not None:
                return other.found
        mine = self._under_way[digest] = _LookUpUnderWay()
        try:
            mine.found = await self._ask(digest, arrival)
        finally:
            mine.ended.set()
            if self._under_way.get(digest) is mine:
                del self._under_way[digest]
                if mine.found is not None and not isinstance(mine.found, Unavailable):
                    self._remember(digest, mine.found)
        if isinstance(mine.found, Unavailable):
            raise mine.found
        return mine.found

    async def _ask(self, digest: bytes, arrival: Arrival) -> Caller | Unauthenticated | Unavailable:
        try:
            return self._judge(await self._look_up(digest), arrival)
        except (StorageBroken, StorageUnavailable):
            return _no_storage()

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


def _no_storage() -> Unavailable:
    return Unavailable("storage_unavailable", "Keys cannot be checked right now. Try again shortly.")


def _not_a_key(arrival: Arrival) -> str:
    ending = (arrival.credential or "")[-4:] if len(arrival.credential or "") > 12 else ""
    which = f" (it ends in {ending})" if ending.isascii() and ending.isalnum() else ""
    where = f"in the `{arrival.credential_header}` header{which}"
    return f"The API key {where} is not known here. Check it for typing errors."
