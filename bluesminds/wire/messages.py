"""Anthropic's Messages: POST /v1/messages and /v1/messages/count_tokens.

Format: Anthropic API reference, messages, streaming and count tokens. All fields of requests and answers are
forwarded, including unknown ones.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.values import Usage
from bluesminds.http.sse import EventSplitter
from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.conversation import ConversationRequest, events_of_reply, reply_of_events
from bluesminds.wire.counted import no_events, read_count_reply
from bluesminds.wire.errors import find_error, read_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, decode, read_value, text_bytes
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.messages_errors import is_message_error, write_message_error, write_stream_error
from bluesminds.wire.messages_passthrough import MessagesPassthrough, text_of_delta
from bluesminds.wire.messages_stream import EventMessage, MessagesDecoder, read_event_data
from bluesminds.wire.requests import Tokens, decode_fields, largest_bound, prepare
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.usage import ImplausibleUsage, estimate_input, read_usage


class MessagesFields(Struct):
    """The fields that limit what a request may cost."""

    model: str
    messages: Raw
    max_tokens: Tokens
    stream: bool | None = None


class CountFields(Struct):
    model: str
    messages: Raw


class _Whole(Struct):
    content: list[dict[str, Any]] | None = None
    stop_reason: str | None = None
    usage: Raw = ABSENT


_fields = msgspec.json.Decoder(MessagesFields)
_count_fields = msgspec.json.Decoder(CountFields)
_whole = msgspec.json.Decoder(_Whole)


def read_request(fields: Fields) -> RequestFacts:
    request = decode_fields(fields, _fields, unread=("messages",))
    return RequestFacts(
        model=request.model,
        stream=bool(request.stream),
        wants_usage=True,
        max_output=largest_bound(("max_tokens", request.max_tokens)),
        text_bytes=text_bytes(fields),
    )


def read_reply(body: bytes) -> ReplyFacts:
    try:
        whole = decode(_whole, body)
    except msgspec.ValidationError:
        return ReplyFacts(readable=_is_object(body), error=find_error(body))
    except NOT_JSON:
        return ReplyFacts(readable=False)
    usage, implausible = _usage_of(whole.usage)
    sizes = [size for block in whole.content or () if (size := _text_size(block))]
    return ReplyFacts(
        choices=int(whole.content is not None),
        usage=usage,
        implausible=implausible,
        delivered=sum(sizes),
        pieces=len(sizes),
        error=None if whole.content is not None else find_error(body),
    )


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(read_value(body), dict)
    except NOT_JSON:
        return False


def _text_size(block: dict[str, Any]) -> int:
    """Bytes of generated text in a block."""
    texts = [block.get(name) for name in ("text", "thinking", "name")]
    size = sum(len(text.encode()) for text in texts if isinstance(text, str))
    return size + (len(msgspec.json.encode(block["input"])) if block.get("input") else 0)


def _usage_of(report: Raw) -> tuple[Usage | None, bool]:
    if bytes(report) in (b"", b"null"):
        return None, False
    try:
        return read_usage(report, cache_beside=True), False
    except ImplausibleUsage:
        return None, True


def read_event(name: bytes, data: bytes) -> ReplyFacts:
    """One event. Its usage only has the counts of this event."""
    event = read_event_data(data)
    if event is None or name == b"error" or event.type == "error":
        return ReplyFacts(readable=event is not None, error=read_error(200, data) if event else None)
    usage, implausible = _usage_of((event.message or EventMessage()).usage or event.usage)
    generated = event.delta or event.content_block
    size = len(text_of_delta(generated).encode()) if generated is not None else 0
    return ReplyFacts(
        choices=int(event.type in ("message_start", "content_block_start", "content_block_delta")),
        usage=usage,
        implausible=implausible,
        delivered=size,
        pieces=int(size > 0),
    )


_NATIVE = ConversationRequest("", ())  # a client that accepts every type of content


def events_from_reply(body: bytes, wants_usage: bool) -> bytes:
    """A JSON answer as a stream. Raises ValueError if it has no content, or content of an unknown type."""
    reply = MESSAGES_CODEC.decode_reply(body, _NATIVE)
    if reply.dropped:
        raise ValueError(f"content of type {reply.dropped[0]}")
    encoder = MESSAGES_CODEC.encoder(_NATIVE)
    return b"".join([encoder.feed(event) for event in events_of_reply(reply)])


def reply_from_events(stream: bytes) -> bytes:
    """A stream as a JSON answer. Raises ValueError if it is incomplete, or has content of an unknown type."""
    decoder = MessagesDecoder(_NATIVE)
    splitter = EventSplitter()
    pieces = (*splitter.feed(stream), splitter.finish())
    events = [found for one in pieces for found in decoder.feed(*name_and_data(one))]
    if decoder.skipped:
        raise ValueError(f"content of type {decoder.skipped[0]}")
    return MESSAGES_CODEC.encode_reply(reply_of_events(events), _NATIVE)


def read_count_request(fields: Fields) -> RequestFacts:
    """Counting is free, so no text is charged."""
    return RequestFacts(decode_fields(fields, _count_fields, unread=("messages",)).model, max_output=0)


def estimate_count(fields: Fields) -> bytes:
    """The response to a count request, for servers without this endpoint."""
    return msgspec.json.encode({"input_tokens": estimate_input(text_bytes(fields))})


MESSAGES = Format(
    name="messages",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=read_event,
    write_error=write_message_error,
    write_stream_error=write_stream_error,
    is_error=is_message_error,
    events_from_reply=events_from_reply,
    reply_from_events=reply_from_events,
    stage=MessagesPassthrough,
    codec=MESSAGES_CODEC,
)
COUNT_TOKENS = structs.replace(
    MESSAGES,
    name="count_tokens",
    read_request=read_count_request,
    read_reply=read_count_reply,
    read_event=no_events,
    events_from_reply=None,
    reply_from_events=None,
    stage=None,
    codec=None,
    estimate=estimate_count,
)
