"""The messages of the Responses API on a WebSocket.

The client sends `response.create` events, which have the fields of a request. The server sends the events of
a stream, without the framing of SSE. https://developers.openai.com/api/docs/guides/websocket-mode
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.http.sse import event_data
from bluesminds.wire.errors import read_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields, write_fields
from bluesminds.wire.responses_items import output_items
from bluesminds.wire.responses_objects import ResponseHead
from bluesminds.wire.sockets import read_event
from bluesminds.wire.stages import name_and_data

_CREATE: Final = "response.create"
_OF_THE_SOCKET: Final = ("type", "event_id", "stream_id", "generate", "stream_options")
_COMPLETE: Final = ("response.completed", "response.incomplete")
_text = msgspec.json.Decoder(str)


class CreateEvent(Struct, frozen=True):
    """`fields`: the request. `suffix`: what every event of the response has at its end. `generates`: else the
    input is only remembered, for the response that continues it.
    """

    fields: Fields
    suffix: bytes = b"}"
    generates: bool = True


def read_create(text: str) -> CreateEvent:
    """Raises InvalidRequest."""
    fields = read_event(text)
    kind = text_of(fields, "type")
    if kind != _CREATE:
        message = f"`type` must be `{_CREATE}`; other events are not supported."
        raise InvalidRequest("invalid_value", message, param="type")
    suffix = b"}"
    if stream_id := text_of(fields, "stream_id"):
        suffix = b',"stream_id":%b}' % msgspec.json.encode(stream_id)
    request = {name: value for name, value in fields.items() if name not in _OF_THE_SOCKET}
    generates = bytes(fields.get("generate", ABSENT)) != b"false"
    return CreateEvent(request | {"stream": Raw(b"true")}, suffix, generates)


def write_warm_up(head: ResponseHead, suffix: bytes) -> list[str]:
    """The messages for a response that generates nothing."""
    created = {"type": "response.created", "sequence_number": 0, "response": head.write("in_progress")}
    completed = {"type": "response.completed", "sequence_number": 1, "response": head.write("completed")}
    return [(msgspec.json.encode(event)[:-1] + suffix).decode() for event in (created, completed)]


def message_of(event: bytes, suffix: bytes = b"}", previous_id: str = "") -> str:
    """The message for an event of a stream; "" for an event without JSON, such as a comment. `previous_id`:
    of the response that the client continues, if the server has got its items instead of its id.
    """
    data = event_data(event).strip()
    if not data.startswith(b"{"):
        return ""
    if previous_id:
        data = _with_previous(data, previous_id)
    return (data[:-1] + suffix).decode(errors="replace")


def _with_previous(data: bytes, previous_id: str) -> bytes:
    try:
        fields = read_fields(data)
        response = read_fields(bytes(fields["response"]))
    except (*NOT_JSON, KeyError):
        return data
    response["previous_response_id"] = Raw(msgspec.json.encode(previous_id))
    return write_fields(fields | {"response": Raw(write_fields(response))})


def has_response(event: bytes) -> bool:
    """Whether it is the last event of a response that has not failed."""
    try:
        return text_of(read_fields(event_data(event)), "type") in _COMPLETE
    except NOT_JSON:
        return False


def is_error(event: bytes) -> bool:
    """Whether it is the event of an error."""
    return name_and_data(event)[0] == b"error"


def write_error_message(error: GatewayError, suffix: bytes = b"}") -> str:
    content = {"type": error.kind, "code": error.code, "message": error.message, "param": error.param}
    return _error_message(error.status, content, suffix)


def error_message_of(status: int, body: bytes, suffix: bytes = b"}") -> str:
    """The message for an error response."""
    error = read_error(status, body)
    kind = error.type or "server_error"
    content = {
        "type": kind,
        "code": kind if error.code is None else str(error.code),  # clients expect a text
        "message": error.message or "The request failed.",
        "param": error.param,
    }
    return _error_message(status, content, suffix)


def repeatable_items(response: bytes) -> list[Fields]:
    """The output of a response, as input of the next request to a server that has not stored it. Without its
    reasoning, items must not have the ids that refer to it. Raises ValueError if the body is not a response.
    """
    items = output_items(response)
    kept = [
        item for item in items if text_of(item, "type") != "reasoning" or text_of(item, "encrypted_content")
    ]
    if len(kept) == len(items):
        return items
    return [{name: value for name, value in item.items() if name != "id"} for item in kept]


def _error_message(status: int, content: object, suffix: bytes) -> str:
    event = msgspec.json.encode({"type": "error", "status": status, "error": content})
    return (event[:-1] + suffix).decode()


def text_of(fields: Fields, name: str) -> str:
    """A field that is a text; "" for anything else."""
    try:
        return _text.decode(fields.get(name, ABSENT))
    except NOT_JSON:
        return ""
