"""Legacy completions for servers that only have conversations."""

from typing import Any

import pytest

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.completions import COMPLETIONS, reply_from_events
from bluesminds.wire.completions_codec import COMPLETIONS_CODEC
from bluesminds.wire.conversation import (
    ConversationReply,
    EncodingOptions,
    TextPart,
    ThinkingPart,
    events_of_reply,
)
from bluesminds.wire.formats import FORMATS, client_codec_of, codec_of
from bluesminds.wire.json_text import read_value
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.translation import Translation
from tests.fakes.model_server import DONE, USAGE, chunk
from tests.wire.conversations import facts, fields_of, json_of, run_stage

ASK: dict[str, Any] = {"model": "m", "prompt": "Say hello."}
STREAM = [chunk("Hel"), chunk("lo"), chunk(finish="length"), chunk(usage=USAGE), DONE]


@pytest.mark.parametrize("prompt", ["Say hello.", ["Say hello."]])
def test_completion_prompt_is_one_message(prompt: Any) -> None:
    body = ASK | {
        "prompt": prompt,
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "user": "u",
        "n": 1,
        "best_of": 0,
        "echo": False,
        "suffix": None,
        "logprobs": None,
        "logit_bias": {},
        "presence_penalty": 0,
        "frequency_penalty": 0.5,
        "seed": 7,
        "stream": True,
    }
    request = COMPLETIONS_CODEC.decode_request(fields_of(body), 0)
    encoded = CHAT_CODEC.encode_request(request, EncodingOptions(model="x"))
    assert json_of(encoded.fields) == {
        "model": "x",
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.5,
        "seed": 7,
        "stop": ["END"],
        "user": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert encoded.dropped == ()
    whole = MESSAGES_CODEC.encode_request(request, EncodingOptions(model="x"))
    assert whole.dropped == ("seed", "frequency_penalty")
    assert json_of(whole.fields)["messages"] == [{"role": "user", "content": "Say hello."}]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"logprobs": 0}, "logprobs"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_completion_field_without_a_counterpart_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        COMPLETIONS_CODEC.decode_request(fields_of(ASK | fields), 0)
    assert (refused.value.code, refused.value.param) == ("unsupported_by_server", param)


@pytest.mark.parametrize("prompt", [None, "", [], [""], 7])
def test_completion_without_a_text_is_refused(prompt: Any) -> None:
    with pytest.raises(InvalidRequest, match="must have a text"):
        COMPLETIONS_CODEC.decode_request(fields_of(ASK | {"prompt": prompt}), 0)


def test_completion_answer_has_the_text() -> None:
    request = COMPLETIONS_CODEC.decode_request(fields_of(ASK), 7)
    parts = (ThinkingPart("Hm."), TextPart("Hello"))
    written = COMPLETIONS_CODEC.encode_reply(ConversationReply("id-1", "x", parts, "filter"), request)
    assert read_value(written) == {
        "id": "id-1",
        "object": "text_completion",
        "created": 7,
        "model": "x",
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "content_filter"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


@pytest.mark.parametrize("wants_usage", [True, False])
def test_completion_stream_cut_at_every_byte_is_the_same(wants_usage: bool) -> None:
    request = COMPLETIONS_CODEC.decode_request(
        fields_of(ASK | {"stream": True, "stream_options": {"include_usage": wants_usage}}), 7
    )

    def make() -> Translation:
        return Translation(CHAT_CODEC, COMPLETIONS_CODEC, request, facts())

    whole = run_stage(make(), STREAM)
    data = b"".join(STREAM)
    assert run_stage(make(), [data[at : at + 1] for at in range(len(data))]) == whole
    joined: Any = read_value(reply_from_events(whole))
    assert joined["object"] == "text_completion" and joined["created"] == 7
    assert joined["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}]
    assert joined.get("usage") == (USAGE if wants_usage else None)
    assert whole.endswith(DONE) and (b'"usage"' in whole) is wants_usage


def test_completion_stream_has_no_reasoning() -> None:
    request = COMPLETIONS_CODEC.decode_request(fields_of(ASK | {"stream": True}), 7)
    encoder = COMPLETIONS_CODEC.encoder(request)
    reply = ConversationReply("id-1", "x", (ThinkingPart("Hm."), TextPart("Hello")))
    written = b"".join([encoder.feed(event) for event in events_of_reply(reply)])
    assert b"Hm." not in written and b"Hello" in written


def test_completions_are_never_the_format_of_a_translated_request() -> None:
    assert client_codec_of("completions") is COMPLETIONS_CODEC
    with pytest.raises(LookupError):
        codec_of("completions")
    with pytest.raises(LookupError):
        client_codec_of("embeddings")
    assert FORMATS["completions"] is COMPLETIONS
