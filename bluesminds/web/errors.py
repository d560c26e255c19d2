"""How a refusal looks on the wire: OpenAI's error body, with the request id."""

import msgspec

from bluesminds.errors import GatewayError


def error_body(exc: GatewayError, request_id: str) -> bytes:
    """{"error": {message, type, param, code, request_id}}"""
    return msgspec.json.encode(
        {
            "error": {
                "message": exc.message,
                "type": exc.kind,
                "param": exc.param,
                "code": exc.code,
                "request_id": request_id,
            }
        }
    )


def error_headers(exc: GatewayError) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/json"),
        *((name.encode(), value.encode("latin-1", "replace")) for name, value in exc.headers.items()),
    ]


INTERNAL = GatewayError(
    500, "internal_error", "The gateway could not answer this request. It has been logged."
)
INTERNAL.kind = "server_error"
