"""OpenAI's dialect as bytes."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.providers import openai
from bluesminds.providers.usage import MAX_TOKENS
from bluesminds.values import Usage

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(st.text(max_size=8), json_values, max_size=5)


def encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


@given(fields, st.none() | fields)
def test_forcing_usage_changes_nothing_else(
    others: dict[str, object], options: dict[str, object] | None
) -> None:
    body = encoded(others | {"stream_options": options} if options is not None else others)
    before, after = json.loads(body), json.loads(openai.with_forced_usage(body))
    kept = before.pop("stream_options", None) or {}
    assert after.pop("stream_options") == kept | {"include_usage": True}
    assert after == before
    assert list(after) == list(before)


def test_numbers_keep_their_digits() -> None:
    body = b'{"a":1.50,"b":123456789012345678901234567890,"c":1E+2,"d":[1.0]}'
    forced = openai.with_forced_usage(body)
    assert forced[:-1].startswith(body[:-1])


@given(fields, json_values)
def test_taking_usage_out_changes_nothing_else(others: dict[str, object], usage: object) -> None:
    chunk = encoded(others | {"usage": usage})
    others.pop("usage", None)
    assert json.loads(openai.without_usage(chunk)) == json.loads(encoded(others))


@given(
    st.binary(max_size=200)
    | json_values.map(encoded)
    | fields.map(lambda value: encoded({"error": value, "usage": value}))
)
def test_no_answer_upsets_the_readers(body: bytes) -> None:
    reading = openai.read_answer(body)
    assert reading.choices >= 0
    assert msgspec.json.encode(openai.read_error(500, body))
    assert openai.has_error_object(body) in (True, False)
    try:
        openai.read_models(body)
    except ValueError:
        pass


@given(fields)
def test_usage_is_plausible_or_absent(usage: dict[str, object]) -> None:
    found = openai.read_answer(encoded({"usage": usage, "choices": []})).usage
    if found is not None:
        assert found.source == "upstream"
        assert found.prompt is None or 0 <= found.prompt <= MAX_TOKENS


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":1,"completion_tokens":2}', Usage(1, 2, None, None, "upstream")),
        (b'{"prompt_tokens":0,"completion_tokens":0}', Usage(0, 0, None, None, "upstream")),
        (b'{"prompt_tokens":5}', Usage(5, None, None, None, "upstream")),
        (b'{"prompt_tokens":5,"prompt_tokens_details":null}', Usage(5, None, None, None, "upstream")),
        (
            b'{"prompt_tokens":5,"completion_tokens":9,"cost":1e-5,"prompt_tokens_details":{"cached_tokens":3}}',
            Usage(5, 9, 3, None, "upstream"),
        ),
        (
            b'{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":3,"x":[1]},%b'
            % b'"completion_tokens_details":{"reasoning_tokens":4,"audio_tokens":null}}',
            Usage(5, 9, 3, 4, "upstream"),
        ),
        (b"null", None),
        (b"{}", None),
        (b'{"total_tokens":5}', None),
        (b'{"prompt_tokens":-5,"completion_tokens":1}', None),
        (b'{"prompt_tokens":1e30}', None),
        (b'{"prompt_tokens":10000000001}', None),
        (b'{"prompt_tokens":"5"}', None),
        (b"[[[[", None),
    ],
)
def test_usage(usage: bytes, expected: Usage | None) -> None:
    assert openai.read_answer(b'{"choices":[{}],"usage":%b}' % usage).usage == expected


@pytest.mark.parametrize(
    ("body", "readable", "implausible"),
    [
        (b"{}", True, False),
        (b' {"choices":{}}', True, False),
        (b'{"choices":[],"usage":{"prompt_tokens":-1}}', True, True),
        (b'{"choices":"x","usage":{"prompt_tokens":-1}}', True, True),
        (b"", False, False),
        (b"[]", False, False),
        (b"null", False, False),
        (b"<html>", False, False),
        (b'{"choices":[', False, False),
    ],
)
def test_what_is_no_object_is_unreadable(body: bytes, readable: bool, implausible: bool) -> None:
    reading = openai.read_answer(body)
    assert (reading.readable, reading.implausible) == (readable, implausible)


@pytest.mark.parametrize("bomb", [b"[" * 100_000, b'{"a":' * 100_000, b'{"error":' + b"[" * 100_000])
def test_deep_nesting_is_unreadable_and_no_more(bomb: bytes) -> None:
    assert openai.read_answer(bomb).usage is None
    assert openai.read_error(502, bomb).message
    assert not openai.has_error_object(bomb)


def test_an_error_keeps_its_parts() -> None:
    told = openai.read_error(429, b'{"error":{"message":"m","type":"t","param":"p","code":429,"x":1}}')
    assert (told.message, told.type, told.param, told.code) == ("m", "t", "p", 429)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"cheap","messages":[],"model":"dear"}',
        b'{"model":"cheap","messages":[],"mod\\u0065l":"dear"}',
        b'{"mod\\u0065l":"cheap","messages":[],"\\u006dodel":"dear"}',
    ],
)
def test_a_request_with_two_models_leaves_with_the_one_that_was_read(body: bytes) -> None:
    assert openai.read_chat_request(body).model == "dear"
    pairs = json.loads(openai.unambiguous(body), object_pairs_hook=list)
    assert pairs == [["model", "dear"], ["messages", []]] or dict(pairs) == {"model": "dear", "messages": []}
    assert len(pairs) == 2


def test_an_unambiguous_request_keeps_its_bytes() -> None:
    body = b'{ "model" : "m",  "messages":[{"role":"user","content":"a \\"model\\" of it"}] }'
    assert openai.unambiguous(body) is body
