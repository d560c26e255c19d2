"""Which optional fields an error refuses, in the words of real servers."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bluesminds.wire.conversation import ConversationRequest, Reasoning
from bluesminds.wire.errors import read_error
from bluesminds.wire.support import Refusal, Support, blames_field, find_refusal, names_forced_usage
from tests.cases import each

FULL = Support()
CONVERSATION = ConversationRequest(
    model="m", turns=(), max_output=9, temperature=0.5, reasoning=Reasoning(effort="high")
)
NO_REASONING = Refusal(Support(reasoning=False))
OTHER_VALUE = Refusal(Support(reasoning=False), lasting=False)
NO_SAMPLING = Refusal(Support(sampling=False))
OTHER_BOUND = Refusal(Support(other_bound=True))


def found(
    body: Any, conversation: ConversationRequest = CONVERSATION, support: Support = FULL
) -> Refusal | None:
    error = read_error(400, body.encode() if isinstance(body, str) else msgspec.json.encode(body))
    return find_refusal(support, conversation, error, bound="max_tokens")


def openai(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


def forbidden(*loc: str) -> dict[str, Any]:
    problem = {"type": "extra_forbidden", "loc": ["body", *loc], "msg": "Extra inputs are not permitted"}
    return {"detail": [problem | {"input": "temperature"}]}


REASONING = [
    openai("Unsupported parameter: 'reasoning_effort' is not supported with this model.", "reasoning_effort"),
    openai("Unrecognized request argument supplied: reasoning_effort"),
    openai('"llama3.2:1b" does not support thinking'),
    openai("Model grok-4 does not support parameter reasoningEffort."),
    openai("This model does not support the effort parameter."),
    openai("adaptive thinking is not supported on this model"),
    forbidden("reasoning_effort"),
    {"error": "litellm.UnsupportedParamsError: openai does not support parameters: ['reasoning_effort']"},
    {
        "message": "Failed to deserialize the body: unknown field `thinking`, expected one of `messages`,"
        " `max_tokens`, `temperature`"
    },
]
VALUES = [
    openai(
        '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and'
        ' "output_config.effort" to control thinking behavior.'
    ),
    openai("Thinking may not be enabled when tool_choice forces tool use."),
    openai(
        "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When"
        " `thinking` is enabled, a final `assistant` message must start with a thinking block."
    ),
    openai(
        "Unsupported value: 'reasoning_effort' does not support 'minimal' with this model. Supported values"
        " are: 'low', 'medium', and 'high'.",
        "reasoning_effort",
    ),
    openai('think value "medium" is not supported for this model'),
    openai("`reasoning_effort` must be one of `none` or `default`"),
    openai("`max_tokens` must be greater than `thinking.budget_tokens`"),
    {
        "detail": [
            {"loc": ["body", "reasoning_effort"], "msg": "Input should be 'low', 'medium' or 'high'"},
        ]
    },
]
SAMPLING = [
    openai(
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value"
        " is supported.",
        "temperature",
    ),
    openai("temperature: Extra inputs are not permitted"),
    openai("invalid temperature: only 1 is allowed for this model"),
    openai("`top_p` is deprecated for this model."),
    forbidden("top_k"),
]
BOUND = [
    openai(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'"
        " instead.",
        "max_tokens",
    ),
    openai("Unrecognized request argument supplied: max_tokens"),
    {"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'max_tokens')}]"},
]


@each(
    ("body", "refusal"),
    [
        *((body, NO_REASONING) for body in REASONING),
        *((body, OTHER_VALUE) for body in VALUES),
        *((body, NO_SAMPLING) for body in SAMPLING),
        *((body, OTHER_BOUND) for body in BOUND),
    ],
)
def test_error_of_a_server_names_the_refused_field(body: Any, refusal: Refusal) -> None:
    assert found(body) == refusal


@pytest.mark.parametrize(
    "body",
    [
        openai("max_tokens is too large: 32000. This model supports at most 16384 completion tokens."),
        openai("temperature must be at most 2"),
        openai("context length exceeded"),
        forbidden("messages", "0", "content"),
        "Unsupported",
        "",
    ],
)
def test_error_about_something_else_refuses_no_field(body: Any) -> None:
    assert found(body) is None


def test_field_that_was_not_sent_is_not_refused() -> None:
    bare = replace(CONVERSATION, max_output=None, temperature=None, reasoning=None)
    for body in (*REASONING, *VALUES, *SAMPLING, *BOUND):
        assert found(body, bare) is None
    for body, support in (
        *((body, Support(reasoning=False)) for body in REASONING),
        *((body, Support(sampling=False)) for body in SAMPLING),
        *((body, Support(other_bound=True)) for body in BOUND),
    ):
        assert found(body, support=support) is None


def test_several_fields_in_one_error_are_refused_together() -> None:
    body = {"detail": [*forbidden("reasoning_effort")["detail"], *forbidden("top_p")["detail"]]}
    assert found(body) == Refusal(Support(reasoning=False, sampling=False))


def test_statuses_that_blame_no_field_are_known() -> None:
    assert [status for status in (400, 401, 404, 422, 429, 500) if blames_field(status)] == [400, 422]


@pytest.mark.parametrize(
    ("status", "body", "names"),
    [
        (400, b'{"error":{"message":"Unknown parameter: stream_options"}}', True),
        (422, b'{"detail":[{"loc":["body","stream_options"],"msg":"extra"}]}', True),
        (400, b'{"error":{"message":"include_usage is not supported"}}', True),
        (400, b'{"error":{"message":"messages is missing"}}', False),
        (401, b'{"error":{"message":"stream_options"}}', False),
        (429, b'{"error":{"message":"stream_options"}}', False),
        (500, b'{"error":{"message":"stream_options"}}', False),
    ],
)
def test_refusal_that_names_the_forced_field_is_found(status: int, body: bytes, names: bool) -> None:
    assert names_forced_usage(status, body) == names


@pytest.mark.parametrize(
    "message",
    [
        "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode.",
        "`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.",
        "`top_k` must be unset when thinking is enabled.",
    ],
)
def test_sampling_that_thinking_excludes_is_left_out_once(message: str) -> None:
    assert found(openai(message)) == Refusal(Support(sampling=False), lasting=False)
