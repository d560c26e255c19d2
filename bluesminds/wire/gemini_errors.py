"""Errors in Google's shape.

Format: google.rpc.Status in JSON: {"error": {"code", "message", "status", "details"}}. The stable code of an
error is `code` in the metadata of its ErrorInfo. In a stream, the same object is sent without the framing of
an event.
"""

from typing import Any, Final

import msgspec

from bluesminds.wire.errors import ErrorDetail, has_error_object
from bluesminds.wire.json_text import NOT_JSON, read_fields

_DOMAIN: Final = "bluesminds"
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
    529: "UNAVAILABLE",
}
_STREAM_STATUSES: Final = {
    "upstream_cut": 502,
    "upstream_invalid": 502,
    "upstream_timeout": 504,
    "storage_unavailable": 503,
}


def write_gemini_error(detail: ErrorDetail, request_id: str = "") -> bytes:
    """The body of an error."""
    status = detail.status or 500
    details: list[dict[str, Any]] = []
    if detail.code is not None:
        code = str(detail.code)
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code.upper()}
        details.append(info | {"domain": _DOMAIN, "metadata": {"code": code}})
    if detail.param is not None:
        violation = {"field": detail.param, "description": detail.message or ""}
        kind = "type.googleapis.com/google.rpc.BadRequest"
        details.append({"@type": kind, "fieldViolations": [violation]})
    if request_id:
        kind = "type.googleapis.com/google.rpc.RequestInfo"
        details.append({"@type": kind, "requestId": request_id})
    error: dict[str, Any] = {
        "code": status,
        "message": detail.message or "The request failed.",
        "status": _STATUSES.get(status) or ("INVALID_ARGUMENT" if status < 500 else "INTERNAL"),
    }
    if details:
        error["details"] = details
    return msgspec.json.encode({"error": error})


def is_gemini_error(body: bytes) -> bool:
    """Whether the body already has this format."""
    try:
        return has_error_object(body) and "status" in read_fields(bytes(read_fields(body)["error"]))
    except NOT_JSON:
        return False


def write_gemini_failure(error: ErrorDetail) -> bytes:
    """An error in a stream. Google's SDKs only raise an exception if it is not the data of an event."""
    return write_gemini_error(error) + b"\n"


def write_stream_error(code: str, message: str, _number: int = 0) -> bytes:
    """An error of the gateway that ends a stream."""
    status = _STREAM_STATUSES.get(code, 500)
    return write_gemini_failure(ErrorDetail(message=message, code=code, status=status))
