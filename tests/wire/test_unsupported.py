"""Fields that change the meaning of a request and cannot be translated are refused by name."""

from typing import Any

import pytest

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.base import Codec
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import EncodingOptions
from bluesminds.wire.gemini_codec import GEMINI_CODEC
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.requests import read_body
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from tests.cases import each
from tests.wire.conversations import fields_of, json_of

OPTIONS = EncodingOptions(model="m")
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
MESSAGES: dict[str, Any] = CHAT | {"max_tokens": 9}
RESPONSES: dict[str, Any] = {"model": "m", "input": "Hi"}


def says(*content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": list(content)} | more]}


def translate(client: Codec, server: Codec, body: dict[str, Any]) -> None:
    server.encode_request(client.decode_request(fields_of(body), 0), OPTIONS)


CHAT_CASES: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n"),
    ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
    ({"moderation": {"model": "x"}}, "moderation"),
    ({"response_format": {"type": "grammar"}}, "response_format"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.type"),
    ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
    ({"stop": ["\n\n"]}, "stop"),
    (says({"type": "file", "file": {"file_id": "file-1"}}), "messages.content.file.file_id"),
    (says({"type": "video_url", "video_url": {"url": "x"}}), "messages.content.type"),
    (
        says({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
        "messages.content.input_audio",
    ),
    (
        says({"type": "file", "file": {"file_data": "data:application/msword;base64,AAAA"}}),
        "messages.content.file.file_data",
    ),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages.role"),
    (
        {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
        "messages.function_call",
    ),
    ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages.audio"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]}]},
        "messages.tool_calls.type",
    ),
]
MESSAGES_CASES: list[tuple[dict[str, Any], str]] = [
    ({"mcp_servers": [{"type": "url", "url": "https://example.test"}]}, "mcp_servers"),
    ({"container": {"skills": []}}, "container"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.type"),
    ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
    ({"thinking": {"type": "always"}}, "thinking.type"),
    ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format"),
    ({"system": [{"type": "image"}]}, "system.type"),
    (
        says({"type": "image", "source": {"type": "file", "file_id": "f"}}),
        "messages.content.source.type",
    ),
    (
        says({"type": "document", "source": {"type": "url", "url": "https://example.test/a.pdf"}}),
        "messages.content.source.url",
    ),
    (
        says({"type": "document", "citations": {"enabled": True}, "source": {"type": "text", "data": "x"}}),
        "messages.content.citations",
    ),
    (says({"type": "search_result", "source": "x"}), "messages.content.type"),
    (says({"type": "server_tool_use", "id": "x"}, role="assistant"), "messages.content.type"),
    (
        says({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "tool_reference"}]}),
        "messages.content.content.type",
    ),
]
GEMINI: dict[str, Any] = {"model": "m", "contents": [{"parts": [{"text": "Hi"}]}]}


def parts(*said: Any, role: str = "user") -> dict[str, Any]:
    return {"contents": [{"role": role, "parts": list(said)}]}


def config(**fields: Any) -> dict[str, Any]:
    return {"generationConfig": fields}


GEMINI_CASES: list[tuple[dict[str, Any], str]] = [
    ({"cachedContent": "cachedContents/x"}, "cachedContent"),
    ({"tools": [{"googleSearch": {}}]}, "tools.googleSearch"),
    ({"tools": [{"code_execution": {}}]}, "tools.codeExecution"),
    ({"systemInstruction": {"parts": [{"inlineData": {}}]}}, "systemInstruction.parts.text"),
    (config(candidateCount=2), "generationConfig.candidateCount"),
    (config(responseLogprobs=True), "generationConfig.responseLogprobs"),
    (config(responseModalities=["TEXT", "IMAGE"]), "generationConfig.responseModalities"),
    (config(speechConfig={"voiceConfig": {}}), "generationConfig.speechConfig"),
    (config(responseMimeType="text/x.enum"), "generationConfig.responseMimeType"),
    (parts({"executableCode": {"code": "1"}}, role="model"), "contents.parts.executableCode"),
    (
        parts({"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}}),
        "contents.parts.inlineData.mimeType",
    ),
    (
        parts({"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/x"}}),
        "contents.parts.fileData.fileUri",
    ),
    (
        parts({"fileData": {"fileUri": "gs://bucket/x", "mimeType": "image/png"}}),
        "contents.parts.fileData.fileUri",
    ),
]


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"input": [{"type": kind} | fields]}


def holds(kind: str, **fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": kind} | fields]}]}


RESPONSES_CASES: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"background": True}, "background"),
    ({"moderation": {"model": "x"}}, "moderation"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
    *[
        ({"tools": [{"type": kind}]}, "tools.type")
        for kind in (
            "web_search",
            "web_search_preview_2025_03_11",
            "file_search",
            "code_interpreter",
            "computer_use_preview",
            "mcp",
            "image_generation",
            "local_shell",
            "shell",
            "apply_patch",
        )
    ],
    ({"tools": [{"type": "file_search"}], "client_metadata": {"a": "b"}}, "tools.type"),
    (
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "namespace", "name": "m"}]}]},
        "tools.type",
    ),
    ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    (
        {"tools": [{"type": "web_search"}], "client_metadata": {"a": "b"}, "tool_choice": "required"},
        "tool_choice",
    ),
    (item("item_reference", id="msg_1"), "input.type"),
    ({"input": [{"id": "msg_1"}]}, "input.type"),
    (item("compaction", encrypted_content="x"), "input.encrypted_content"),
    (item("computer_call", id="x"), "input.type"),
    (item("mcp_approval_response", approval_request_id="x"), "input.type"),
    ({"input": [{"role": "critic", "content": "x"}]}, "input.role"),
    (holds("input_image", file_id="file-1"), "input.content.file_id"),
    (holds("input_file", file_id="file-1"), "input.content.file_id"),
    (holds("input_video", video_url="x"), "input.content.type"),
]


