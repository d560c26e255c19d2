"""Classifies failed attempts: whether the server is at fault, whether to try again, and which error the
client gets.

Clients can cause statuses from 400 to 499, so these are no failure of the server, except for a rejected key.
"""

from collections.abc import Mapping
from http import HTTPStatus

from msgspec import Struct, structs

from bluesminds.common.errors import UpstreamFailed, retry_headers
from bluesminds.common.routes import FallbackReason
from bluesminds.common.values import Server
from bluesminds.gateway.routing.server_keys import AttemptKey, KeyFailure
from bluesminds.gateway.upstream.attempt import RETRY_HEADERS, Reply
from bluesminds.http.client.pool import (
    BodyTooLarge,
    ChunkTimeout,
    ConnectTimeout,
    FirstByteTimeout,
    LocalResourceError,
    PoolTimeout,
    UpstreamError,
    UpstreamProtocolError,
    WriteTimeout,
)
from bluesminds.providers.dialects import DIALECTS
from bluesminds.providers.vendors import VENDORS

_TIMEOUTS = (ConnectTimeout, PoolTimeout, WriteTimeout, FirstByteTimeout, ChunkTimeout)
_TRY_NEXT = frozenset((404, 408, 425, 429))  # another server may have the model, or may have capacity
_REPEATABLE = frozenset((429, 500, 502, 503, 529))
_PASSED_STATUS = frozenset((429, 503, 504))
_KINDS: Mapping[int, FallbackReason] = {402: "limit", 429: "limit", 408: "timeout", 504: "timeout"}
_NO_WEBSOCKET = frozenset((404, 405, 426, 501))
LONGEST_RETRY_AFTER = 5.0  # seconds; a server that names a longer pause is not tried again for this request


class AttemptFailure(Struct, frozen=True):
    """`reason` is a status or a kind of failure, for logs and metrics; `error` is for the client.
    `repeatable`: the same server may be tried again, after `retry_after` seconds if this is set. `kind`: the
    reason for a fallback. `accepted`: the server may have accepted the request, and may bill it. `keys`:
    those of a server with several. `detail` is for the operator.
    """

    reason: str
    blames_server: bool
    error: UpstreamFailed
    repeatable: bool = False
    retry_after: float | None = None
    kind: FallbackReason = "error"
    accepted: bool = False
    keys: tuple[AttemptKey, ...] = ()
    detail: str = ""


def classify_error(exc: UpstreamError) -> AttemptFailure:
    """After a timeout the same server is not tried again, because it may still be working on the request."""
    return structs.replace(_classify_error(exc), detail=str(exc))


def _classify_error(exc: UpstreamError) -> AttemptFailure:
    reason = type(exc).__name__
    if isinstance(exc, LocalResourceError):
        message = "The gateway has no free sockets. Try again in a few seconds."
        error = UpstreamFailed(503, "local_resource_exhausted", message, headers=retry_headers(1))
        return AttemptFailure(reason, blames_server=False, error=error)
    if isinstance(exc, _TIMEOUTS):
        error = UpstreamFailed(504, "upstream_timeout", "The server did not respond in time. Try again.")
        return AttemptFailure(
            reason,
            blames_server=True,
            error=error,
            repeatable=not exc.sent,
            kind="timeout",
            accepted=exc.sent,
        )
    if isinstance(exc, BodyTooLarge | UpstreamProtocolError):
        error = UpstreamFailed(502, "upstream_invalid", "The server's response was malformed or too large.")
        return AttemptFailure(reason, blames_server=True, error=error)
    error = UpstreamFailed(
        502, "upstream_unreachable", "The server could not be reached or closed the connection. Try again."
    )
    return AttemptFailure(reason, blames_server=True, error=error, repeatable=True, accepted=exc.sent)


