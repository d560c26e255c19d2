"""The Responses API: POST /v1/responses and /v1/responses/input_tokens.

Format: OpenAI API reference, responses, streaming and input tokens. Requests and answers pass with every
field that they have, known or not.
"""

import msgspec
from msgspec import Struct, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.compaction_items import with_messages
from bluesminds.wire.counted import no_events, read_count_reply
from bluesminds.wire.errors import find_error, read_error, write_error
from bluesminds.wire.json_text import Fields, is_json, read_value, text_bytes
from bluesminds.wire.requests import Tokens, decode_fields, largest_bound, with_model
from bluesminds.wire.responses_assembly import events_of_response
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.responses_errors import write_stream_error
from bluesminds.wire.responses_items import response_of_stream
from bluesminds.wire.responses_passthrough import ResponsesPassthrough, text_of_item
from bluesminds.wire.responses_stream import (
    failure_in,
    read_body,
    read_item,
    read_responses_event,
    usage_in,
)
from bluesminds.wire.usage import estimate_input


class ResponsesFields(Struct):
    """The fields that decide what a request may cost."""

    model: str
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    background: bool | None = None


class InputTokensFields(Struct):
    model: str


_fields = msgspec.json.Decoder(ResponsesFields)
_count_fields = msgspec.json.Decoder(InputTokensFields)


def read_request(fields: Fields) -> RequestFacts:
    request = decode_fields(fields, _fields)
    if request.background:
        raise InvalidRequest(
            "invalid_value",
            "`background` is not supported: the usage of the response would not be known. Leave it out, and"
            " use `stream` for long answers.",
            param="background",
        )
    return RequestFacts(
        model=request.model,
        stream=bool(request.stream),
        wants_usage=True,
        max_output=largest_bound(("max_output_tokens", request.max_output_tokens)),
        text_bytes=text_bytes(fields),
    )


def prepare(fields: Fields, model: str, force: bool) -> Fields:
    """The server cannot read the gateway's own items."""
    return with_messages(with_model(fields, model))


def read_reply(body: bytes) -> ReplyFacts:
    found = read_body(body)
    if found is None:
        return ReplyFacts(readable=_is_object(body), error=find_error(body))
    usage, implausible = usage_in(found)
    sizes = [len(text.encode()) for item in found.output or () if (text := text_of_item(item))]
    return ReplyFacts(
        choices=int(found.output is not None),
        usage=usage,
        implausible=implausible,
        delivered=sum(sizes),
        pieces=len(sizes),
        error=failure_in(found) or (None if found.output is not None else find_error(body)),
    )


def _is_object(body: bytes) -> bool:
    return is_json(body) and isinstance(read_value(body), dict)


def read_event(name: bytes, data: bytes) -> ReplyFacts:
    """One event. A delta has text; the last event has the usage."""
    event = read_responses_event(data)
    if event is None or name == b"error" or event.type == "error":
        return ReplyFacts(readable=event is not None, error=read_error(200, data) if event else None)
    body = read_body(event.response) if len(event.response) else None
    usage, implausible = (None, False) if body is None else usage_in(body)
    is_whole = event.type == "response.output_item.done"
    text = text_of_item(read_item(event.item)) if is_whole else event.delta or ""
    return ReplyFacts(
        choices=int(event.type is not None and event.type.startswith("response.output_item")),
        usage=usage,
        implausible=implausible,
        delivered=len(text.encode()),
        pieces=int(bool(text)),
        error=None if body is None else failure_in(body),
    )


def events_from_reply(body: bytes, wants_usage: bool) -> bytes:
    """The stream of a whole answer. Raises ValueError when it has no output."""
    try:
        return events_of_response(body)
    except RecursionError as exc:
        raise ValueError("an answer with a value that is nested too deep") from exc


def read_count_request(fields: Fields) -> RequestFacts:
    """Counting generates nothing and costs nothing: no text is charged."""
    return RequestFacts(decode_fields(fields, _count_fields).model, max_output=0)


def estimate_input_tokens(fields: Fields) -> bytes:
    """The answer to a request for a count, for servers that do not count."""
    count = estimate_input(text_bytes(fields))
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": count})


RESPONSES = Format(
    name="responses",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=read_event,
    write_error=write_error,
    write_stream_error=write_stream_error,
    events_from_reply=events_from_reply,
    reply_from_events=response_of_stream,
    stage=ResponsesPassthrough,
    codec=RESPONSES_CODEC,
)
INPUT_TOKENS = structs.replace(
    RESPONSES,
    name="input_tokens",
    read_request=read_count_request,
    read_reply=read_count_reply,
    read_event=no_events,
    events_from_reply=None,
    reply_from_events=None,
    stage=None,
    codec=None,
    estimate=estimate_input_tokens,
)
