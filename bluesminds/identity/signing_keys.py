"""The public keys of a provider (JWKS, RFC 7517): cached, and read again when a token has an unknown key."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import trio
from msgspec import Struct

from bluesminds.http.client.pool import Pool
from bluesminds.identity.external import IdentityRejected, ProviderUnavailable
from bluesminds.identity.fetch import fetch
from bluesminds.identity.jose import TokenHeader, fits

MIN_AGE: Final = 300.0  # seconds that keys are used without reading them again
MAX_AGE: Final = 86_400.0
BETWEEN_READS: Final = 30.0  # seconds; so a flood of forged tokens costs the provider little
MAX_KEYS: Final = 100


class _KeySet(Struct, frozen=True):
    keys: list[dict[str, Any]]


class SigningKeys:
    """Times are on Trio's clock."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._keys: Sequence[Mapping[str, Any]] = ()
        self._expires = float("-inf")
        self._read_at = float("-inf")
        self._lock = trio.Lock()

    async def find(self, url: str, header: TokenHeader) -> Mapping[str, Any]:
        """The key that may have signed a token with this header. Raises IdentityRejected if there is not
        exactly one, ProviderUnavailable.
        """
        async with self._lock:
            if trio.current_time() >= self._expires or not self._fitting(header):
                await self._refresh(url)
        fitting = self._fitting(header)
        if len(fitting) != 1:
            raise IdentityRejected("unknown key" if not fitting else "several keys fit")
        return fitting[0]

    async def _refresh(self, url: str) -> None:
        now = trio.current_time()
        if now - self._read_at < BETWEEN_READS:
            if now >= self._expires:
                raise ProviderUnavailable("keys: could not be read a moment ago")
            return
        self._read_at = now
        try:
            answer = await fetch(self._pool, url)
            if answer.status != 200:
                raise ProviderUnavailable(f"keys: status {answer.status}")
            found = msgspec.json.decode(answer.body, type=_KeySet).keys[:MAX_KEYS]
        except msgspec.DecodeError as exc:
            raise ProviderUnavailable("keys: not a key set") from exc
        except ProviderUnavailable:
            if now < self._expires:  # the keys at hand are still good
                return
            raise
        self._keys = found
        self._expires = now + min(MAX_AGE, max(MIN_AGE, float(answer.max_age)))

    def _fitting(self, header: TokenHeader) -> list[Mapping[str, Any]]:
        return [key for key in self._keys if fits(key, header)]
