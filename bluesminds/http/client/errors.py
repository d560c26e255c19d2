"""What can go wrong between this process and an upstream, as one small tree.

Every error says in which phase it happened and whether the request may have reached the upstream, because
that alone decides what a caller may repeat. Messages are sentences about the connection; they never hold
header values, bodies or credentials.
"""

from typing import Literal

Phase = Literal["pool", "connect", "write", "head", "body"]


class UpstreamError(Exception):
    """The exchange with the upstream failed.

    phase: what was being waited for. sent: whether the upstream may have seen any byte of the request.
    """

    def __init__(self, message: str, *, phase: Phase, sent: bool) -> None:
        super().__init__(message)
        self.phase: Phase = phase
        self.sent = sent


class ConnectFailed(UpstreamError):
    """No connection: refused, unreachable, unknown name, certificate not accepted, or the pool is closed."""


class ConnectTimeout(UpstreamError):
    """No connection (name look-up, TCP and TLS handshakes) within `connect` seconds."""


class PoolTimeout(UpstreamError):
    """No connection became free within `pool` seconds."""


class WriteTimeout(UpstreamError):
    """The upstream took no request byte for `write` seconds."""


class FirstByteTimeout(UpstreamError):
    """The answer's head was not complete `first_byte` seconds after the request was."""


class ChunkTimeout(UpstreamError):
    """No byte of the answer's body arrived for `between_chunks` seconds."""


class UpstreamCut(UpstreamError):
    """The connection ended before the answer did."""


class UpstreamProtocolError(UpstreamError):
    """The answer is not HTTP/1.1 as agreed: malformed, oversized head, unwanted coding, compression bomb."""


class BodyTooLarge(UpstreamError):
    """The answer's body is longer than the reader allows."""
