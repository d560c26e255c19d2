"""What sending and probing have learned about each server; read by choose, written by send and the prober.

Passive ejection: after `eject_after` failures in a row a server is left out for `eject_seconds` times the
number of ejections in a row (at most ten times), then one success makes it whole again. Probes are kept
apart, since a server may answer them and fail at its work: after `eject_after` failed probes in a row it is
left out until one succeeds. Ejection is advice: with nothing better left, an ejected server is still tried.
"""

from dataclasses import dataclass

import trio

MAX_EJECTION_FACTOR = 10


@dataclass(slots=True)
class ServerHealth:
    """One server's record. Times are on Trio's clock."""

    failures: int = 0  # in a row
    ejections: int = 0  # in a row
    ejected_until: float = 0.0
    last_error: str | None = None  # a phase or status, never a message from outside
    probe_failures: int = 0  # in a row


class Health:
    def __init__(self, *, eject_after: int, eject_seconds: float) -> None:
        self._eject_after = eject_after
        self._eject_seconds = eject_seconds
        self._servers: dict[str, ServerHealth] = {}

    def of(self, server: str) -> ServerHealth:
        return self._servers.setdefault(server, ServerHealth())

    def is_usable(self, server: str) -> bool:
        known = self._servers.get(server)
        return known is None or (
            known.probe_failures < self._eject_after and known.ejected_until <= trio.current_time()
        )

    def succeeded(self, server: str) -> None:
        known = self._servers.get(server)
        if known is not None and (known.failures or known.ejections or known.probe_failures):
            self._servers[server] = ServerHealth()

    def failed(self, server: str, reason: str) -> None:
        known = self.of(server)
        known.failures += 1
        known.last_error = reason
        if known.failures >= self._eject_after:
            known.ejections += 1
            factor = min(known.ejections, MAX_EJECTION_FACTOR)
            known.ejected_until = trio.current_time() + self._eject_seconds * factor
            known.failures = 0

    def probed(self, server: str, *, alive: bool) -> None:
        known = self.of(server)
        known.probe_failures = 0 if alive else known.probe_failures + 1
        if not alive:
            known.last_error = "probe"

    def keep_only(self, servers: set[str]) -> None:
        """Forget servers that are no longer configured."""
        for name in self._servers.keys() - servers:
            del self._servers[name]
