"""Bounds what is sent to servers in addition to the requests of clients: hedged requests and shadow traffic.

For each route, a share of its requests, and an estimated cost in each UTC day. Requests without a price cost
nothing, so that only the share bounds them. The costs of the day are kept in the database (`extra_costs.py`).
"""

from collections.abc import Mapping
from typing import Final

MAX_ROUTES: Final = 1_000
MOST: Final = 10.0  # extra requests that a route has saved
DAY_MS: Final = 86_400_000


class _Account:
    __slots__ = ("day", "nano", "tokens")

    def __init__(self, tokens: float) -> None:
        self.tokens = tokens
        self.day = 0
        self.nano = 0


class ExtraBudget:
    """`changed`: routes whose costs are not in the database yet."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self.changed: set[str] = set()

    def restore(self, day: int, costs: Mapping[str, int]) -> None:
        """The costs of the day in nano-USD, by route."""
        for route, nano in costs.items():
            account = self._open(route, 0.0)
            account.day, account.nano = day, nano

    def costs(self, day: int, routes: set[str]) -> Mapping[str, int]:
        """Those of the day in nano-USD, by route."""
        found = {route: account for route in routes if (account := self._accounts.get(route)) is not None}
        return {route: account.nano for route, account in found.items() if account.day == day}

    def add_request(self, route: str, share: float) -> None:
        account = self._accounts.get(route)
        if account is None:
            account = self._open(route, 1.0 if share > 0 else 0.0)
        account.tokens = min(MOST, account.tokens + share)

    def _open(self, route: str, tokens: float) -> _Account:
        if len(self._accounts) >= MAX_ROUTES:
            del self._accounts[next(iter(self._accounts))]
        account = self._accounts[route] = _Account(tokens)
        return account

    def is_due(self, route: str) -> bool:
        """Whether the share of the route allows another request."""
        account = self._accounts.get(route)
        return account is not None and account.tokens >= 1

    def take(self, route: str, at_ms: int, nano: int, daily: int) -> bool:
        """Whether an extra request of `nano` USD is allowed; it is then counted. `daily`: nano-USD."""
        account, day = self._accounts.get(route), at_ms // DAY_MS
        if account is None or account.tokens < 1:
            return False
        if day > account.day:  # requests of the day before may still be running
            account.day, account.nano = day, 0
        if account.nano + nano > daily:
            return False
        account.tokens -= 1
        if nano:
            account.nano += nano
            self.changed.add(route)
        return True

    def correct(self, route: str, at_ms: int, nano: int) -> None:
        """Add the difference between the actual and the estimated cost of an extra request of this day."""
        account = self._accounts.get(route)
        if nano and account is not None and account.day == at_ms // DAY_MS:
            account.nano = max(0, account.nano + nano)
            self.changed.add(route)
