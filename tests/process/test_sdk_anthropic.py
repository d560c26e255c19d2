"""The anthropic SDK reads what a translation and the Messages format write."""

import json
from collections.abc import Sequence
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message

from bluesminds.wire.base import Stage
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.messages import MESSAGES
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.messages_passthrough import MessagesPassthrough
from tests.wire.conversations import (
    facts,
    fields_of,
    messages_conversation,
    run_stage,
    to_chat,
    to_messages,
)
from tests.wire.replies import DONE, chunk, event
from tests.wire.test_translation import CHAT_STREAM, MESSAGES_STREAM, THINKS

pytestmark = pytest.mark.process

ASK: dict[str, Any] = {
    "model": "alias",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
}


def client(status: int, content_type: str, body: bytes) -> anthropic.Anthropic:
    """A client whose server gives one answer."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers={"content-type": content_type}, content=body)

    transport = httpx2.MockTransport(answer)
    return anthropic.Anthropic(
        api_key="sk-test", max_retries=0, http_client=httpx2.Client(transport=transport)
    )


def read_stream(stage: Stage, pieces: Sequence[bytes]) -> Message:
    sdk = client(200, "text/event-stream", run_stage(stage, pieces))
    with sdk.messages.stream(**ASK) as stream:
        return stream.get_final_message()


def test_sdk_reads_a_translated_stream() -> None:
    message = read_stream(to_messages(**THINKS), CHAT_STREAM)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Oslo"}, {}]
    assert message.stop_reason == "tool_use"
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (20, 20, 9)


def test_sdk_reads_a_native_stream() -> None:
    message = read_stream(MessagesPassthrough(facts()), MESSAGES_STREAM)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (message.usage.cache_read_input_tokens, message.usage.output_tokens) == (30, 15)


@pytest.mark.parametrize("length", range(12))
def test_sdk_reads_a_stream_that_was_stopped(length: int) -> None:
    translated = to_messages(**THINKS)
    native = MessagesPassthrough(facts())
    for stage, pieces in ((translated, CHAT_STREAM), (native, MESSAGES_STREAM)):
        body = b"".join([stage.feed(piece) for piece in pieces[:length]]) + stage.stop()
        with client(200, "text/event-stream", body).messages.stream(**ASK) as stream:
            message = stream.get_final_message()
        assert message.stop_reason in ("max_tokens", "tool_use")


def test_sdk_raises_the_error_of_a_stream() -> None:
    failure = event({"error": {"message": "Too long.", "type": "server_error", "code": 500}})
    for body in (
        run_stage(to_messages(), [chunk("x"), failure]),
        run_stage(to_messages(), [chunk("x")]) + MESSAGES.write_stream_error("upstream_cut", "Too long."),
    ):
        with (
            pytest.raises(anthropic.APIStatusError, match="Too long"),
            client(200, "text/event-stream", body).messages.stream(**ASK) as stream,
        ):
            stream.get_final_message()


def test_sdk_reads_a_translated_reply() -> None:
    answer = run_stage(to_chat(stream_options={"include_usage": True}), MESSAGES_STREAM)
    whole = CHAT_CODEC.decode_reply(
        json.dumps(
            {
                "id": "c1",
                "model": "m",
                "choices": [{"message": {"content": "Sunny."}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 2},
            }
        ).encode(),
        messages_conversation(),
    )
    assert answer.endswith(DONE)
    body = MESSAGES_CODEC.encode_reply(whole, messages_conversation())
    message = client(200, "application/json", body).messages.create(**ASK)
    assert [block.type for block in message.content] == ["text"]
    assert (message.stop_reason, message.usage.input_tokens) == ("end_turn", 9)
    Message.model_validate(json.loads(body), strict=True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, anthropic.BadRequestError),
        (401, anthropic.AuthenticationError),
        (403, anthropic.PermissionDeniedError),
        (404, anthropic.NotFoundError),
        (429, anthropic.RateLimitError),
        (503, anthropic.InternalServerError),
    ],
)
def test_sdk_raises_the_class_of_an_error(status: int, kind: type[anthropic.APIStatusError]) -> None:
    body = MESSAGES.write_error(ErrorDetail(message="No.", code="some_code", status=status), "req-1")
    with pytest.raises(kind) as raised:
        client(status, "application/json", body).messages.create(**ASK)
    assert raised.value.body == json.loads(body)


def test_request_of_the_sdk_is_read() -> None:
    seen: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.content)
        return httpx2.Response(200, json={"input_tokens": 7})

    transport = httpx2.MockTransport(answer)
    sdk = anthropic.Anthropic(api_key="sk-test", http_client=httpx2.Client(transport=transport))
    tool: Any = {"name": "f", "input_schema": {"type": "object"}}
    assert sdk.messages.count_tokens(model="m", messages=ASK["messages"], tools=[tool]).input_tokens == 7
    request = MESSAGES_CODEC.decode_request(fields_of(json.loads(seen[0])), 0)
    assert [one.name for one in request.tools] == ["f"] and request.dropped == ()
