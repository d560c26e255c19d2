"""Errors of the exchange with an upstream.

Every error has the phase in which it happened and whether the request may have reached the upstream; callers
decide from these whether to retry. Messages describe the connection. They never hold header values, bodies or
credentials.
"""

from typing import Literal

Phase = Literal["pool", "connect", "write", "head", "body"]


class UpstreamError(Exception):
    """The exchange with the upstream failed.

    phase: the operation in progress. sent: whether the upstream may have received a byte of the request.
    """

    def __init__(self, message: str, *, phase: Phase, sent: bool) -> None:
        super().__init__(message)
        self.phase: Phase = phase
        self.sent = sent


class ConnectFailed(UpstreamError):
    """No connection: refused, unreachable, unknown name, invalid certificate, or the pool is closed."""


class LocalResourceError(UpstreamError):
    """No connection, because this machine has no free descriptors or memory. The upstream is not at fault."""


class ConnectTimeout(UpstreamError):
    """No connection (name look-up, TCP and TLS handshakes) within `connect` seconds."""


class PoolTimeout(UpstreamError):
    """No connection became free within `pool` seconds."""


class WriteTimeout(UpstreamError):
    """The upstream accepted no request byte for `write` seconds."""


class FirstByteTimeout(UpstreamError):
    """The response head was not complete `first_byte` seconds after the request."""


class ChunkTimeout(UpstreamError):
    """No byte of the response body arrived for `between_chunks` seconds."""


class UpstreamCut(UpstreamError):
    """The connection ended before the response was complete."""


class UpstreamProtocolError(UpstreamError):
    """The response is invalid: malformed, oversized head, unsupported coding, or compression bomb."""


class BodyTooLarge(UpstreamError):
    """The response body exceeds the reader's limit."""
