"""Builds the RequestContext of an ASGI scope: credential, request id and headers to forward."""

import re
from collections.abc import Mapping

import trio

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.values import RequestContext, Requirement, list_names, read_requirement
from bluesminds.gateway.sockets.realtime import KEY_SUBPROTOCOL
from bluesminds.gateway.tracing import Tracer
from bluesminds.http.asgi import Scope
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.web.google_clients import google_credential

MAX_PATH = 200  # characters, for the log
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch
_CREDENTIALS = (b"authorization", b"x-api-key", b"api-key")
ANTHROPIC_PREFIX = b"anthropic-"  # features of Anthropic's API: an open list
_WORKSPACE = b"anthropic-workspace-id"  # of the gateway's account there: not for clients to choose
# Headers for the upstream server; all others are dropped.
_FORWARDED = frozenset((b"traceparent", b"tracestate", b"idempotency-key", b"openai-beta"))
# The region and the tags that the server must have.
_REQUIREMENTS = (b"x-bluesminds-region", b"x-bluesminds-tags")
_PREFERENCE = b"x-bluesminds-prefer-region"
MAX_PREFERENCE = 200  # bytes
# Headers that most requests have and that mean nothing here: skipped early.
_OTHERS = frozenset((b"host", b"accept", b"user-agent", b"content-type", b"content-length", b"connection"))


def read_request_context(
    scope: Scope, endpoint: str, clock: Clock, *, google: bool = False, tracer: Tracer | None = None
) -> RequestContext:
    """Does not raise for any input. `google`: the path is of Gemini's API, whose clients send their key as
    Google's do.
    """
    request_id: bytes | None = None
    origin: bytes | None = None
    cache_control = prefer = b""
    required: dict[bytes, bytes] = {}
    found: dict[bytes, bytes] = {}
    forward: list[tuple[bytes, bytes]] = []
    for header in scope["headers"]:
        name = header[0]
        if name in _OTHERS:
            continue
        if name in _CREDENTIALS:
            found.setdefault(name, header[1])
        elif name == b"x-request-id":
            request_id = header[1]
        elif name in _FORWARDED or (name.startswith(ANTHROPIC_PREFIX) and name != _WORKSPACE):
            forward.append((name, header[1]))
        elif name == b"origin":
            # Browsers send one; joined, two headers match no allowed origin.
            origin = header[1] if origin is None else origin + b"," + header[1]
        elif name == b"cache-control":
            cache_control = header[1]
        elif name == _PREFERENCE:
            prefer = header[1][:MAX_PREFERENCE]
        elif name in _REQUIREMENTS:
            required[name] = header[1] if name not in required else required[name] + b"," + header[1]
    at_ms = clock.now_ms()
    own_id = uuid7(at_ms)
    header_name, credential = _credential(found)
    if google and credential is None:
        header_name, credential = google_credential(scope)
    if credential is None:
        header_name, credential = _subprotocol_credential(scope)
    client = scope["client"]
    trace, forwarded = None, tuple(forward)
    if tracer is not None:
        trace, forwarded = tracer.begin(forwarded)
    return RequestContext(
        id=own_id,
        request_id=valid_request_id(request_id) or own_id,
        method=scope["method"],
        path=scope["path"][:MAX_PATH],
        endpoint=endpoint,
        credential=credential,
        credential_header=header_name,
        origin=None if origin is None else origin.decode("latin-1"),
        client=client[0] if client else "local",
        forward=forwarded,
        at_ms=at_ms,
        started=trio.current_time(),
        cache_control=cache_control.decode("latin-1"),
        required=_read_required(required) if required else None,
        trace=trace,
        prefer_regions=list_names(prefer.decode("latin-1")) if prefer else (),
    )


def _read_required(headers: Mapping[bytes, bytes]) -> Requirement | None:
    region, tags = (headers.get(name, b"").decode("latin-1") for name in _REQUIREMENTS)
    return read_requirement(region, tags)


def is_anthropic_client(context: RequestContext) -> bool:
    """Whether the client uses Anthropic's API: its clients send a version with every request."""
    return any(name == b"anthropic-version" for name, _ in context.forward)


def valid_request_id(given: bytes | None) -> str | None:
    """The client's request id if it is safe to log, else None."""
    return given.decode() if given and _VALID_ID(given) else None


def _subprotocol_credential(scope: Scope) -> tuple[str | None, str | None]:
    """Of a browser, which cannot set headers of a WebSocket."""
    upgrade: WebSocketUpgrade | None = scope.get("extensions", {}).get("websocket")
    if upgrade is None:
        return None, None
    for name in upgrade.subprotocols:
        if name.startswith(KEY_SUBPROTOCOL):
            return "sec-websocket-protocol", name.removeprefix(KEY_SUBPROTOCOL)
    return None, None


def _credential(found: dict[bytes, bytes]) -> tuple[str | None, str | None]:
    for name in _CREDENTIALS:
        value = found.get(name)
        if value is not None:
            if value[:7].lower() == b"bearer ":
                value = value[7:]
            return name.decode(), value.strip().decode("latin-1")
    return None, None
