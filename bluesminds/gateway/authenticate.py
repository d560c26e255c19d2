"""Resolves API keys to callers, without a database query on most requests.

Known and unknown digests are cached for `cache_seconds`. `forget` drops them at once, so a key revoked
through this process is rejected from the next request on, and one revoked elsewhere after `cache_seconds`. A
lookup that was running when `forget` was called is not cached. Concurrent requests that miss the same digest
share one lookup. Strings without a valid checksum are rejected before they are hashed.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import trio

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_well_formed, key_digest
from bluesminds.common.errors import Unauthenticated, Unavailable
from bluesminds.common.values import (
    Caller,
    LimitSet,
    OwnKey,
    RequestContext,
    account_limits,
    list_names,
    read_limits,
    read_requirement,
    split_names,
)
from bluesminds.gateway.authorize import check_client, name_patterns, optional_networks, optional_set
from bluesminds.gateway.limits.keyless import keyless_caller
from storage.base import StorageBroken, StorageUnavailable
from storage.keys import KeyHolder
from storage.vendor_keys import VendorKeyRow

MAX_CACHED = 50_000  # digests, known and unknown
NO_MARKUPS: Final[Mapping[str, int]] = MappingProxyType({})

Lookup = Callable[[bytes], Awaitable[KeyHolder | None]]
OpenVendorKeys = Callable[[Sequence[VendorKeyRow], str | None], tuple[OwnKey, ...] | None]
"""Decrypts the keys for vendors of an account with this tier."""


class _PendingLookup:
    """A running lookup that other requests wait for. `result` stays None if its request was cancelled."""

    __slots__ = ("finished", "result")

    def __init__(self) -> None:
        self.finished = trio.Event()
        self.result: Caller | Unauthenticated | Unavailable | None = None


class KeyAuthenticator:
    """Callers by key digest. `look_up` queries the store and opens the caller's usage counters; `is_open`
    says whether they are still open. `tiers` are limits by tier name. `keyless`: the limits of callers
    without an API key; None rejects them. `markups` on prices, in hundredths of a percent, are by tier name.
    `log_prompts`: for keys and accounts that do not say. `open_vendor_keys` is None if accounts have no keys
    of their own for vendors.

    `changes` counts calls of `forget`. `last_used` collects wall times in ms by key id until they are stored.
    """

    def __init__(
        self,
        look_up: Lookup,
        *,
        pepper: bytes,
        clock: Clock,
        cache_seconds: float,
        tiers: Mapping[str, LimitSet],
        is_open: Callable[[Caller, float], bool],
        keyless: LimitSet | None = None,
        markups: Mapping[str, int] = NO_MARKUPS,
        log_prompts: bool = False,
        open_vendor_keys: OpenVendorKeys | None = None,
    ) -> None:
        self._look_up = look_up
        self._pepper = pepper
        self._clock = clock
        self._cache_seconds = cache_seconds
        self._tiers = tiers
        self._is_open = is_open
        self._keyless = keyless
        self._markups = markups
        self._log_prompts = "on" if log_prompts else "off"
        self._open_vendor_keys = open_vendor_keys
        self._callers: dict[bytes, tuple[float, Caller | Unauthenticated]] = {}
        self._pending: dict[bytes, _PendingLookup] = {}
        self.changes = 0
        self.last_used: dict[str, int] = {}
        self._changed = trio.Event()

    def cached_until(self, context: RequestContext) -> float:
        """When the key is read from the store again, on Trio's clock. It must have been authenticated."""
        if self._keyless is not None and keyless_caller(context, self._keyless) is not None:
            return math.inf
        cached = self._callers.get(self._digest(context))
        return 0.0 if cached is None else cached[0]

    def use_tiers(self, limits: Mapping[str, LimitSet], markups: Mapping[str, int]) -> None:
        """Replace the limits and markups of tiers, also for keys in the cache."""
        self._tiers, self._markups = limits, markups
        self.forget()

    async def wait_changed(self) -> None:
        """Wait for the next call of `forget`."""
        await self._changed.wait()

    def forget(self, *digests: bytes) -> None:
        """Drop these digests, or all of them, from the cache and from running lookups."""
        self.changes += 1
        self._changed.set()
        self._changed = trio.Event()
        if not digests:
            self._callers.clear()
            self._pending.clear()
        for digest in digests:
            self._callers.pop(digest, None)
            self._pending.pop(digest, None)

    async def authenticate(self, context: RequestContext) -> Caller:
        """Raises Unauthenticated, or Unavailable if the store fails. `authorize_use` must follow. A cached
        key must be current at the context's `started`.
        """
        if self._keyless is not None and (caller := keyless_caller(context, self._keyless)) is not None:
            return caller
        digest = self._digest(context)
        cached = self._callers.get(digest)
        if cached is None or cached[0] <= context.started or not self._is_current(cached[1], context.started):
            if context.key_digest is None and not is_well_formed(context.credential or ""):
                raise Unauthenticated("invalid_api_key", _invalid_key_message(context))
            found = await self._load(digest, context)
        else:
            found = cached[1]
        if isinstance(found, Unauthenticated):
            raise Unauthenticated(found.code, found.message)
        if found.expires_at is not None and found.expires_at <= context.at_ms:
            raise Unauthenticated(
                "api_key_expired",
                "This API key has expired. If it was rotated, use its "
                "current secret. Otherwise create a new key.",
            )
        return found

    def authorize_use(self, caller: Caller, context: RequestContext) -> None:
        """Record the use of the key. Raises Forbidden if its restrictions do not allow this request."""
        check_client(caller, context)
        if caller.key_id:
            self.last_used[caller.key_id] = context.at_ms

    def _is_current(self, found: Caller | Unauthenticated, now: float) -> bool:
        return isinstance(found, Unauthenticated) or self._is_open(found, now)

    def _digest(self, context: RequestContext) -> bytes:
        if context.key_digest is not None:
            return context.key_digest
        key = context.credential
        if not key:
            raise Unauthenticated(
                "missing_api_key", "Missing API key. Send it as `Authorization: Bearer bm_…`."
            )
        return key_digest(self._pepper, key)

    async def _load(self, digest: bytes, context: RequestContext) -> Caller | Unauthenticated:
        while (other := self._pending.get(digest)) is not None:
            await other.finished.wait()
            if isinstance(other.result, Unavailable):
                raise _store_unavailable_error()
            if other.result is not None:
                return other.result
        own = self._pending[digest] = _PendingLookup()
        try:
            own.result = await self._query_store(digest, context)
        finally:
            own.finished.set()
            if self._pending.get(digest) is own:
                del self._pending[digest]
                if own.result is not None and not isinstance(own.result, Unavailable):
                    self._cache(digest, own.result)
        if isinstance(own.result, Unavailable):
            raise own.result
        return own.result

    async def _query_store(
        self, digest: bytes, context: RequestContext
    ) -> Caller | Unauthenticated | Unavailable:
        try:
            return self._evaluate(await self._look_up(digest), context)
        except (StorageBroken, StorageUnavailable):
            return _store_unavailable_error()

    def _cache(self, digest: bytes, found: Caller | Unauthenticated) -> None:
        if len(self._callers) >= MAX_CACHED:
            self._callers.pop(next(iter(self._callers)))
        self._callers[digest] = (trio.current_time() + self._cache_seconds, found)

    def _evaluate(self, owner: KeyHolder | None, context: RequestContext) -> Caller | Unauthenticated:
        if owner is None:
            return Unauthenticated("invalid_api_key", _invalid_key_message(context))
        key = owner.key
        if key.revoked_at is not None:
            return Unauthenticated("api_key_revoked", "This API key was revoked. Create a new one.")
        if owner.user_disabled_at is not None:
            return Unauthenticated("user_disabled", "The account of this API key is disabled.")
        return Caller(
            key_id=key.id,
            user_id=key.user_id,
            key_limits=read_limits(key.limits),
            user_limits=account_limits(self._tiers, owner.tier, read_limits(owner.user_limits)),
            expires_at=_earliest(key.expires_at, owner.ends_at),
            scopes=optional_set(key.scopes),
            models=name_patterns(key.allowed_models),
            networks=optional_networks(key.allowed_ips),
            origins=optional_set(key.allowed_origins),
            markup=self._markups.get(owner.tier or "", 0),
            logs_prompts=(key.prompt_log or owner.user_prompt_log or self._log_prompts) == "on",
            tier=owner.tier or "",
            tags=split_names(key.metadata.get("tags", "")),
            required=read_requirement(
                key.metadata.get("require_region", ""), key.metadata.get("require_tags", "")
            ),
            prefer_regions=list_names(key.metadata.get("prefer_region", "")),
            own_keys=self._own_keys(owner),
        )

    def _own_keys(self, owner: KeyHolder) -> tuple[OwnKey, ...] | None:
        if not owner.vendor_keys or self._open_vendor_keys is None:
            return None
        return self._open_vendor_keys(owner.vendor_keys, owner.tier)


def _earliest(*times: int | None) -> int | None:
    """None is never."""
    return min((time for time in times if time is not None), default=None)


def _store_unavailable_error() -> Unavailable:
    return Unavailable("storage_unavailable", "API keys cannot be checked now. Try again in a few seconds.")


def _invalid_key_message(context: RequestContext) -> str:
    """Identifies the key by its last characters; of a short one these would reveal too much."""
    key = context.credential or ""
    if len(key) > 12 and key[-4:].isascii() and key[-4:].isalnum():
        return f"Invalid API key (ends in {key[-4:]})."
    header = context.credential_header
    place = "query parameter `key`" if header is None else f"`{header}` header"
    return f"Invalid API key in the {place}."
