"""The events of OpenAI's Realtime API, in its current form and in the beta's.

https://developers.openai.com/api/reference/resources/realtime
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields
from bluesminds.wire.requests import decode_fields
from bluesminds.wire.sockets import (
    INPUT_AUDIO_PER_TOKEN,
    OTHER,
    OUTPUT_AUDIO_PER_TOKEN,
    ClientEvent,
    ServerEvent,
    SocketFormat,
    canonical,
    models_in,
    read_event,
    reported_usage,
    text_tokens,
    write_event,
)
from bluesminds.wire.usage import BYTES_PER_TOKEN

_NO_MODELS: Final = frozenset(("tools", "metadata", "prompt"))  # where `model` has another meaning
_SESSION_UPDATES: Final = ("session.update", "transcription_session.update")
_AUDIO_DELTAS: Final = ("response.output_audio.delta", "response.audio.delta")
_UNBOUNDED: Final = "inf"
_FIRST_UNBOUNDED: Final = 10_000_000  # tokens; a larger bound is none


class _ClientFields(Struct):
    type: str
    event_id: str | None = None
    session: Raw = ABSENT
    response: Raw = ABSENT


class _ServerFields(Struct):
    type: str
    response_id: str = ""
    delta: Raw = ABSENT
    response: Raw = ABSENT
    error: Raw = ABSENT
    usage: Raw = ABSENT


class _Response(Struct):
    id: str = ""
    status: str | None = None
    usage: Raw = ABSENT


class _Named(Struct):
    event_id: str | None = None


class _ErrorObject(Struct):
    type: str
    code: str
    message: str
    param: str | None
    event_id: str | None


class _ErrorEvent(Struct, tag_field="type", tag="error"):
    event_id: str
    error: _ErrorObject


_client_fields: Final = msgspec.json.Decoder(_ClientFields)
_server_fields: Final = msgspec.json.Decoder(_ServerFields)
_response: Final = msgspec.json.Decoder(_Response)
_named: Final = msgspec.json.Decoder(_Named)


def read_client(text: str) -> ClientEvent:
    """Raises InvalidRequest."""
    fields = read_event(text)
    read = decode_fields(fields, _client_fields)
    if read.type in _SESSION_UPDATES:
        return _session_update(fields, read)
    if read.type == "response.create":
        return _response_create(fields, read)
    tokens = 0
    if read.type == "input_audio_buffer.append":
        tokens = -(-len(bytes(fields.get("audio", ABSENT))) // INPUT_AUDIO_PER_TOKEN)
        return ClientEvent(write_event(fields), event_id=read.event_id, tokens=tokens, has_ids=False)
    if read.type == "conversation.item.create":
        tokens = text_tokens(fields.get("item", ABSENT))
    return ClientEvent(write_event(fields), event_id=read.event_id, tokens=tokens)


def name_of(text: str) -> str | None:
    try:
        return _named.decode(text).event_id
    except NOT_JSON:
        return None


def _session_update(fields: Fields, read: _ClientFields) -> ClientEvent:
    fields, session = _with_canonical(fields, "session")
    inner = {name: value for name, value in session.items() if name != "model"}
    if any(name.casefold() == "model" for name in inner):
        raise InvalidRequest("invalid_value", "Write it `model`.", param="session.model")
    return ClientEvent(
        write_event(fields),
        event_id=read.event_id,
        selects=_text(session.get("model"), "session.model"),
        transcribes=_transcription_model(session),
        models=tuple(models_in(inner, _NO_MODELS)),
        max_output=_bound(session, "session"),
        tokens=text_tokens(fields.get("session", ABSENT)),
    )


def _response_create(fields: Fields, read: _ClientFields) -> ClientEvent:
    fields, response = _with_canonical(fields, "response")
    return ClientEvent(
        write_event(fields),
        creates=True,
        event_id=read.event_id,
        models=tuple(models_in(response, _NO_MODELS)),
        max_output=_bound(response, "response"),
        tokens=text_tokens(fields.get("response", ABSENT)),
    )


def _transcription_model(session: dict[str, object]) -> str | None:
    match session:
        case {"audio": {"input": {"transcription": {"model": str(model)}}}}:
            return model
        case {"input_audio_transcription": {"model": str(model)}}:
            return model
    return None


def _with_canonical(fields: Fields, name: str) -> tuple[Fields, dict[str, object]]:
    raw = fields.get(name)
    if raw is None or bytes(raw) == b"null":
        return fields, {}
    written, value = canonical(raw, name)
    return fields | {name: written}, value


def _text(value: object, param: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequest("invalid_value", f"`{param}` must be a text.", param=param)


def _bound(fields: dict[str, object], param: str) -> int | None:
    """Tokens; 0 for none; None if it is not said. The beta has another name for it."""
    for name in ("max_output_tokens", "max_response_output_tokens"):
        value = fields.get(name)
        if value == _UNBOUNDED:
            return 0
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value < _FIRST_UNBOUNDED:
            return value
        if value is not None:
            param = f"{param}.{name}"
            message = f'`{param}` must be a whole number of tokens, or "inf".'
            raise InvalidRequest("invalid_value", message, param=param)
    return None


def read_server(text: str) -> ServerEvent:
    """Never raises: what cannot be read is passed on."""
    try:
        fields = _server_fields.decode(text)
        return _server_event(fields)
    except NOT_JSON:
        return OTHER


def _server_event(fields: _ServerFields) -> ServerEvent:
    match fields.type:
        case "response.created":
            return ServerEvent("began", _response.decode(fields.response).id)
        case "response.done":
            response = _response.decode(fields.response)
            usage, implausible = reported_usage(response.usage)
            failed = response.status == "failed"
            return ServerEvent("ended", response.id, failed=failed, usage=usage, implausible=implausible)
        case "error":
            return ServerEvent("error", event_id=_named.decode(fields.error).event_id)
        case "conversation.item.input_audio_transcription.completed":
            usage, implausible = reported_usage(fields.usage)
            return ServerEvent("transcribed", usage=usage, implausible=implausible)
    size = len(bytes(fields.delta))
    if size <= len('""'):
        return OTHER
    if fields.type in _AUDIO_DELTAS:
        size = -(-size * BYTES_PER_TOKEN // OUTPUT_AUDIO_PER_TOKEN)
    return ServerEvent("delta", fields.response_id, delivered=size)


def write_error(error: GatewayError, event_id: str, about: str | None) -> str:
    content = _ErrorObject(error.kind, error.code, error.message, error.param, about)
    return msgspec.json.encode(_ErrorEvent(event_id, content)).decode()


def expired(message: str) -> GatewayError:
    return InvalidRequest("session_expired", message)


REALTIME: Final = SocketFormat(
    name="realtime",
    read_client=read_client,
    name_of=name_of,
    read_server=read_server,
    write_error=write_error,
    expired=expired,
)
