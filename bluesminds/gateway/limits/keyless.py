"""Callers without a key of this gateway: they bring the server's own, and their address is what is counted.

A credential counts as theirs only when nothing about it looks like something this gateway has given out, so
that a mistyped key of ours is never sent elsewhere; and only when it could be cut out of an answer again.
What addresses have used is in memory alone. There is room for a number of them; an address whose use still
counts is never forgotten to make room for another, so a flood of addresses can turn newcomers away but
resets nobody's limits.
"""

import re
from typing import Final

from bluesminds.common.crypto import resembles_own
from bluesminds.common.errors import Unavailable
from bluesminds.common.networks import block_of
from bluesminds.common.values import NO_LIMITS, Caller, LimitSet, RequestContext
from bluesminds.gateway.limits.counters import UsageCounters

MAX_VISITORS: Final = 20_000
_SENDABLE: Final = re.compile(r"[!-~]{8,512}").fullmatch  # a shorter one would be found in ordinary words


def keyless_caller(context: RequestContext, limits: LimitSet) -> Caller | None:
    """Who sent this request, when its credential is the client's own key of a server."""
    key = context.credential
    if key is None or not _SENDABLE(key) or resembles_own(key):
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
    """What each address has used."""

    def __init__(self, most: int = MAX_VISITORS) -> None:
        self._most = most
        self._accounts: dict[str, UsageCounters] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def find(self, address: str) -> UsageCounters | None:
        return self._accounts.get(address)

    def account(self, address: str, now: float) -> UsageCounters:
        """Raises Unavailable when there is no room for another address."""
        account = self._accounts.get(address)
        if account is None:
            if len(self._accounts) >= self._most:
                raise Unavailable(
                    "too_many_addresses",
                    "Too many clients without a key of this gateway. Try again in a minute, or use a key.",
                    retry_after=60.0,
                )
            account = self._accounts[address] = UsageCounters(None, now)
        return account

    def sweep(self, now: float, today: str) -> None:
        """Forget the addresses of which nothing counts any more."""
        over = [
            address
            for address, account in self._accounts.items()
            if not account.running
            and not account.requests.taken(now)
            and not account.tokens.taken(now)
            and not (account.day.tokens and account.day.name >= today)
        ]
        for address in over:
            del self._accounts[address]
