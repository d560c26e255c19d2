"""Why an attempt gave no answer, whether that speaks against the server, and what the client is told.

A server is judged by what it does, never by what a client can make it do: no status from 400 to 499 but a
refused key counts against it.
"""

from msgspec import Struct

from bluesminds.common.errors import UpstreamFailed, retry_headers
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

_TIMEOUTS = (ConnectTimeout, PoolTimeout, WriteTimeout, FirstByteTimeout, ChunkTimeout)
# 404: another server may have the model.
_TRY_NEXT = frozenset((404, 408, 429))


class AttemptFailure(Struct, frozen=True):
    """`reason` is a status or a kind of failure, for records; `told` is for the client."""

    reason: str
    blames_server: bool
    told: UpstreamFailed


def classify_error(exc: UpstreamError) -> AttemptFailure:
    reason = type(exc).__name__
    if isinstance(exc, LocalResourceError):
        message = "The gateway has no free sockets. Try again in a few seconds."
        told = UpstreamFailed(503, "local_resource_exhausted", message, headers=retry_headers(1))
        return AttemptFailure(reason, blames_server=False, told=told)
    if isinstance(exc, _TIMEOUTS):
        told = UpstreamFailed(504, "upstream_timeout", "The server did not answer in time. Try again.")
    elif isinstance(exc, BodyTooLarge | UpstreamProtocolError):
        told = UpstreamFailed(502, "upstream_invalid", "The server's answer was malformed or too large.")
    else:
        told = UpstreamFailed(
            502, "upstream_unreachable", "The server could not be reached or broke off. Try again."
        )
    return AttemptFailure(reason, blames_server=True, told=told)


def classify_reply(reply: Reply) -> AttemptFailure | None:
    """None when the reply is to be passed on, be it as the client's own error."""
    status = reply.status
    if status < 300:
        return _in_success(reply)
    if DIALECTS[reply.link.server.dialect].refuses_key(status, reply.first):
        if reply.link.own_key and status < 500:
            return None
        return AttemptFailure(str(status), blames_server=True, told=_key_refused())
    # A redirect is a wrong URL: following it would carry the key elsewhere.
    if status in _TRY_NEXT or status >= 500 or status < 400:
        return AttemptFailure(str(status), blames_server=not 400 <= status < 500, told=_refusal(reply))
    return None


def _in_success(reply: Reply) -> AttemptFailure | None:
    reading = reply.reading
    if not reading.readable:
        told = UpstreamFailed(502, "upstream_invalid", "The server's answer was not a JSON object.")
        return AttemptFailure("UnreadableAnswer", blames_server=True, told=told)
    # OpenRouter and others answer 200 with an error object when a model fails after it has started.
    if reading.failed and not reading.choices:
        blamed = not reply.error().blames_request()
        return AttemptFailure("error_in_answer", blames_server=blamed, told=_refusal(reply))
    return None


def _key_refused() -> UpstreamFailed:
    """The server's words are not passed on: the client would take them for its own key."""
    return UpstreamFailed(
        502,
        "upstream_credentials_refused",
        "The server refused the gateway's credentials. Tell the operator.",
    )


def _refusal(reply: Reply) -> UpstreamFailed:
    """What the client is told of a refusal that was not its own fault."""
    message = (reply.error().message or "no reason given")[:500]
    patience = {
        name.decode(): value.decode("latin-1") for name, value in reply.headers if name in RETRY_HEADERS
    }
    if reply.status == 429:
        return UpstreamFailed(
            429, "upstream_rate_limited", f"The server is rate limited: {message}", headers=patience
        )
    if reply.status == 404:
        return UpstreamFailed(404, "model_not_found", f"The server does not have it: {message}")
    status = reply.status if reply.status in (503, 504) else 502
    message = f"The server answered {reply.status}: {message}"
    return UpstreamFailed(status, "upstream_error", message, headers=patience)
