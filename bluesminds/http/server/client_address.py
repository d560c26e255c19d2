"""The address of a connection's client, and a connection counter per address."""

import socket
from collections import Counter
from typing import Any

from bluesminds.http.server.exchange import Client

Address = Any  # what accept() gives: a tuple for TCP, a string or bytes for Unix
Source = str | bytes


def peer_of(client: socket.socket, address: Address) -> Client:
    """The client's address; IPv4-mapped IPv6 becomes IPv4. None on a Unix socket."""
    return None if client.family == socket.AF_UNIX else (address[0].removeprefix("::ffff:"), address[1])


class ConnectionCounter:
    """Counts open connections per address. `cap` is the limit of each; 0 means no limit and no counting."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._open: Counter[Source] = Counter()

    def is_full(self, peer: Client) -> bool:
        return bool(self._cap) and peer is not None and self._open[_source(peer[0])] >= self._cap

    def enter(self, peer: Client) -> Source | None:
        """Count a connection. Returns the value to pass to `leave`."""
        if peer is None or not self._cap:
            return None
        source = _source(peer[0])
        self._open[source] += 1
        return source

    def leave(self, source: Source | None) -> None:
        if source is not None:
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]


def _source(host: str) -> Source:
    """The key to count by: the IPv4 address, or the /64 network of an IPv6 address."""
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8] if ":" in host else host
