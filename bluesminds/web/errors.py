"""How a refusal looks on the wire: OpenAI's error body, with the request id."""

import msgspec
from msgspec import Struct

from bluesminds.common.errors import GatewayError


class Refusal(Struct, frozen=True):
    """What went wrong. Programs look at `code` and at nothing else."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class ErrorResponse(Struct, frozen=True):
    """The body of every refusal."""

    error: Refusal


def error_body(exc: GatewayError, request_id: str) -> bytes:
    """{"error": {message, type, param, code, request_id}}"""
    return msgspec.json.encode(ErrorResponse(Refusal(exc.message, exc.kind, exc.param, exc.code, request_id)))


def error_headers(exc: GatewayError) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in exc.headers.items()),
    ]


INTERNAL = GatewayError(
    500, "internal_error", "The gateway could not answer this request. It has been logged."
)
INTERNAL.kind = "server_error"
