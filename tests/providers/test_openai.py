"""OpenAI's dialect as bytes."""

import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.values import Usage
from bluesminds.providers import openai
from bluesminds.providers.usage import MAX_TOKENS

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.text(max_size=8).filter(
    lambda name: name == name.casefold() or name.casefold() not in openai._NAMES
)
fields = st.dictionaries(names, json_values, max_size=5)


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
        assert found.input is None or 0 <= found.input <= MAX_TOKENS


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (b'{"prompt_tokens":1,"completion_tokens":2}', Usage(1, 2, None, None, None, "upstream")),
        (b'{"prompt_tokens":0,"completion_tokens":0}', Usage(0, 0, None, None, None, "upstream")),
        (b'{"prompt_tokens":5}', Usage(5, None, None, None, None, "upstream")),
        (b'{"prompt_tokens":5,"prompt_tokens_details":null}', Usage(5, None, None, None, None, "upstream")),
        (
            b'{"prompt_tokens":5,"completion_tokens":9,"cost":1e-5,"prompt_tokens_details":{"cached_tokens":3}}',
            Usage(5, 9, 3, None, None, "upstream"),
        ),
        (
            b'{"prompt_tokens":5,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":3,"x":[1]},%b'
            % b'"completion_tokens_details":{"reasoning_tokens":4,"audio_tokens":null}}',
            Usage(5, 9, 3, None, 4, "upstream"),
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


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "best_of", "stream"])
def test_whatever_decides_the_cost_leaves_once(name: str) -> None:
    plain, hidden = f'"{name}"', f'"{name[:-1]}\\u{ord(name[-1]):04x}"'
    for first, last in ((plain, plain), (plain, hidden), (hidden, plain), (hidden, hidden)):
        body = f'{{"model":"m",{first}:null,"messages":[],{last}:null}}'.encode()
        pairs = json.loads(openai.unambiguous(body), object_pairs_hook=list)
        assert sorted(key for key, _ in pairs) == sorted(["model", "messages", name])


FIELDS = ("model", "max_tokens", "max_completion_tokens", "n", "best_of", "stream", "top_logprobs")
SPELLED = ("{0}", "{0[0]}\\u{1:04x}{2}", "{3}")  # as it is, with an escape, in capitals
NAMES = st.tuples(st.sampled_from(FIELDS), st.sampled_from(SPELLED)).map(
    lambda pick: pick[1].format(pick[0], ord(pick[0][1:2] or "n"), pick[0][2:], pick[0].upper())
)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["1", "2", "3"])), max_size=5), st.booleans())
def test_every_server_reads_what_the_gateway_read(pairs: list[tuple[str, str]], usage: bool) -> None:
    """Whether it takes the first of two keys or the last, and whether it minds capitals or not."""
    rest = "".join(f',"{name}":{"true" if "tream" in name else value}' for name, value in pairs)
    rest = re.sub(r'("[^"]*model[^"]*"):(\d)', r'\1:"\2"', rest, flags=re.IGNORECASE)
    body = f'{{"model":"0","messages":[]{rest}}}'.encode()
    try:
        read = openai.read_chat_request(body)
        sent = openai.with_forced_usage(body) if usage else openai.unambiguous(body)
    except msgspec.ValidationError:
        return
    found = json.loads(sent, object_pairs_hook=list)
    for name in FIELDS:
        values = {json.dumps(value) for key, value in found if key.casefold() == name}
        assert values <= {json.dumps(getattr(read, name))}
    assert len({key.casefold() for key, _ in found}) == len(found)


@pytest.mark.parametrize("name", ["MODEL", "Max_Tokens", "max_to\u212aens", "me\u017f\u017fages", "\\u004e"])
def test_a_name_in_other_letters_is_refused(name: str) -> None:
    """Servers written in Go take it for the name."""
    body = f'{{"model":"m","messages":[],"{name}":1}}'.encode()
    for rewritten in (openai.unambiguous, openai.with_forced_usage):
        with pytest.raises(msgspec.ValidationError, match="spelling"):
            rewritten(body)
    within = f'{{"model":"m","messages":[{{"{name}":1}}],"tools":[{{"{name}":1}}],"Else":1}}'.encode()
    assert json.loads(openai.unambiguous(within)) == json.loads(within)


def test_every_value_keeps_its_bytes() -> None:
    messages = b'[ {"role":"user", "content":"a \\"model\\" of \\u0069t", "n": 1.0e0} ]'
    body = b'{ "model" : "m",  "messages": %b, "x\\/y": 1.50 }' % messages
    assert openai.unambiguous(body) == b'{"model":"m","messages":%b,"x/y":1.50}' % messages
