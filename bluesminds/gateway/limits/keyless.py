"""Callers without an API key of this gateway. They send a server's own key, and are limited by address.

A credential counts as a server's key only if it does not resemble a secret of this gateway, so that a
mistyped API key is never sent to a server. It must also be long enough to be redacted from responses.

Counters of addresses are in memory only and their number is bounded. An address with usage that still counts
is never dropped for a new one: a flood of addresses can lock new clients out, but resets no limit.
"""

import re
from typing import Final

from bluesminds.common.crypto import resembles_own
from bluesminds.common.errors import Unavailable
from bluesminds.common.networks import block_of
from bluesminds.common.values import NO_LIMITS, Caller, LimitSet, RequestContext
from bluesminds.gateway.limits.counters import UsageCounters

MAX_ADDRESSES: Final = 20_000
_is_sendable: Final = re.compile(r"[!-~]{8,512}").fullmatch  # a shorter one would match ordinary words


def keyless_caller(context: RequestContext, limits: LimitSet) -> Caller | None:
    """The caller of this request, or None if the credential is not a server's own key."""
    key = context.credential
    if key is None or not _is_sendable(key) or resembles_own(key):
        return None
    return Caller(
        key_id="",
        user_id="",
        key_limits=limits,
        user_limits=NO_LIMITS,
        expires_at=None,
        address=block_of(context.client),
    )


class AddressLimits:
    """The counters of each address."""

    def __init__(self, max_addresses: int = MAX_ADDRESSES) -> None:
        self._max_addresses = max_addresses
        self._counters: dict[str, UsageCounters] = {}

    def __len__(self) -> int:
        return len(self._counters)

    def find(self, address: str) -> UsageCounters | None:
        return self._counters.get(address)

    def open(self, address: str, now: float) -> UsageCounters:
        """Raises Unavailable if the table is full."""
        counters = self._counters.get(address)
        if counters is None:
            if len(self._counters) >= self._max_addresses:
                raise Unavailable(
                    "too_many_addresses",
                    "Too many clients without an API key. Try again in a minute, or use an API key.",
                    retry_after=60.0,
                )
            counters = self._counters[address] = UsageCounters(None, now)
        return counters

    def sweep(self, now: float, today: str) -> None:
        """Drop the addresses whose usage no longer counts."""
        idle = [
            address
            for address, counters in self._counters.items()
            if not counters.running
            and not counters.requests.used(now)
            and not counters.tokens.used(now)
            and not (counters.day.tokens and counters.day.name >= today)
        ]
        for address in idle:
            del self._counters[address]
