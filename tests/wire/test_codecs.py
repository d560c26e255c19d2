"""What a codec writes it reads back as the same."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, structs

from bluesminds.common.values import NO_USAGE
from bluesminds.http.sse import EventSplitter
from bluesminds.wire.base import Codec
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import (
    REDACTED,
    ConversationReply,
    ConversationRequest,
    EncodingOptions,
    Part,
    StreamEvent,
    ThinkingPart,
    ToolCallPart,
    events_of_reply,
    reply_of_events,
)
from bluesminds.wire.gemini_codec import GEMINI_CODEC
from bluesminds.wire.gemini_signatures import seal
from bluesminds.wire.json_text import write_fields
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.requests import read_body
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.responses_requests import SIGNATURE
from bluesminds.wire.stages import name_and_data
from tests.wire.conversations import (
    chat_replies,
    chat_requests,
    gemini_replies,
    gemini_requests,
    messages_conversation,
    messages_replies,
    messages_requests,
    responses_replies,
    responses_requests,
)

ALL = EncodingOptions(model="m", system_turns=True, reasoning_content=True)
ASKS = ConversationRequest("m", ())


def round_trip(codec: Codec, request: ConversationRequest) -> tuple[ConversationRequest, tuple[str, ...]]:
    encoded = codec.encode_request(request, ALL)
    said = {"model": Raw(b'"m"')}  # Gemini's path names the model
    return codec.decode_request(read_body(write_fields(said | encoded.fields)), 0), encoded.dropped


@given(chat_requests())
def test_chat_request_written_and_read_is_the_same(request: ConversationRequest) -> None:
    again, dropped = round_trip(CHAT_CODEC, request)
    assert again == request
    assert dropped == ()


@given(messages_requests())
def test_messages_request_written_and_read_is_the_same(request: ConversationRequest) -> None:
    again, dropped = round_trip(MESSAGES_CODEC, request)
    assert again == request
    assert dropped == ()


@given(responses_requests())
def test_responses_request_written_and_read_is_the_same(request: ConversationRequest) -> None:
    again, dropped = round_trip(RESPONSES_CODEC, unsealed(request))
    assert structs.replace(again, echo=b"") == request
    assert dropped == ()


def unsealed(request: ConversationRequest) -> ConversationRequest:
    """The request with signatures as a server's, which a client sends back in another form."""
    turns = tuple(structs.replace(turn, parts=sealed(turn.parts)) for turn in request.turns)
    return structs.replace(request, turns=turns)


def sealed(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with signatures as a client gets them."""
    return tuple(
        ThinkingPart(part.text, SIGNATURE + part.signature)
        if isinstance(part, ThinkingPart) and part.signature
        else part
        for part in parts
    )


@given(gemini_requests())
def test_gemini_request_written_and_read_is_the_same(request: ConversationRequest) -> None:
    turns = tuple(structs.replace(turn, parts=sealed_for_google(turn.parts)) for turn in request.turns)
    again, dropped = round_trip(GEMINI_CODEC, structs.replace(request, turns=turns))
    assert again == request
    assert dropped == ()


def sealed_for_google(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with signatures as a client of Gemini's API gets them."""
    return tuple(
        ThinkingPart(signature=seal(part.redacted, REDACTED))
        if isinstance(part, ThinkingPart) and part.redacted
        else structs.replace(part, signature=seal(part.signature))
        if isinstance(part, ThinkingPart | ToolCallPart)
        else part
        for part in parts
    )


@given(chat_replies())
def test_chat_reply_written_and_read_is_the_same(reply: ConversationReply) -> None:
    assert CHAT_CODEC.decode_reply(CHAT_CODEC.encode_reply(reply, ASKS), ASKS) == reply


@given(messages_replies())
def test_messages_reply_written_and_read_is_the_same(reply: ConversationReply) -> None:
    assert MESSAGES_CODEC.decode_reply(MESSAGES_CODEC.encode_reply(reply, ASKS), ASKS) == reply


@given(responses_replies())
def test_responses_reply_written_and_read_is_the_same(reply: ConversationReply) -> None:
    again = RESPONSES_CODEC.decode_reply(RESPONSES_CODEC.encode_reply(reply, ASKS), ASKS)
    assert again == structs.replace(reply, parts=sealed(reply.parts))


@given(gemini_replies())
def test_gemini_reply_written_and_read_is_the_same(reply: ConversationReply) -> None:
    again = GEMINI_CODEC.decode_reply(GEMINI_CODEC.encode_reply(reply, ASKS), ASKS)
    assert again == structs.replace(reply, parts=sealed_for_google(reply.parts))


def stream_round_trip(codec: Codec, events: list[StreamEvent]) -> list[StreamEvent]:
    encoder, decoder = codec.encoder(ASKS), codec.decoder(ASKS)
    written = b"".join([encoder.feed(event) for event in events])
    return [found for one in EventSplitter().feed(written) for found in decoder.feed(*name_and_data(one))]


@given(chat_replies())
def test_chat_stream_written_and_read_is_the_same(reply: ConversationReply) -> None:
    assert reply_of_events(stream_round_trip(CHAT_CODEC, events_of_reply(reply))) == reply


@given(messages_replies())
def test_messages_stream_written_and_read_is_the_same(reply: ConversationReply) -> None:
    assert reply_of_events(stream_round_trip(MESSAGES_CODEC, events_of_reply(reply))) == reply


@given(responses_replies())
def test_responses_stream_written_and_read_is_the_same(reply: ConversationReply) -> None:
    again = reply_of_events(stream_round_trip(RESPONSES_CODEC, events_of_reply(reply)))
    assert again == structs.replace(reply, parts=sealed(reply.parts))


@given(gemini_replies())
def test_gemini_stream_written_and_read_is_the_same(reply: ConversationReply) -> None:
    again = reply_of_events(stream_round_trip(GEMINI_CODEC, events_of_reply(reply)))
    assert again == structs.replace(reply, parts=sealed_for_google(reply.parts))


@given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode))
def test_decoders_of_arbitrary_data_raise_nothing(data: bytes) -> None:
    prefixes = [b"", b'{"choices":[', b'{"type":"message_delta","usage":', b'{"type":"error",']
    prefixes += [
        b'{"candidates":[',
        b'{"type":"response.completed","response":',
        b'{"type":"response.output_item.done","item":{"type":"message","content":',
    ]
    for codec in (CHAT_CODEC, MESSAGES_CODEC, RESPONSES_CODEC, GEMINI_CODEC):
        for prefix in prefixes:
            codec.decoder(ASKS).feed(b"error", prefix + data)
            codec.decoder(ASKS).feed(b"", prefix + data)


@pytest.mark.parametrize("codec", [CHAT_CODEC, MESSAGES_CODEC, RESPONSES_CODEC, GEMINI_CODEC])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"choices":[]}', b'{"content":1}'])
def test_reply_without_an_answer_raises_value_error(codec: Codec, body: bytes) -> None:
    with pytest.raises(ValueError, match="an answer"):
        codec.decode_reply(body, ASKS)


def test_usage_that_cannot_be_true_is_left_out_of_a_reply() -> None:
    body = b'{"content":[],"usage":{"input_tokens":-5}}'
    assert MESSAGES_CODEC.decode_reply(body, messages_conversation()).usage == NO_USAGE
