"""Errors in the middle of a stream, in the shape of the Responses API.

Format: OpenAI API reference, responses streaming, `error`. OpenAI's types have the fields of the error beside
the event's; its servers and Open Responses have them in an `error`, for which the SDKs raise an exception.
"""

from typing import Any

import msgspec

from bluesminds.http.sse import write_event
from bluesminds.wire.errors import ErrorDetail


def write_error_event(error: ErrorDetail, number: int) -> bytes:
    """`number`: the event's place in the stream."""
    fields: dict[str, Any] = {
        "code": None if error.code is None else str(error.code),
        "message": error.message or "The request failed.",
        "param": error.param,
    }
    event = {"type": "error", "sequence_number": number, **fields}
    event["error"] = {"type": error.type or "server_error", **fields}
    return write_event(msgspec.json.encode(event), b"error")


def write_stream_error(code: str, message: str, number: int = 0) -> bytes:
    """A failure that ends the stream."""
    return write_error_event(ErrorDetail(message=message, type="server_error", code=code), number)