@each(("fields", "param"), CHAT_CASES)
def test_chat_field_without_a_counterpart_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(CHAT_CODEC, MESSAGES_CODEC, CHAT | fields)
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        400,
        "unsupported_by_server",
        param,
    )
    assert param in refused.value.message


@each(("fields", "param"), MESSAGES_CASES)
def test_messages_field_without_a_counterpart_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(MESSAGES_CODEC, CHAT_CODEC, MESSAGES | fields)
    assert (refused.value.code, refused.value.param) == ("unsupported_by_server", param)


@pytest.mark.parametrize("server", [CHAT_CODEC, MESSAGES_CODEC])
@pytest.mark.parametrize(("fields", "param"), RESPONSES_CASES)
def test_responses_field_without_a_counterpart_is_refused(
    server: Codec, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(RESPONSES_CODEC, server, RESPONSES | fields)
    assert (refused.value.code, refused.value.param) == ("unsupported_by_server", param)
    assert param in refused.value.message


@pytest.mark.parametrize(("codec", "field"), [(CHAT_CODEC, "stop"), (MESSAGES_CODEC, "stop_sequences")])
def test_stop_sequences_have_no_equivalent_in_responses(codec: Codec, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(codec, RESPONSES_CODEC, MESSAGES | {field: ["END"]})
    assert refused.value.code == "unsupported_by_server"


@each(("fields", "param"), GEMINI_CASES)
def test_gemini_field_without_a_counterpart_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        translate(GEMINI_CODEC, CHAT_CODEC, GEMINI | fields)
    assert (refused.value.code, refused.value.param) == ("unsupported_by_server", param)


@each(
    ("codec", "fields", "param"),
    [
        (GEMINI_CODEC, {"contents": "Hi"}, "contents"),
        (GEMINI_CODEC, parts({"text": "x"}, role="system"), "contents.role"),
        (GEMINI_CODEC, parts({"functionCall": {"args": {}}}), "contents.parts.functionCall.name"),
        (
            GEMINI_CODEC,
            parts({"functionResponse": {"name": "f", "response": {}}}),
            "contents.parts.functionResponse.name",
        ),
        (
            GEMINI_CODEC,
            parts({"inlineData": {"mimeType": "text/plain", "data": "%"}}),
            "contents.parts.inlineData.data",
        ),
        (GEMINI_CODEC, {"generationConfig": {"topK": "x"}}, "generationConfig.topK"),
        (
            GEMINI_CODEC,
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "always"}}},
            "generationConfig.thinkingConfig.thinkingLevel",
        ),
        (
            GEMINI_CODEC,
            {"generationConfig": {"topK": 1, "top_k": 2}},
            "generationConfig.topK",
        ),
        (
            GEMINI_CODEC,
            {"toolConfig": {"functionCallingConfig": {"mode": "SOMETIMES"}}},
            "toolConfig.functionCallingConfig.mode",
        ),
        (
            GEMINI_CODEC,
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": 5}}]}]},
            "tools.functionDeclarations.parameters",
        ),
        (CHAT_CODEC, {"model": 5}, "model"),
        (CHAT_CODEC, {"model": None}, "model"),
        (CHAT_CODEC, {"messages": "Hi"}, "messages"),
        (CHAT_CODEC, {"messages": [1]}, "messages"),
        (CHAT_CODEC, {"messages": [{"content": "x"}]}, "messages.role"),
        (CHAT_CODEC, {"messages": [{"role": "user", "content": 5}]}, "messages.content"),
        (CHAT_CODEC, {"messages": [{"role": "tool", "content": "x"}]}, "messages.tool_call_id"),
        (CHAT_CODEC, says({"type": "image_url"}), "messages.content.image_url"),
        (CHAT_CODEC, says({"type": "image_url", "image_url": "data:x"}), "messages.content.image_url"),
        (
            CHAT_CODEC,
            says({"type": "file", "file": {"file_data": "AAAA"}}),
            "messages.content.file.file_data",
        ),
        (CHAT_CODEC, {"tools": {"name": "f"}}, "tools"),
        (CHAT_CODEC, {"tool_choice": "sometimes"}, "tool_choice"),
        (CHAT_CODEC, {"temperature": "hot"}, "temperature"),
        (CHAT_CODEC, {"max_tokens": 0}, "max_tokens"),
        (CHAT_CODEC, {"stop": [1]}, "stop"),
        (MESSAGES_CODEC, {"messages": [{"role": "tool", "content": "x"}]}, "messages.role"),
        (MESSAGES_CODEC, says({"text": "x"}), "messages.content.type"),
        (MESSAGES_CODEC, says({"type": "tool_use", "name": "f"}), "messages.content.id"),
        (MESSAGES_CODEC, {"system": 5}, "system"),
        (MESSAGES_CODEC, {"tools": [{"input_schema": {}}]}, "tools.name"),
        (RESPONSES_CODEC, {"model": None}, "model"),
        (RESPONSES_CODEC, {"input": 5}, "input"),
        (RESPONSES_CODEC, {"input": [1]}, "input"),
        (RESPONSES_CODEC, {"input": [{"role": "user", "content": 5}]}, "input.content"),
        (RESPONSES_CODEC, item("function_call_output", output="x"), "input.call_id"),
        (RESPONSES_CODEC, item("function_call_output", call_id="a", output={}), "input.output"),
        (RESPONSES_CODEC, holds("input_image"), "input.content.image_url"),
        (RESPONSES_CODEC, holds("input_file", file_data="AAAA"), "input.content.file_data"),
        (RESPONSES_CODEC, {"tools": {"name": "f"}}, "tools"),
        (RESPONSES_CODEC, {"tools": [{"type": "function"}]}, "tools.name"),
        (RESPONSES_CODEC, {"tool_choice": "sometimes"}, "tool_choice"),
        (RESPONSES_CODEC, {"temperature": "hot"}, "temperature"),
        (RESPONSES_CODEC, {"max_output_tokens": 0}, "max_output_tokens"),
        (RESPONSES_CODEC, {"reasoning": "high"}, "reasoning"),
    ],
)
def test_field_of_a_wrong_type_is_refused_by_name(codec: Codec, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        codec.decode_request(fields_of(MESSAGES | GEMINI | fields), 0)
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_value", param)


def test_earlier_call_with_cut_arguments_is_refused_by_name() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":'}}
    with pytest.raises(InvalidRequest) as refused:
        translate(
            CHAT_CODEC, MESSAGES_CODEC, CHAT | {"messages": [{"role": "assistant", "tool_calls": [call]}]}
        )
    assert refused.value.param == "messages.tool_calls.function.arguments"


def test_reply_with_a_call_that_is_not_json_cannot_be_written_for_messages() -> None:
    message = {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x":'}}]}
    body = b'{"choices":[{"finish_reason":"tool_calls","message":%b}]}' % bytes(
        fields_of({"message": message})["message"]
    )
    request = MESSAGES_CODEC.decode_request(fields_of(MESSAGES), 0)
    with pytest.raises(ValueError, match="arguments"):
        MESSAGES_CODEC.encode_reply(CHAT_CODEC.decode_reply(body, request), request)


@pytest.mark.parametrize("given", [None, 99, 5000])
def test_bound_of_the_model_is_used_where_the_client_gives_none(given: int | None) -> None:
    request = CHAT_CODEC.decode_request(fields_of(CHAT | {"max_tokens": given}), 0)
    encoded = MESSAGES_CODEC.encode_request(request, EncodingOptions(model="m", max_output=64_000))
    assert json_of(encoded.fields)["max_tokens"] == given or 64_000
    assert json_of(MESSAGES_CODEC.encode_request(request, OPTIONS).fields)["max_tokens"] == (given or 4096)


def test_options_leave_out_what_the_server_does_not_take() -> None:
    sampling = {"temperature": 0.5, "top_p": 0.5}
    chat = CHAT | sampling | {"reasoning_effort": "high", "stream": True, "max_tokens": 5}
    less = EncodingOptions(
        model="m", sampling=False, reasoning=False, usage=False, bound="max_completion_tokens"
    )
    request = CHAT_CODEC.decode_request(fields_of(chat), 0)
    to_messages = MESSAGES_CODEC.encode_request(request, less)
    assert set(to_messages.fields) == {"model", "messages", "max_tokens", "stream"}
    assert to_messages.dropped == ("effort", "temperature", "top_p")
    to_chat = CHAT_CODEC.encode_request(request, less)
    assert set(to_chat.fields) == {"model", "messages", "max_completion_tokens", "stream"}
    assert to_chat.dropped == ("temperature", "top_p", "effort")


def test_schemas_and_arguments_keep_their_bytes() -> None:
    body = (
        b'{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a",'
        b'"name":"f","input":{"x": 1.50,  "y":1e3}}]}],"tools":[{"name":"f","input_schema":{"type":"object",'
        b'"properties":{"x":{"minimum":0.10}},  "additionalProperties":false}}]}'
    )
    request = MESSAGES_CODEC.decode_request(read_body(body), 0)
    encoded = CHAT_CODEC.encode_request(request, OPTIONS).fields
    assert b'{\\"x\\": 1.50,  \\"y\\":1e3}' in bytes(encoded["messages"])
    assert b'{"minimum":0.10}},  "additionalProperties":false}' in bytes(encoded["tools"])


def test_lone_surrogates_and_odd_numbers_are_read() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a\\ud800b"}],"x":NaN}'
    request = CHAT_CODEC.decode_request(read_body(body), 0)
    assert b"a?b" in bytes(MESSAGES_CODEC.encode_request(request, OPTIONS).fields["messages"])
    assert request.dropped == ("x",)
    with pytest.raises(InvalidRequest) as refused:
        CHAT_CODEC.decode_request(read_body(body.replace(b'"x"', b'"top_p"')), 0)
    assert refused.value.param == "top_p"
