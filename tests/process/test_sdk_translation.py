"""The types of the openai SDK read what a translation of Messages writes."""

import json

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import reply_of_events
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.stages import name_and_data
from tests.wire.conversations import chat_conversation, events_in, run_stage, to_chat
from tests.wire.test_translation import MESSAGES_STREAM

pytestmark = pytest.mark.process


def test_openai_types_read_a_translated_stream() -> None:
    *events, done = [data for _, data in events_in(run_stage(to_chat(), MESSAGES_STREAM))]
    assert done == "[DONE]"
    chunks = [
        ChatCompletionChunk.model_validate_json(json.dumps(data), strict=True)
        for data in events
        if isinstance(data, dict)
    ]
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens == 50
    assert chunks[-2].choices[0].finish_reason == "tool_calls"


def test_openai_types_read_a_translated_reply() -> None:
    decoder = MESSAGES_CODEC.decoder(chat_conversation())
    events = [found for one in MESSAGES_STREAM for found in decoder.feed(*name_and_data(one))]
    body = CHAT_CODEC.encode_reply(reply_of_events(events), chat_conversation())
    answer = ChatCompletion.model_validate_json(body, strict=True)
    calls = answer.choices[0].message.tool_calls or []
    assert [call.id for call in calls] == ["toolu_1", "toolu_2"]
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
