"""The messages of the Responses API on a WebSocket.

The client sends `response.create` events, which have the fields of a request. The server sends the events of
a stream, without the framing of SSE. https://developers.openai.com/api/docs/guides/websocket-mode
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.http.sse import event_data
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields
from bluesminds.wire.responses_items import output_items
from bluesminds.wire.sockets import read_event

_CREATE: Final = "response.create"
_OF_THE_SOCKET: Final = ("type", "event_id", "stream_id", "generate", "stream_options")
_COMPLETE: Final = ("response.completed", "response.incomplete")
_text = msgspec.json.Decoder(str)


class CreateEvent(Struct, frozen=True):
    """`fields`: the request. `suffix`: what every event of the response has at its end."""

    fields: Fields
    suffix: bytes = b"}"


def read_create(text: str) -> CreateEvent:
    """Raises InvalidRequest."""
    fields = read_event(text)
    kind = text_of(fields, "type")
    if kind != _CREATE:
        message = f"`type` must be `{_CREATE}`; other events are not supported."
        raise InvalidRequest("invalid_value", message, param="type")
    if bytes(fields.get("generate", ABSENT)) == b"false":
        message = "`generate` false is not supported. Send the first request without a warm-up."
        raise InvalidRequest("invalid_value", message, param="generate")
    suffix = b"}"
    if stream_id := text_of(fields, "stream_id"):
        suffix = b',"stream_id":%b}' % msgspec.json.encode(stream_id)
    request = {name: value for name, value in fields.items() if name not in _OF_THE_SOCKET}
    return CreateEvent(request | {"stream": Raw(b"true")}, suffix)


def message_of(event: bytes, suffix: bytes = b"}") -> str:
    """The message for an event of a stream; "" for an event without JSON, such as a comment."""
    data = event_data(event).strip()
    return (data[:-1] + suffix).decode(errors="replace") if data.startswith(b"{") else ""


def has_response(event: bytes) -> bool:
    """Whether it is the last event of a response that has not failed."""
    try:
        return text_of(read_fields(event_data(event)), "type") in _COMPLETE
    except NOT_JSON:
        return False


def write_error_message(error: GatewayError, suffix: bytes = b"}") -> str:
    content = {"type": error.kind, "code": error.code, "message": error.message, "param": error.param}
    return _error_message(error.status, content, suffix)


def error_message_of(status: int, body: bytes, suffix: bytes = b"}") -> str:
    """The message for an error response."""
    try:
        content: Any = read_fields(body)["error"]
    except (*NOT_JSON, KeyError):
        content = {"type": "server_error", "code": None, "message": "The request failed.", "param": None}
    return _error_message(status, content, suffix)


def repeatable_items(response: bytes) -> list[Fields]:
    """The output of a response, as input of the next request to a server that has not stored it. Raises
    ValueError for a body that is no response.
    """
    return [
        item
        for item in output_items(response)
        if text_of(item, "type") != "reasoning" or text_of(item, "encrypted_content")
    ]


def _error_message(status: int, content: object, suffix: bytes) -> str:
    event = msgspec.json.encode({"type": "error", "status": status, "error": content})
    return (event[:-1] + suffix).decode()


def text_of(fields: Fields, name: str) -> str:
    """A field that is a text; "" for anything else."""
    try:
        return _text.decode(fields.get(name, ABSENT))
    except NOT_JSON:
        return ""
