"""Error responses with the request id: in OpenAI's format, or in the client's."""

import msgspec
from msgspec import Struct

from bluesminds.common.errors import GatewayError
from bluesminds.wire.base import Format
from bluesminds.wire.errors import ErrorDetail


class ErrorObject(Struct, frozen=True):
    """Programs should only evaluate `code`."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class ErrorResponse(Struct, frozen=True):
    """The body of every error response."""

    error: ErrorObject


def error_body(exc: GatewayError, request_id: str) -> bytes:
    """{"error": {message, type, param, code, request_id}}"""
    return msgspec.json.encode(
        ErrorResponse(ErrorObject(exc.message, exc.kind, exc.param, exc.code, request_id))
    )


def error_in_format(exc: GatewayError, request_id: str, format_: Format) -> bytes:
    """The error in the shape of a wire format. The status says what kind it is."""
    detail = ErrorDetail(message=exc.message, param=exc.param, code=exc.code, status=exc.status)
    return format_.write_error(detail, request_id)


def error_headers(exc: GatewayError) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in exc.headers.items()),
    ]


INTERNAL = GatewayError(500, "internal_error", "Internal error. It was logged with this request id.")
INTERNAL.kind = "server_error"
