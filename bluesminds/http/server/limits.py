"""Limits of a listener, and its counters."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_FORM = b"multipart/form-data"


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Limits of one listener. Times are seconds, sizes bytes."""

    max_connections: int = 10_000
    max_connections_per_ip: int = 0
    """0: no limit."""
    header_bytes: int = 32_768
    """Request line and header fields together."""
    header_lines: int = 128
    url_bytes: int = 8_192
    body_bytes: int = 32 * 1024 * 1024
    form_bytes: int = 256 * 1024 * 1024
    """Of a body that is multipart/form-data. Apps read it in pieces."""
    body_chunks: int = 65_536
    """Chunks of one chunked body; each costs CPU whatever its size."""
    header_timeout: float = 10.0
    """From the first byte of a head (on a new connection: from its acceptance) to its end."""
    body_timeout: float = 60.0
    """For each wait for more of a body, and in total for a body that arrives very slowly."""
    write_timeout: float = 60.0
    """For a client to accept the next part of a response."""
    idle_timeout: float = 75.0
    """Between two requests of a connection."""
    drain_timeout: float = 30.0
    """From the shutdown signal to the cancellation of the remaining requests."""
    handshake_timeout: float = 10.0

    def largest_body(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        """Of a request with these headers; names are in lower case."""
        for name, value in headers:
            if name == b"content-type" and value[: len(_FORM)].lower() == _FORM:
                return max(self.form_bytes, self.body_bytes)
        return self.body_bytes


@dataclass(slots=True)
class ListenerStats:
    """Counters of one listener, read by the metrics. Only the listener's tasks write them."""

    open: int = 0
    accepted: int = 0
    requests: int = 0
    parse_errors: int = 0
    disconnects: int = 0
    """Clients that disconnected before their response was complete."""
    refused: Counter[str] = field(default_factory=Counter)
    """By cause: the codes of rejections.py, and descriptors, handshake, write_timeout, drain_timeout."""
