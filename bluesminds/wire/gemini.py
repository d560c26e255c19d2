"""Gemini's API: models.generateContent, models.streamGenerateContent and models.countTokens.

Format: Gemini API reference. All fields of requests and answers are forwarded, also unknown ones. The path
contains the model and whether to stream: they are read as fields, and written into the path of the server.
"""

from functools import partial

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.http.sse import EventSplitter, write_event
from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.conversation import ConversationRequest, StreamFinished, reply_of_events
from bluesminds.wire.counted import no_events, read_count_reply
from bluesminds.wire.errors import find_error
from bluesminds.wire.gemini_codec import GEMINI_CODEC, write_reply
from bluesminds.wire.gemini_errors import is_gemini_error, write_gemini_error, write_stream_error
from bluesminds.wire.gemini_fields import camel_case, camel_fields
from bluesminds.wire.gemini_passthrough import GeminiPassthrough
from bluesminds.wire.gemini_stream import (
    GeminiChunk,
    GeminiDecoder,
    error_of,
    gemini_usage,
    read_gemini_chunk,
)
from bluesminds.wire.json_text import (
    ABSENT,
    NOT_JSON,
    Fields,
    is_set,
    read_fields,
    read_value,
    text_bytes,
    write_fields,
)
from bluesminds.wire.requests import Choices, Tokens, decode_fields, largest_bound
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.usage import estimate_input

_CONFIG, _BOUND = "generationConfig", "maxOutputTokens"
_IN_PATH = frozenset(("model", "stream"))


class _Config(Struct, rename="camel"):
    """The fields that decide what a request may cost."""

    max_output_tokens: Tokens | None = None
    candidate_count: Choices | None = None


class GeminiFields(Struct, rename="camel"):
    model: str
    contents: Raw
    stream: bool = False
    generation_config: Raw = ABSENT


class GeminiCountFields(Struct):
    model: str


_fields = msgspec.json.Decoder(GeminiFields)
_config = msgspec.json.Decoder(_Config)
_count_fields = msgspec.json.Decoder(GeminiCountFields)


def read_request(fields: Fields) -> RequestFacts:
    named = camel_fields(fields)
    request = decode_fields(named, _fields, unread=("contents", "generationConfig"))
    max_output, choices = None, 1
    if is_set(raw := named.get("generationConfig")) and raw is not None:
        config = _read_config(raw)
        max_output = largest_bound(("generationConfig.maxOutputTokens", config.max_output_tokens))
        choices = config.candidate_count or 1
    return RequestFacts(
        model=request.model,
        stream=request.stream,
        wants_usage=True,
        max_output=max_output,
        choices=choices,
        text_bytes=text_bytes(_without_path(fields)),
    )


def with_max_output(fields: Fields, tokens: int) -> Fields:
    """The fields of a valid request with another `maxOutputTokens`."""
    given = {camel_case(name): name for name in fields}
    name = given.get(_CONFIG, _CONFIG)
    raw = fields.get(name)
    config = {} if raw is None or not is_set(raw) else read_fields(bytes(raw))
    others = {key: value for key, value in config.items() if camel_case(key) != _BOUND}
    return {**fields, name: Raw(write_fields(others | {_BOUND: Raw(b"%d" % tokens)}))}


def _read_config(raw: Raw) -> _Config:
    param = "generationConfig"
    try:
        config = camel_fields(read_fields(bytes(raw)), param)
        known = {name: config[name] for name in _Config.__struct_encode_fields__ if name in config}
        return _config.decode(msgspec.json.encode(known))
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `$.")
        if path:
            param = f"{param}.{path.rstrip('`')}"
        raise InvalidRequest("invalid_value", f"{reason} (in `{param}`).", param=param) from exc
    except NOT_JSON as exc:
        raise InvalidRequest("invalid_value", f"`{param}` must be an object.", param=param) from exc


def _without_path(fields: Fields) -> Fields:
    return {name: value for name, value in fields.items() if name not in _IN_PATH}


def prepare(fields: Fields, model: str, force: bool) -> Fields:
    """The model and whether to stream go into the path."""
    return _without_path(fields)


def read_reply(body: bytes) -> ReplyFacts:
    chunk = read_gemini_chunk(body)
    if chunk is None:
        return ReplyFacts(readable=_is_object(body), error=find_error(body))
    return _facts_of(chunk, body, whole=True)


def read_event(name: bytes, data: bytes) -> ReplyFacts:
    """One event of a stream. Its usage is that of the answer so far."""
    chunk = read_gemini_chunk(data)
    return ReplyFacts(readable=False) if chunk is None else _facts_of(chunk, data, whole=False)


def _facts_of(chunk: GeminiChunk, data: bytes, *, whole: bool) -> ReplyFacts:
    usage, implausible = gemini_usage(chunk)
    answers = len(chunk.candidates or ()) or int(chunk.is_blocked())
    sizes = [
        len(part.generated().encode())
        for candidate in chunk.candidates or ()
        for part in candidate.parts()
        if part.generated() or part.is_media()
    ]
    error = error_of(chunk, data)
    return ReplyFacts(
        choices=answers,
        usage=usage,
        implausible=implausible,
        delivered=sum(sizes),
        pieces=len(sizes),
        error=find_error(data) if error is None and whole and not answers else error,
    )


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(read_value(body), dict)
    except NOT_JSON:
        return False


_NATIVE = ConversationRequest("", ())  # a client that gets everything


def events_from_reply(body: bytes, wants_usage: bool) -> bytes:
    """The stream of a whole answer: one event. Raises ValueError when it has no candidates."""
    if not read_reply(body).choices:
        raise ValueError("an answer without candidates")
    try:
        return write_event(msgspec.json.format(body, indent=-1))
    except NOT_JSON as exc:
        raise ValueError("an answer in unexpected JSON") from exc


def reply_from_events(stream: bytes) -> bytes:
    """Joins a stream to one answer. Raises ValueError if the stream is incomplete, or has content of unknown
    types.
    """
    decoder = GeminiDecoder(_NATIVE)
    splitter = EventSplitter()
    pieces = (*splitter.feed(stream), splitter.finish())
    events = [found for one in pieces for found in decoder.feed(*name_and_data(one))]
    if decoder.skipped:
        raise ValueError(f"content of the kind {decoder.skipped[0]}")
    return write_reply(reply_of_events([*events, StreamFinished()]), _NATIVE, str)


def read_count_request(fields: Fields) -> RequestFacts:
    """Counting generates nothing and costs nothing: no text is charged."""
    return RequestFacts(decode_fields(fields, _count_fields).model, max_output=0)


def estimate_count(fields: Fields) -> bytes:
    """The answer to a request for a count, for servers that do not count."""
    return msgspec.json.encode({"totalTokens": estimate_input(text_bytes(_without_path(fields)))})


GEMINI = Format(
    name="gemini",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=read_event,
    write_error=write_gemini_error,
    write_stream_error=write_stream_error,
    is_error=is_gemini_error,
    events_from_reply=events_from_reply,
    reply_from_events=reply_from_events,
    stage=GeminiPassthrough,
    codec=GEMINI_CODEC,
)
GEMINI_COUNT = structs.replace(
    GEMINI,
    name="gemini_count_tokens",
    read_request=read_count_request,
    read_reply=partial(read_count_reply, name="totalTokens"),
    read_event=no_events,
    events_from_reply=None,
    reply_from_events=None,
    stage=None,
    estimate=estimate_count,
    codec=None,
)
