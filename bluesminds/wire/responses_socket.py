"""The Responses API on a WebSocket: one message creates a response, whose events are the answer.

Format: OpenAI's guide to the WebSocket mode of the Responses API; specification of Open Responses. Messages
have the bodies of requests and the data of events. Errors have a status, as they have no HTTP response.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.wire.errors import ErrorDetail, read_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields, write_fields
from bluesminds.wire.responses_objects import ResponseHead
from bluesminds.wire.sockets import write_event

CREATE: Final = b'"response.create"'
ERROR: Final = b"error"
STREAM_FAILED: Final = 502  # the status of an error in the middle of a stream
_LANE: Final = "stream_id"
# What is about the transport. A stream over HTTP has fields for it, which have no meaning here.
_TRANSPORT: Final = frozenset(("type", "event_id", "generate", "stream", "stream_options", _LANE))


class ResponseCreation(Struct, frozen=True):
    """A message of the client. `request`: as over HTTP, for a stream. `lane`: what the client calls the
    events of the response; empty if it has no name for them. `generates`: else only the input is remembered.
    """

    request: Fields
    lane: Raw
    generates: bool


def read_creation(message: bytes) -> ResponseCreation:
    """Raises InvalidRequest."""
    fields = _read_message(message)
    if bytes(fields.get("type", ABSENT)) != CREATE:
        text = "The `type` of a message must be response.create."
        raise InvalidRequest("invalid_value", text, param="type")
    lane = fields.get(_LANE, ABSENT)
    request = {name: value for name, value in fields.items() if name not in _TRANSPORT}
    generates = bytes(fields.get("generate", ABSENT)) != b"false"
    return ResponseCreation(request | {"stream": Raw(b"true")}, lane, generates)


def lane_of(message: bytes) -> Raw:
    """The `stream_id` of a message, also of one that cannot be read."""
    try:
        return _read_message(message).get(_LANE, ABSENT)
    except InvalidRequest:
        return ABSENT


def _read_message(message: bytes) -> Fields:
    try:
        return read_fields(message)
    except NOT_JSON as exc:
        raise InvalidRequest("invalid_json", "Send every message as a JSON object.") from exc


def write_failure(error: GatewayError, lane: Raw) -> str:
    detail = ErrorDetail(error.message, error.kind, error.param, error.code, error.status)
    return _write_error(detail, error.status, lane)


def write_refusal(status: int, body: bytes, lane: Raw) -> str:
    """The error of a whole response over HTTP."""
    return _write_error(read_error(status, body), status, lane)


def _write_error(detail: ErrorDetail, status: int, lane: Raw) -> str:
    kind = detail.type or "server_error"
    error = {
        "type": kind,
        "code": kind if detail.code is None else str(detail.code),
        "message": detail.message or "The request failed.",
        "param": detail.param,
    }
    event: dict[str, Any] = {"type": "error", "status": status, "error": error}
    if len(lane):
        event[_LANE] = lane
    return msgspec.json.encode(event).decode()


def write_message(name: bytes, data: bytes, *, previous_id: str, lane: Raw) -> str:
    """The message for an event. `previous_id`: of the response that the client continues; "" if there is
    none. The server does not know it if it has got the items instead.
    """
    if not (previous_id or len(lane) or name == ERROR):
        return data.decode(errors="replace")
    fields = read_fields(data)
    if previous_id and "response" in fields:
        response = read_fields(bytes(fields["response"]))
        response["previous_response_id"] = Raw(msgspec.json.encode(previous_id))
        fields["response"] = Raw(write_fields(response))
    if name == ERROR:
        fields.setdefault("status", Raw(b"%d" % STREAM_FAILED))
    if len(lane):
        fields[_LANE] = lane
    return write_event(fields)


def write_warm_up(creation: ResponseCreation, head: ResponseHead) -> list[str]:
    """The messages for a response that generates nothing."""
    lane = {_LANE: creation.lane} if len(creation.lane) else {}
    created = {"type": "response.created", "sequence_number": 0, "response": head.write("in_progress")}
    completed = {"type": "response.completed", "sequence_number": 1, "response": head.write("completed")}
    return [msgspec.json.encode(event | lane).decode() for event in (created, completed)]
