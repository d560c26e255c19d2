"""Key to Caller, without a database on the hot path.

Found and unknown digests are kept for a few seconds; `forget` drops them at once, so a key revoked
through this process is refused from the next request on, and one revoked elsewhere after `cache_seconds`. A
look-up that was under way when `forget` was called does not enter the cache. Requests that miss the same
digest at the same time share one look-up. Junk is refused by its checksum before anything is hashed.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_well_formed, key_digest
from bluesminds.common.errors import Unauthenticated, Unavailable
from bluesminds.common.values import Caller, LimitSet, RequestContext, account_limits, read_limits
from bluesminds.gateway.authorize import check_client, name_patterns, networks_of, optional_set
from bluesminds.gateway.limits.keyless import keyless_caller
from storage.base import StorageBroken, StorageUnavailable
from storage.keys import KeyHolder

MAX_CACHED = 50_000  # digests, known and unknown

LookUp = Callable[[bytes], Awaitable[KeyHolder | None]]


class _LookUpUnderWay:
    """A look-up that others wait for. `found` stays None when whoever ran it was cancelled."""

    __slots__ = ("ended", "found")

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.found: Caller | Unauthenticated | Unavailable | None = None


class KeyAuthenticator:
    """Callers by key digest. `look_up` asks the store and opens the accounts that the caller's use is counted
    in; `is_open` says whether they still are. `tiers` are the limits by tier.
    """

    def __init__(
        self,
        look_up: LookUp,
        *,
        pepper: bytes,
        clock: Clock,
        cache_seconds: float,
        tiers: Mapping[str, LimitSet],
        is_open: Callable[[Caller], bool],
        keyless: LimitSet | None = None,
    ) -> None:
        self._look_up = look_up
        self._pepper = pepper
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._tiers = tiers
        self._is_open = is_open
        self._keyless = keyless
        self._callers: dict[bytes, tuple[float, Caller | Unauthenticated]] = {}
        self._under_way: dict[bytes, _LookUpUnderWay] = {}
        self.changes = 0  # how often `forget` was called
        self.used: dict[str, int] = {}  # key id to wall time in ms, taken by the keeper that stores it

    def forget(self, *digests: bytes) -> None:
        """Drop what is known of these, or of all: the keys have changed. Who asks from now on gets no answer
        from before.
        """
        self.changes += 1
        if not digests:
            self._callers.clear()
            self._under_way.clear()
        for digest in digests:
            self._callers.pop(digest, None)
            self._under_way.pop(digest, None)

    async def identify(self, context: RequestContext) -> Caller:
        """Raises Unauthenticated, or Unavailable when the store cannot answer. `use` must follow."""
        if self._keyless is not None and (guest := keyless_caller(context, self._keyless)) is not None:
            return guest
        digest = self._digest(context)
        cached = self._callers.get(digest)
        if cached is None or cached[0] <= trio.current_time() or not self._is_usable(cached[1]):
            found = await self._load(digest, context)
        else:
            found = cached[1]
        if isinstance(found, Unauthenticated):
            raise Unauthenticated(found.code, found.message)
        if found.expires_at is not None and found.expires_at <= context.at_ms:
            raise Unauthenticated(
                "api_key_expired",
                "This API key has expired. If it was rotated, use its current secret; else create a new key.",
            )
        return found

    def use(self, caller: Caller, context: RequestContext) -> None:
        """Raises Forbidden for a key that does not do here."""
        check_client(caller, context)
        if caller.key_id:
            self.used[caller.key_id] = context.at_ms

    def _is_usable(self, found: Caller | Unauthenticated) -> bool:
        return isinstance(found, Unauthenticated) or self._is_open(found)

    def _digest(self, context: RequestContext) -> bytes:
        key = context.credential
        if not key:
            raise Unauthenticated(
                "missing_api_key", "No API key was sent. Send it as `Authorization: Bearer bm_…`."
            )
        if not is_well_formed(key):
            raise Unauthenticated("invalid_api_key", _not_a_key(context))
        return key_digest(self._pepper, key)

    async def _load(self, digest: bytes, context: RequestContext) -> Caller | Unauthenticated:
        while (other := self._under_way.get(digest)) is not None:
            await other.ended.wait()
            if isinstance(other.found, Unavailable):
                raise _no_storage()
            if other.found is not None:
                return other.found
        mine = self._under_way[digest] = _LookUpUnderWay()
        try:
            mine.found = await self._ask(digest, context)
        finally:
            mine.ended.set()
            if self._under_way.get(digest) is mine:
                del self._under_way[digest]
                if mine.found is not None and not isinstance(mine.found, Unavailable):
                    self._remember(digest, mine.found)
        if isinstance(mine.found, Unavailable):
            raise mine.found
        return mine.found

    async def _ask(self, digest: bytes, context: RequestContext) -> Caller | Unauthenticated | Unavailable:
        try:
            return self._judge(await self._look_up(digest), context)
        except (StorageBroken, StorageUnavailable):
            return _no_storage()

    def _remember(self, digest: bytes, found: Caller | Unauthenticated) -> None:
        if len(self._callers) >= MAX_CACHED:
            self._callers.pop(next(iter(self._callers)))
        self._callers[digest] = (trio.current_time() + self._cache_seconds, found)

    def _judge(self, owner: KeyHolder | None, context: RequestContext) -> Caller | Unauthenticated:
        if owner is None:
            return Unauthenticated("invalid_api_key", _not_a_key(context))
        key = owner.key
        if key.revoked_at is not None:
            return Unauthenticated("api_key_revoked", "This API key has been revoked. Create a new one.")
        if owner.user_disabled_at is not None:
            return Unauthenticated("user_disabled", "The account of this API key is disabled.")
        return Caller(
            key_id=key.id,
            user_id=key.user_id,
            key_limits=read_limits(key.limits),
            user_limits=account_limits(self._tiers, owner.tier, read_limits(owner.user_limits)),
            expires_at=_sooner(key.expires_at, owner.ends_at),
            scopes=optional_set(key.scopes),
            models=name_patterns(key.allowed_models),
            networks=networks_of(key.allowed_ips),
            origins=optional_set(key.allowed_origins),
        )


def _sooner(one: int | None, other: int | None) -> int | None:
    """None is never."""
    return min((end for end in (one, other) if end is not None), default=None)


def _no_storage() -> Unavailable:
    return Unavailable("storage_unavailable", "Keys cannot be checked right now. Try again shortly.")


def _not_a_key(context: RequestContext) -> str:
    ending = (context.credential or "")[-4:] if len(context.credential or "") > 12 else ""
    which = f" (it ends in {ending})" if ending.isascii() and ending.isalnum() else ""
    where = f"in the `{context.credential_header}` header{which}"
    return f"The API key {where} is not known here. Check it for typing errors."
