"""What the gateway reads of the events of a WebSocket, and the errors that it writes into one.

Both sides send JSON objects with a `type`. Events of the server pass as they are. Events of the client pass
with every key once, the last, which the server must read as well: the gateway acts on what the server gets.
"""

from collections.abc import Callable
from typing import Final, Literal

from msgspec import Raw, Struct, json

from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.base import FormatName
from bluesminds.wire.json_text import NOT_JSON, Fields, read_fields, read_value, text_size, write_fields
from bluesminds.wire.usage import BYTES_PER_TOKEN, ImplausibleUsage, read_usage

# Base64 characters of audio for one token, with OpenAI's default of 16-bit samples at 24 kHz: a token is
# 100 ms of what the user says, or 50 ms of what the model says (its guide to the costs of Realtime).
INPUT_AUDIO_PER_TOKEN: Final = 6400
OUTPUT_AUDIO_PER_TOKEN: Final = 3200

ServerEventKind = Literal["other", "delta", "began", "ended", "transcribed", "error"]


class ClientEvent(Struct, frozen=True):
    """An event of the client. `text`: what the server gets. `creates`: it asks for a response. `event_id`:
    what the client calls it. `selects`: the model of the session or the response; `transcribes`: the model
    that transcribes what the user says; `models`: all models that it names besides the first. `max_output`:
    tokens of this response or, if it creates none, of all later ones; 0 is no bound. `tokens`: an estimate of
    what it adds to the input. `has_ids`: it may name objects at the server.
    """

    text: str
    creates: bool = False
    event_id: str | None = None
    selects: str | None = None
    transcribes: str | None = None
    models: tuple[str, ...] = ()
    max_output: int | None = None
    tokens: int = 0
    has_ids: bool = True


class ServerEvent(Struct, frozen=True):
    """An event of the server. "began" and "ended" are of a response, whose id is `response`; "transcribed" is
    the usage of another model; "error" is about the client's event `event_id`. `failed`: the response ended
    with an error. `delivered`: bytes of text, or as many as the tokens of audio would have.
    """

    kind: ServerEventKind = "other"
    response: str = ""
    event_id: str | None = None
    failed: bool = False
    usage: Usage | None = None
    implausible: bool = False
    delivered: int = 0


OTHER: Final = ServerEvent()


class SocketFormat(Struct, frozen=True):
    """The events of one API. `read_client` raises InvalidRequest. `name_of`: what the client calls an event,
    also one that cannot be read. `write_error(error, id, about)`: an event with this id about an event of the
    client. `expired`: the error of a session that has been open for as long as it may, with a message.
    """

    name: FormatName
    read_client: Callable[[str], ClientEvent]
    name_of: Callable[[str], str | None]
    read_server: Callable[[str], ServerEvent]
    write_error: Callable[[GatewayError, str, str | None], str]
    expired: Callable[[str], GatewayError]


def read_event(text: str) -> Fields:
    """Raises InvalidRequest."""
    try:
        return read_fields(text.encode())
    except NOT_JSON as exc:
        raise InvalidRequest("invalid_json", "Send every event as a JSON object.") from exc


def write_event(fields: Fields) -> str:
    return write_fields(fields).decode(errors="replace")


def canonical(raw: Raw, param: str) -> tuple[Raw, dict[str, object]]:
    """A JSON object with every key once, at every level, and its value. Raises InvalidRequest."""
    try:
        value = read_value(raw)
    except NOT_JSON as exc:
        raise InvalidRequest("invalid_json", f"`{param}` is not valid JSON.", param=param) from exc
    if not isinstance(value, dict):
        raise InvalidRequest("invalid_value", f"`{param}` must be an object.", param=param)
    return Raw(json.encode(value)), value


def models_in(value: object, ignored: frozenset[str]) -> list[str]:
    """All texts under a key `model`, however it is spelled, except below the keys in `ignored`."""
    found: list[str] = []
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as fields:
                for name, inner in fields.items():
                    if isinstance(inner, str):
                        if isinstance(name, str) and name.casefold() == "model":
                            found.append(inner)
                    elif name not in ignored:
                        waiting.append(inner)
            case list() as items:
                waiting += items
    return found


def text_tokens(raw: Raw) -> int:
    """An estimate for JSON that the model reads, without pictures and sound."""
    return -(-text_size(bytes(raw)) // BYTES_PER_TOKEN)


def reported_usage(raw: Raw) -> tuple[Usage | None, bool]:
    """The usage that a server reports, and whether it is impossible."""
    if bytes(raw) in (b"", b"null"):
        return None, False
    try:
        return read_usage(raw), False
    except ImplausibleUsage:
        return None, True