def classify_reply(reply: Reply) -> AttemptFailure | None:
    """None for an answer, and for an error of the request, which is forwarded."""
    error = reply.error
    if error is None:
        if reply.facts.readable:
            return None
        invalid = UpstreamFailed(502, "upstream_invalid", "The server's response was not a JSON object.")
        return AttemptFailure("UnreadableAnswer", blames_server=True, error=invalid)
    in_success = reply.status < 300
    endpoint = reply.endpoint
    if not in_success and DIALECTS[endpoint.server.dialect].refuses_key(reply.status, error):
        if endpoint.own_key and reply.status < 500:
            return None
        return AttemptFailure(str(reply.status), blames_server=True, error=key_rejected(endpoint.server))
    status = reply.error_status
    # A redirect means a wrong URL: following it would send the key to another place.
    is_client_error = 400 <= status < 500 and status not in _TRY_NEXT and not 300 <= reply.status < 400
    if status == HTTPStatus.PAYMENT_REQUIRED and not endpoint.own_key:
        is_client_error = False  # the gateway's account at the server has no credit, and another one may
    if is_client_error and (not in_success or error.blames_request()):
        return None
    headers = dict(reply.headers)
    retry_after = _retry_after(headers)
    retryable = status in _REPEATABLE and headers.get(b"x-should-retry") != b"false"
    return AttemptFailure(
        "error_in_answer" if in_success else str(reply.status),
        blames_server=not 400 <= status < 500,
        error=_client_error(reply),
        repeatable=retryable and (retry_after or 0) <= LONGEST_RETRY_AFTER,
        retry_after=retry_after,
        kind=_KINDS.get(status, "error"),
    )


def key_failure(reply: Reply) -> tuple[KeyFailure, float | None] | None:
    """Whether the server refuses the key of the request, or limits it, with the seconds that it names."""
    if reply.error is None or reply.status < 300:
        return None
    if DIALECTS[reply.endpoint.server.dialect].refuses_key(reply.status, reply.error):
        return "refused", None
    if reply.status == HTTPStatus.PAYMENT_REQUIRED:
        return "refused", None
    if reply.status == 429 and (seconds := _retry_after(dict(reply.headers))):
        return "limited", seconds
    return None


def classify_handshake(reply: Reply) -> AttemptFailure | None:
    """Of a response to the handshake of a WebSocket; None for an error that is the client's own."""
    if reply.error is None:
        invalid = UpstreamFailed(502, "upstream_invalid", "The server did not open a WebSocket.")
        return AttemptFailure("NoWebSocket", blames_server=True, error=invalid)
    if reply.status in _NO_WEBSOCKET and reply.error.code != "model_not_found":
        reason = (reply.error.message or "no reason given")[:500]
        message = f"The server has no WebSocket at this path: it responded with {reply.status}: {reason}"
        unsupported = UpstreamFailed(404, "unsupported_endpoint", message)
        return AttemptFailure(str(reply.status), blames_server=False, error=unsupported)
    return classify_reply(reply)


def _retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds. A date in Retry-After is ignored."""
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        value = headers.get(name, b"")
        if value.isdigit() and len(value) < 10:
            return int(value) * unit
    return None


def key_rejected(server: Server) -> UpstreamFailed:
    """Without the server's text, because the client could think that its API key of the gateway was
    rejected.
    """
    if server.is_own:
        vendor = VENDORS[server.vendor].title
        return UpstreamFailed(
            502,
            "vendor_key_rejected",
            f"{vendor} rejected your API key. Store another one in the settings of your account.",
        )
    return UpstreamFailed(
        502,
        "upstream_credentials_refused",
        "The server rejected the gateway's API key. Ask the operator to check it.",
    )


def _client_error(reply: Reply) -> UpstreamFailed:
    error, status = reply.error, reply.error_status
    message = ((error and error.message) or "no reason given")[:500]
    retry = {name.decode(): value.decode("latin-1") for name, value in reply.headers if name in RETRY_HEADERS}
    if status == 429:
        return UpstreamFailed(
            429, "upstream_rate_limited", f"The server is rate limited: {message}", headers=retry
        )
    if status == 404:
        return UpstreamFailed(404, "model_not_found", f"The server does not have the model: {message}")
    status = 503 if status == 529 else status if status in _PASSED_STATUS else 502
    start = f"The server responded with {reply.status}"
    if not message.startswith(start):  # a body without a message has this text already
        message = f"{start}: {message}"
    return UpstreamFailed(status, "upstream_error", message, headers=retry)
