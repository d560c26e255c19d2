"""Answers the server gives by itself, before or instead of the app: OpenAI's error shape, always closing."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request gets no further. `code` is stable and also the metric's label."""

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"

    def body(self, request_id: str) -> bytes:
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return json.dumps({"error": error | {"request_id": request_id}}).encode()

    def headers(self, request_id: str) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]

    def response(self, request_id: str) -> bytes:
        """The complete HTTP/1.1 answer, after which the connection closes."""
        body = self.body(request_id)
        fields = b"".join(b"%b: %b\r\n" % header for header in self.headers(request_id)).decode()
        retry = "retry-after: 1\r\n" if self.status == HTTPStatus.SERVICE_UNAVAILABLE else ""
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
            f"{fields}content-length: {len(body)}\r\n"
            f"{retry}connection: close\r\n\r\n"
        )
        return head.encode() + body


def malformed(reason: str) -> Rejection:
    return Rejection(400, "malformed_request", f"This is not a valid HTTP/1.1 request: {reason}.")


HEADERS_TOO_LARGE = Rejection(431, "headers_too_large", "The request's headers are too large or too many.")
URL_TOO_LONG = Rejection(414, "url_too_long", "The request's URL is too long.")
BODY_TOO_LARGE = Rejection(413, "body_too_large", "The request's body is larger than this server accepts.")
TOO_MANY_CHUNKS = Rejection(413, "too_many_chunks", "The request's body comes in too many chunks.")
UNKNOWN_CODING = Rejection(
    501, "unknown_transfer_coding", "The only transfer coding accepted here is chunked."
)
UNKNOWN_VERSION = Rejection(505, "unknown_http_version", "This port speaks HTTP/1.0 and HTTP/1.1.")
UNKNOWN_EXPECTATION = Rejection(417, "unknown_expectation", "The only expectation met here is 100-continue.")
NO_TUNNELS = Rejection(501, "no_tunnels", "This server does not open tunnels; CONNECT is refused.")
HEADER_TIMEOUT = Rejection(408, "header_timeout", "The request's headers took too long to arrive.")
BODY_TIMEOUT = Rejection(408, "body_timeout", "The request's body stopped arriving.")
TOO_MANY_CONNECTIONS = Rejection(
    503, "connections", "The server has no room for another connection. Try again shortly.", "server_error"
)
UNKNOWN_PROXY = Rejection(
    403,
    "unknown_proxy",
    "Connections come through a proxy here, and your address is not one of trusted_proxies.",
    "permission_error",
)
BAD_PROXY_HEADER = Rejection(
    400,
    "bad_proxy_header",
    "This connection does not begin with a PROXY protocol header, as proxy_protocol says it must.",
)
TOO_MANY_FROM_HERE = Rejection(
    429, "connections_per_ip", "Too many connections are open from this address.", "rate_limit_error"
)
INTERNAL_ERROR = Rejection(
    500, "internal_error", "The gateway could not answer this request.", "server_error"
)

OnRefusal = Callable[[str, Rejection, str, int], object]
"""Gets the client's address ("local" on a Unix socket), the refusal, the request id that its answer carries,
and how many before it were not told.
"""

REPORTS_PER_SECOND = 10


class RateLimitedReporter:
    """Tells `on_refusal` of the first few refusals of each second, so that no client can flood a log."""

    def __init__(self, on_refusal: OnRefusal) -> None:
        self._on_refusal = on_refusal
        self._second = -math.inf
        self._told = self._untold = 0

    def tell(self, client: tuple[str, int] | None, refusal: Rejection, request_id: str, now: float) -> None:
        """`now`: seconds on any clock that does not go back."""
        if now - self._second >= 1:
            self._second, self._told = now, 0
        if self._told == REPORTS_PER_SECOND:
            self._untold += 1
            return
        self._told += 1
        suppressed, self._untold = self._untold, 0
        self._on_refusal(client[0] if client else "local", refusal, request_id, suppressed)
