"""Errors of any server, their own status, and what clients get instead."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.wire.errors import (
    ErrorDetail,
    find_error,
    has_error_object,
    read_error,
    refusal_kind,
    write_error,
    write_stream_error,
)
from tests.cases import each
from tests.wire.test_stages import json_values

# (body, message, type, param, code, own status)
SHAPES: list[tuple[Any, tuple[Any, ...]]] = [
    (
        {"error": {"message": "m", "type": "t", "param": "p", "code": "c", "x": 1}},
        ("m", "t", "p", "c", None),
    ),
    ({"error": {"message": "m", "code": 429}}, ("m", None, None, 429, 429)),
    ({"error": {"message": "m", "code": 529}}, ("m", None, None, 529, 503)),
    (
        {"error": {"message": "m", "type": "None", "param": "None", "code": "401"}},
        ("m", None, None, "401", 401),
    ),
    ({"error": {"message": "m", "code": 1301}}, ("m", None, None, 1301, None)),
    ({"error": {"message": "m", "code": 400.0}}, ("m", None, None, None, 400)),
    ({"error": {"message": "m", "code": True}}, ("m", None, None, None, None)),
    (
        {"error": {"message": "m", "type": "invalid_request_error"}},
        ("m", "invalid_request_error", None, None, 400),
    ),
    (
        {"error": {"message": "m", "type": "invalid_request_error", "code": "model_not_found"}},
        ("m", "invalid_request_error", None, "model_not_found", 404),
    ),
    ({"error": {"message": "m", "type": "insufficient_quota"}}, ("m", "insufficient_quota", None, None, 429)),
    ({"error": "m"}, ("m", None, None, None, None)),
    ({"error": "m", "code": 503}, ("m", None, None, 503, 503)),
    ({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "m"}}, ("m", None, None, 400, 400)),
    ([{"error": {"code": 503, "status": "UNAVAILABLE", "message": "m"}}], ("m", None, None, 503, 503)),
    ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "m"}}, ("m", None, None, None, 429)),
    (
        {"error": {"code": 400, "message": "m", "details": [{"@type": "x"}, {"reason": "API_KEY_INVALID"}]}},
        ("m", None, None, "API_KEY_INVALID", 400),
    ),
    (
        {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
        ("m", "overloaded_error", None, None, 503),
    ),
    (
        {"type": "error", "error": {"type": "authentication_error", "message": "m"}},
        ("m", "authentication_error", None, None, 401),
    ),
    (
        {"error": {"message": "m", "metadata": {"error_type": "context_length_exceeded"}}},
        ("m", None, None, None, 400),
    ),
    (
        {"object": "error", "message": "m", "type": "BadRequestError", "code": 400},
        ("m", "BadRequestError", None, 400, 400),
    ),
    ({"object": "error", "message": "m", "type": "NotFoundError"}, ("m", "NotFoundError", None, None, 404)),
    ({"message": "m"}, ("m", None, None, None, None)),
    ({"message": "m", "__type": "ThrottlingException"}, ("m", None, None, None, 429)),
    ({"detail": "m"}, ("m", None, None, None, None)),
    (
        {"detail": [{"type": "missing", "loc": ["body", "messages", 0, "role"], "msg": "Field required"}]},
        ("Field required (in `messages.0.role`)", None, "messages.0.role", None, 422),
    ),
    ({"errors": ["m", "n"]}, ("m", None, None, None, None)),
    ({"errors": [{"code": 7003, "message": "m"}], "success": False}, ("m", None, None, 7003, None)),
    ({"base_resp": {"status_code": 1004, "status_msg": "m"}, "choices": None}, ("m", None, None, 1004, None)),
    ({"msg": "m", "code": 500}, ("m", None, None, 500, 500)),
    ({"error": {"type": "server_error"}}, ('{"type":"server_error"}', "server_error", None, None, 500)),
]


@each(("body", "expected"), SHAPES)
def test_error_in_any_shape_is_read(body: Any, expected: tuple[Any, ...]) -> None:
    data = json.dumps(body).encode()
    assert read_error(418, data) == ErrorDetail(*expected)
    assert read_error(418, b"\xef\xbb\xbf" + data) == ErrorDetail(*expected)
    assert find_error(data) == ErrorDetail(*expected)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The server responded with 502 and no message."),
        (b"<html><body>Bad gateway", "The server responded with 502 and no message."),
        (b'{"error":', "The server responded with 502 and no message."),
        (b"upstream connect error\n", "The server responded with 502: upstream connect error"),
        (b"{}", "The server responded with 502."),
        (b"null", "The server responded with 502."),
        (b"[" * 100_000, "The server responded with 502 and no message."),
    ],
)
def test_answer_without_an_error_object_gets_a_sentence(body: bytes, message: str) -> None:
    assert read_error(502, body) == ErrorDetail(message=message)
    assert find_error(body) is None


@pytest.mark.parametrize(
    ("status", "blames"),
    [
        (None, False),
        (400, True),
        (401, False),
        (403, True),
        (404, False),
        (413, True),
        (422, True),
        (429, False),
        (500, False),
    ],
)
def test_only_an_error_of_the_request_blames_it(status: int | None, blames: bool) -> None:
    assert ErrorDetail(status=status).blames_request() == blames


@given(st.binary(max_size=200) | json_values.map(json.dumps).map(str.encode))
def test_any_body_is_read_as_an_error(body: bytes) -> None:
    detail = read_error(500, body)
    assert detail.message is not None
    assert json.loads(write_error(detail))["error"]["message"] == detail.message
    assert has_error_object(body) in (True, False)


def test_error_is_written_in_openais_form() -> None:
    written = json.loads(write_error(ErrorDetail("m", None, "p", 7, 400), "req-1"))
    expected = {
        "message": "m",
        "type": "invalid_request_error",
        "param": "p",
        "code": 7,
        "request_id": "req-1",
    }
    assert written == {"error": expected}
    assert json.loads(write_error(ErrorDetail("m", status=429)))["error"]["type"] == "rate_limit_error"
    assert json.loads(write_error(ErrorDetail("m")))["error"]["type"] == "server_error"
    event = write_stream_error("upstream_cut", "gone")
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    error = {"message": "gone", "type": "server_error", "param": None, "code": "upstream_cut"}
    assert json.loads(event[6:]) == {"error": error}


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        (b'{"error":{"message":"m"}}', True),
        (b'{"error":{"message":null}}', False),
        (b'{"error":{"code":1}}', False),
        (b'{"error":"m"}', False),
        (b'[{"error":{"message":"m"}}]', False),
        (b"<html>", False),
    ],
)
def test_only_openais_form_passes_unchanged(body: bytes, passes: bool) -> None:
    assert has_error_object(body) == passes


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"code": "context_length_exceeded", "message": "no"}}, "context_length"),
        ({"error": {"message": "This model's maximum context length is 4096 tokens."}}, "context_length"),
        (
            {"error": {"type": "invalid_request_error", "message": "prompt is too long: 210 tokens > 200"}},
            "context_length",
        ),
        ({"error": {"type": "exceed_context_size_error", "message": "too large"}}, "context_length"),
        (
            {
                "error": {
                    "code": 400,
                    "message": "input token count 9 exceeds the maximum number of tokens",
                }
            },
            "context_length",
        ),
        ({"error": {"code": "content_filter", "message": "no"}}, "content_filter"),
        ({"error": {"code": "content_policy_violation", "message": "no"}}, "content_filter"),
        (
            {"error": {"message": "Your request was rejected as a result of our safety system."}},
            "content_filter",
        ),
        ({"error": {"code": "invalid_value", "message": "max_tokens is too large: 9. At most 8."}}, None),
        ({"error": {"message": "temperature: must be at most 2"}}, None),
        ({}, None),
    ],
)
def test_refusal_that_depends_on_the_model_is_found(body: Any, kind: str | None) -> None:
    assert refusal_kind(read_error(400, json.dumps(body).encode())) == kind
