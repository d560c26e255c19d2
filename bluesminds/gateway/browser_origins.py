"""The origins whose pages may call the gateway from a browser: those of the settings, and those of API keys.

A preflight does not contain the API key, so it is allowed for an origin that any active key lists. This
grants nothing: the request that follows is checked against its own key. Without an origin in the settings or
in a key, no page of another origin can send a request.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from bluesminds.common.errors import Unauthenticated, Unavailable
from bluesminds.common.values import RequestContext
from bluesminds.gateway.authenticate import KeyAuthenticator
from storage.base import StorageBroken, StorageUnavailable

ANY_ORIGIN: Final = "*"


class BrowserOrigins:
    """Pages of `configured` origins may use any key that does not exclude them; "*" is every origin. `load`
    queries the origins that active keys list; its result is cached for `cache_seconds`, at most until a key
    changes.
    """

    def __init__(
        self,
        configured: Iterable[str],
        keys: KeyAuthenticator,
        load: Callable[[], Awaitable[frozenset[str]]],
        *,
        cache_seconds: float,
    ) -> None:
        self._configured = frozenset(configured)
        self._keys = keys
        self._load = load
        self._cache_seconds = cache_seconds
        self._listed: frozenset[str] = frozenset()
        self._listed_until = 0.0
        self._listed_changes = -1
        self._lock = trio.Lock()

    async def allows_preflight(self, origin: str) -> bool:
        """Raises Unavailable if the store fails."""
        return self._is_configured(origin) or origin in await self._listed_origins()

    async def allows_reading(self, context: RequestContext) -> bool:
        """Whether the page that sent this request may read the response, which can be an error."""
        if context.origin is None:
            return False
        if self._is_configured(context.origin):
            return True
        try:
            caller = await self._keys.authenticate(context)
        except (Unauthenticated, Unavailable):
            return False
        return caller.origins is not None and context.origin in caller.origins

    def _is_configured(self, origin: str) -> bool:
        return origin in self._configured or ANY_ORIGIN in self._configured

    async def _listed_origins(self) -> frozenset[str]:
        async with self._lock:
            changes = self._keys.changes
            if self._listed_changes != changes or self._listed_until <= trio.current_time():
                try:
                    self._listed = await self._load()
                except (StorageBroken, StorageUnavailable) as exc:
                    raise Unavailable(
                        "storage_unavailable", "Origins cannot be checked now. Try again in a few seconds."
                    ) from exc
                self._listed_changes = changes
                self._listed_until = trio.current_time() + self._cache_seconds
            return self._listed
