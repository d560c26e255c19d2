"""The health of each server, as observed by requests and probes.

Passive ejection: after `eject_after` failures in a row a server is ejected for `eject_seconds`, times the
number of ejections in a row (at most ten). One success resets this. Probes are counted separately, because a
server can pass probes and fail requests: after `eject_after` failed probes in a row a server is ejected until
a probe succeeds. If only ejected servers are left, they are still tried.
"""

from dataclasses import dataclass
from typing import Final, Literal

import trio
from msgspec import Struct

MAX_EJECTION_FACTOR = 10


class ServerStatus(Struct, frozen=True):
    """The result of the last probe. `unusable`: the gateway has no readable API key for the server.
    `model_count` is None if it is unknown. `last_error` may contain text from the server.
    """

    state: Literal["up", "down", "unknown", "unusable"]
    model_count: int | None = None
    last_error: str | None = None


UNKNOWN: Final = ServerStatus("unknown")


@dataclass(slots=True)
class ServerHealth:
    """Times are on Trio's clock."""

    failures: int = 0  # in a row
    ejections: int = 0  # in a row
    ejected_until: float = 0.0
    last_error: str | None = None  # a phase or status, never text from a server
    probe_failures: int = 0  # in a row


class ServerHealthRegistry:
    def __init__(self, *, eject_after: int, eject_seconds: float) -> None:
        self._eject_after = eject_after
        self._eject_seconds = eject_seconds
        self._servers: dict[str, ServerHealth] = {}

    def get(self, server: str) -> ServerHealth:
        return self._servers.setdefault(server, ServerHealth())

    def is_usable(self, server: str) -> bool:
        health = self._servers.get(server)
        return health is None or (
            health.probe_failures < self._eject_after and health.ejected_until <= trio.current_time()
        )

    def record_success(self, server: str) -> None:
        health = self._servers.get(server)
        if health is not None and (health.failures or health.ejections or health.probe_failures):
            self._servers[server] = ServerHealth()

    def record_failure(self, server: str, reason: str) -> None:
        health = self.get(server)
        health.failures += 1
        health.last_error = reason
        if health.failures >= self._eject_after:
            health.ejections += 1
            factor = min(health.ejections, MAX_EJECTION_FACTOR)
            health.ejected_until = trio.current_time() + self._eject_seconds * factor
            health.failures = 0

    def record_probe(self, server: str, *, alive: bool) -> None:
        health = self.get(server)
        health.probe_failures = 0 if alive else health.probe_failures + 1
        if not alive:
            health.last_error = "probe"

    def keep_only(self, servers: set[str]) -> None:
        """Drop servers that are no longer configured."""
        for name in self._servers.keys() - servers:
            del self._servers[name]
