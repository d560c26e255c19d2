"""Errors in Anthropic's format.

Format: Anthropic API reference, errors: {"type": "error", "error": {"type", "message"}, "request_id"}. The
stable code of an error is its `details.error_code`.
"""

from typing import Any, Final

import msgspec

from bluesminds.http.sse import write_event
from bluesminds.wire.errors import ErrorDetail, has_error_object
from bluesminds.wire.json_text import NOT_JSON, read_fields

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_KNOWN: Final = frozenset((*_TYPES.values(), "api_error"))


def write_message_error(detail: ErrorDetail, request_id: str = "") -> bytes:
    """The body of an error."""
    error: dict[str, Any] = {"type": _type_of(detail), "message": detail.message or "The request failed."}
    if detail.code is not None:
        error["details"] = {"error_code": str(detail.code)}
    body: dict[str, Any] = {"type": "error", "error": error}
    if request_id:
        body["request_id"] = request_id
    return msgspec.json.encode(body)


def is_message_error(body: bytes) -> bool:
    """Whether the body is an error in this format, so that it can be forwarded unchanged."""
    try:
        return has_error_object(body) and bytes(read_fields(body).get("type", b"")) == b'"error"'
    except NOT_JSON:
        return False


def _type_of(detail: ErrorDetail) -> str:
    """OpenAI's errors have the type of a bad request with every status below 500."""
    if detail.type in _KNOWN and (detail.type != "invalid_request_error" or detail.status is None):
        return detail.type
    status = detail.status
    if status is None:
        return "api_error"
    return _TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")


def write_stream_error(code: str, message: str, _number: int = 0) -> bytes:
    """An error event that ends a stream."""
    return write_event(write_message_error(ErrorDetail(message=message, code=code)), b"error")
