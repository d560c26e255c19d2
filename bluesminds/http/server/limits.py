"""What the listening side allows, and what it counted."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener. Times are seconds, sizes bytes."""

    max_connections: int = 10_000
    max_connections_per_ip: int = 0
    """0: no cap."""
    header_bytes: int = 32_768
    """Request line and header fields together."""
    header_lines: int = 128
    url_bytes: int = 8_192
    body_bytes: int = 32 * 1024 * 1024
    body_chunks: int = 65_536
    """Chunks of one chunked body; each costs CPU whatever its size."""
    header_timeout: float = 10.0
    """From the first byte of a head (on a new connection: from its acceptance) to its end."""
    body_timeout: float = 60.0
    """For each wait for more of a body, and in all for a body that only trickles."""
    write_timeout: float = 60.0
    """For a client to take the next piece of an answer."""
    idle_timeout: float = 75.0
    """Between two requests."""
    drain_timeout: float = 30.0
    """From the shutdown signal to the cancellation of what still runs."""
    handshake_timeout: float = 10.0


@dataclass(slots=True)
class Stats:
    """Counters of one listener, read by the metrics; only its tasks write them."""

    open: int = 0
    accepted: int = 0
    requests: int = 0
    parse_errors: int = 0
    disconnects: int = 0
    """Clients that left before their answer was complete."""
    refused: Counter[str] = field(default_factory=Counter)
    """By cause: the error codes of answers the server itself gave, and connections, connections_per_ip,
    descriptors, handshake, write_timeout, drain_timeout."""
