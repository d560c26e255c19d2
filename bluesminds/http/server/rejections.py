"""Responses that the server itself sends instead of the app: OpenAI's error format; the connection closes."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Rejection:
    """A reason to reject a request. `code` is stable and is also the metric's label."""

    status: int
    code: str
    message: str
    type: str = "invalid_request_error"
    extra_headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self, request_id: str) -> bytes:
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return json.dumps({"error": error | {"request_id": request_id}}).encode()

    def headers(self, request_id: str) -> list[tuple[bytes, bytes]]:
        own = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
        return [*own, *self.extra_headers]

    def response(self, request_id: str) -> bytes:
        """The complete HTTP/1.1 response, after which the connection closes."""
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
    return Rejection(400, "malformed_request", f"The request is not valid HTTP: {reason}.")


HEADERS_TOO_LARGE = Rejection(431, "headers_too_large", "The request's headers are too large or too many.")
URL_TOO_LONG = Rejection(414, "url_too_long", "The request's URL is too long.")
BODY_TOO_LARGE = Rejection(413, "body_too_large", "The request's body is larger than this server accepts.")
TOO_MANY_CHUNKS = Rejection(413, "too_many_chunks", "The request's body has too many chunks.")
UNKNOWN_CODING = Rejection(501, "unknown_transfer_coding", "Only the transfer coding `chunked` is supported.")
UNKNOWN_VERSION = Rejection(505, "unknown_http_version", "This port supports HTTP/1.0 and HTTP/1.1.")
UNKNOWN_EXPECTATION = Rejection(417, "unknown_expectation", "Only `Expect: 100-continue` is supported.")
CONNECT_NOT_SUPPORTED = Rejection(
    501, "connect_not_supported", "CONNECT is not supported. This server is not a forward proxy."
)
HEADER_TIMEOUT = Rejection(408, "header_timeout", "The request's headers took too long to arrive.")
BODY_TIMEOUT = Rejection(408, "body_timeout", "The request's body stopped arriving.")
TOO_MANY_CONNECTIONS = Rejection(
    503,
    "too_many_connections",
    "The server has reached its connection limit. Try again in a few seconds.",
    "server_error",
)
UNKNOWN_PROXY = Rejection(
    403,
    "unknown_proxy",
    "This port only accepts connections from a proxy listed in trusted_proxies.",
    "permission_error",
)
BAD_PROXY_HEADER = Rejection(
    400,
    "bad_proxy_header",
    "The connection must begin with a PROXY protocol header (setting proxy_protocol).",
)
HTTPS_REQUIRED = Rejection(
    400, "https_required", "This port only accepts HTTPS. Use a URL that begins with https://."
)
TOO_MANY_CONNECTIONS_PER_IP = Rejection(
    429, "connections_per_ip", "Too many connections are open from this address.", "rate_limit_error"
)
INTERNAL_ERROR = Rejection(
    500, "internal_error", "The gateway failed to process this request.", "server_error"
)

OnRejection = Callable[[str, Rejection, str, int], object]
"""Gets the client's address ("local" on a Unix socket), the rejection, the request id in its response, and
the number of earlier rejections that were not reported.
"""

REPORTS_PER_SECOND = 10


class RateLimitedReporter:
    """Passes on at most REPORTS_PER_SECOND rejections per second, so that clients cannot flood a log."""

    def __init__(self, on_rejection: OnRejection) -> None:
        self._on_rejection = on_rejection
        self._second = -math.inf
        self._reported = self._suppressed = 0

    def report(
        self, client: tuple[str, int] | None, rejection: Rejection, request_id: str, now: float
    ) -> None:
        """`now`: seconds on a monotonic clock."""
        if now - self._second >= 1:
            self._second, self._reported = now, 0
        if self._reported == REPORTS_PER_SECOND:
            self._suppressed += 1
            return
        self._reported += 1
        suppressed, self._suppressed = self._suppressed, 0
        self._on_rejection(client[0] if client else "local", rejection, request_id, suppressed)
