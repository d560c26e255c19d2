"""CORS of the data plane (https://fetch.spec.whatwg.org/#http-cors-protocol), without I/O.

Credentials mode is never allowed: a page sends its API key in a header, and cookies mean nothing here.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from bluesminds.http.asgi import Scope

Headers = list[tuple[bytes, bytes]]

# Request headers of pages and of the SDKs for browsers, and response headers that scripts may read.
_ALLOWED: Final = re.compile(
    rb"authorization|x-api-key|api-key|content-type|accept|user-agent|x-request-id|idempotency-key"
    rb"|traceparent|tracestate|x-bluesminds-(?:server|region|tags)|x-goog-api-key|x-goog-api-client"
    rb"|(?:openai|anthropic|x-stainless)-[a-z0-9-]+"
).fullmatch
_EXPOSED: Final = re.compile(
    rb"(?:x-)?request-id|retry-after|retry-after-ms|x-should-retry|x-cost-usd"
    rb"|(?:x-ratelimit|x-bluesminds|openai)-[a-z0-9-]+"
).fullmatch
_MAX_AGE: Final = b"7200"  # seconds; Chromium's maximum
_PRIVATE_NETWORK: Final = b"access-control-request-private-network"

VARY_ORIGIN: Final = (b"vary", b"origin")


class Preflight(Struct, frozen=True):
    """A request of a browser before that of a page. It never contains the API key."""

    headers: tuple[bytes, ...]  # names, lower case
    private_network: bool


def read_preflight(scope: Scope) -> Preflight | None:
    """None if the request is not a preflight: OPTIONS with Origin and Access-Control-Request-Method."""
    if scope["method"] != "OPTIONS":
        return None
    given = dict(scope["headers"])
    if b"origin" not in given or b"access-control-request-method" not in given:
        return None
    names = given.get(b"access-control-request-headers", b"").lower().split(b",")
    return Preflight(tuple(name.strip() for name in names), given.get(_PRIVATE_NETWORK) == b"true")


def preflight_headers(preflight: Preflight, origin: str, methods: Iterable[str]) -> Headers:
    """The response to a preflight of an allowed origin, without VARY_ORIGIN."""
    headers = [
        _allow(origin),
        (b"access-control-allow-methods", ", ".join(methods).encode()),
        (b"access-control-max-age", _MAX_AGE),
        (b"vary", b"access-control-request-method, access-control-request-headers"),
    ]
    if allowed := [name for name in preflight.headers if _ALLOWED(name)]:
        headers.append((b"access-control-allow-headers", b", ".join(allowed)))
    if preflight.private_network:
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers


def response_headers(origin: str, headers: Headers) -> Headers:
    """The headers that allow pages of `origin` to read a response."""
    exposed = [name for name, _ in headers if _EXPOSED(name)]
    return [_allow(origin), (b"access-control-expose-headers", b", ".join(exposed))]


def _allow(origin: str) -> tuple[bytes, bytes]:
    return (b"access-control-allow-origin", origin.encode("latin-1"))
