"""Requests: what decides the cost is read strictly, the rest keeps its bytes."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire import json_text
from bluesminds.wire.base import Format, RequestFacts
from bluesminds.wire.chat import CHAT
from bluesminds.wire.completions import COMPLETIONS
from bluesminds.wire.embeddings import EMBEDDINGS
from bluesminds.wire.json_text import MAX_ODD, read_fields, text_bytes, text_size, write_fields
from bluesminds.wire.moderations import MODERATIONS
from bluesminds.wire.requests import force_usage, read_body
from bluesminds.wire.rerank import RERANK
from tests.cases import each

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.dictionaries(st.text(max_size=8), json_values, max_size=5)


def encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def read(body: Any, format_: Format = CHAT) -> RequestFacts:
    return format_.read_request(read_body(body if isinstance(body, bytes) else json.dumps(body).encode()))


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [], **more}


@each(
    ("more", "expected"),
    [
        ({}, {}),
        ({"stream": True}, {"stream": True}),
        ({"stream": None, "stream_options": None, "max_tokens": None, "n": None, "best_of": None}, {}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True, "wants_usage": True}),
        ({"stream_options": {"include_usage": None, "x": {"y": 1}}}, {}),
        ({"max_tokens": 7}, {"max_output": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 9}, {"max_output": 9}),
        ({"max_tokens": -1}, {}),
        ({"max_tokens": -1, "max_completion_tokens": 9}, {}),
        ({"n": 3, "best_of": 5}, {"choices": 5}),
        ({"n": 128}, {"choices": 128}),
        ({"top_logprobs": 50, "temperature": "hot", "logprobs": 7, "user": ["x"]}, {}),
    ],
)
def test_chat_request_is_read(more: dict[str, Any], expected: dict[str, Any]) -> None:
    facts = read(chat(**more))
    assert facts == RequestFacts(**{"model": "m", **expected, "text_bytes": facts.text_bytes})


@each(
    ("body", "param"),
    [
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_completion_tokens=0), "max_completion_tokens"),
        (chat(max_tokens=-2), "max_tokens"),
        (chat(max_tokens=4096.0), "max_tokens"),
        (chat(max_tokens=1.5), "max_tokens"),
        (chat(max_tokens=10_000_001), "max_tokens"),
        (chat(max_tokens="7"), "max_tokens"),
        (chat(n=0), "n"),
        (chat(n=129), "n"),
        (chat(n=True), "n"),
        (chat(stream="yes"), "stream"),
        (chat(stream_options="yes"), "stream_options"),
        (chat(stream_options={"include_usage": 1}), "stream_options.include_usage"),
        (chat(model=None), "model"),
        ({"messages": []}, "model"),
        ({"model": "m"}, "messages"),
    ],
)
def test_field_that_decides_the_cost_is_read_strictly(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body)
    assert (caught.value.code, caught.value.param, caught.value.status) == ("invalid_value", param, 400)


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"1e400", b'"\\ud800"'])
def test_field_that_decides_the_cost_is_no_odd_json(value: bytes) -> None:
    for name in (b"model", b"max_tokens", b"n"):
        with pytest.raises(InvalidRequest):
            read(b'{"model":"m","messages":[],"%b":%b}' % (name, value))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1} x',
        b'{"a":}',
        b'{"a" 1}',
        b"{a:1}",
        b'{"a":"\xff"}',
        b"{,}",
    ],
)
def test_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_body(body)
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"1"])
def test_body_that_is_another_value_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object") as caught:
        read_body(body)
    assert caught.value.code == "invalid_value"


ODD = [
    b"NaN",
    b"-Infinity",
    b"Infinity",
    b"1e400",
    b'"\\ud83d"',
    b'["\\udc00x", NaN]',
    b'{"a":{"\\ud800":[1e999]}}',
]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_odd_value_that_only_passes_through_keeps_its_bytes(value: bytes, bom: bytes) -> None:
    body = bom + b' { "model" : "m", "messages": [ %b ],"x":%b , "max_tokens":5}\n' % (value, value)
    found = read_body(body)
    facts = CHAT.read_request(found)
    assert (facts.model, facts.max_output) == ("m", 5)
    sent = write_fields(CHAT.prepare(found, "other", True))
    assert sent == b'{"model":"other","messages":[ %b ],"x":%b,"max_tokens":5}' % (value, value)


def test_odd_key_keeps_its_spelling() -> None:
    found = read_body(b'{"model":"m","messages":[],"\\ud800":1,"x":2}')
    assert write_fields(found) == b'{"model":"m","messages":[],"\\ud800":1,"x":2}'


def test_slower_reader_takes_the_last_of_two_keys() -> None:
    found = read_body(b'{"model":"a","x":NaN,"messages":[],"mod\\u0065l":"b"}')
    assert CHAT.read_request(found).model == "b"
    assert write_fields(found).count(b"model") == 1


def test_large_odd_body_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        read_body(b'{"model":NaN,"x":"%b"}' % (b"x" * MAX_ODD))
    assert read_body(b'{"x":"%b"}' % (b"x" * MAX_ODD))


@given(fields, st.none() | fields)
def test_forcing_usage_changes_nothing_else(
    others: dict[str, object], options: dict[str, object] | None
) -> None:
    body = encoded(others | {"stream_options": options} if options is not None else others)
    before, after = json.loads(body), json.loads(write_fields(force_usage(read_body(body))))
    kept = before.pop("stream_options", None) or {}
    assert after.pop("stream_options") == kept | {"include_usage": True}
    assert after == before


@given(fields)
def test_fields_written_again_say_the_same(value: dict[str, object]) -> None:
    body = encoded(value)
    assert json.loads(write_fields(read_fields(body))) == json.loads(body)
    assert json.loads(write_fields(json_text._read_odd_fields(body))) == json.loads(body)
    assert write_fields(json_text._read_odd_fields(body)) == write_fields(read_fields(body))


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ua1 \n', max_size=30).map(str.encode))
def test_slower_reader_takes_only_json(body: bytes) -> None:
    try:
        found = json_text._read_odd_fields(body)
    except json_text.NOT_JSON:
        return
    assert (
        found.keys() == json.loads(body.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")).keys()
    )


def test_usage_is_forced_only_in_streams_and_only_where_asked() -> None:
    streamed, whole = read_body(b'{"model":"m","stream":true}'), read_body(b'{"model":"m","stream":false}')
    for format_ in (CHAT, COMPLETIONS):
        assert json.loads(write_fields(format_.prepare(streamed, "x", True)))["stream_options"]
        assert set(format_.prepare(streamed, "x", False)) == {"model", "stream"}
        assert set(format_.prepare(whole, "x", True)) == {"model", "stream"}
    assert set(streamed) == {"model", "stream"}, "the client's own fields stay as they are"
    for format_ in (EMBEDDINGS, MODERATIONS, RERANK):
        assert set(format_.prepare(streamed, "x", True)) == {"model", "stream"}


def test_numbers_keep_their_digits() -> None:
    body = b'{"a":1.50,"b":123456789012345678901234567890,"c":1E+2,"d":[1.0]}'
    assert write_fields(read_body(body)) == body


FIELDS = ("model", "max_tokens", "max_completion_tokens", "n", "best_of", "stream")
SPELLED = ("{0}", "{0[0]}\\u{1:04x}{2}", "{3}")  # as it is, with an escape, in capitals
NAMES = st.tuples(st.sampled_from(FIELDS), st.sampled_from(SPELLED)).map(
    lambda pick: pick[1].format(pick[0], ord(pick[0][1:2] or "n"), pick[0][2:], pick[0].upper())
)


@given(st.lists(st.tuples(NAMES, st.sampled_from(["1", "2", "3"])), max_size=5), st.booleans(), st.booleans())
def test_every_server_reads_what_the_gateway_read(
    pairs: list[tuple[str, str]], usage: bool, odd: bool
) -> None:
    """Whether it takes the first of two keys or the last, and whether it minds capitals or not."""
    rest = "".join(f',"{name}":{"true" if "tream" in name else value}' for name, value in pairs)
    rest = re.sub(r'("[^"]*model[^"]*"):(\d)', r'\1:"\2"', rest, flags=re.IGNORECASE)
    body = f'{{"model":"0","messages":[{"NaN" if odd else ""}]{rest}}}'.encode()
    try:
        found = read_body(body)
        facts = CHAT.read_request(found)
    except InvalidRequest:
        return
    sent = json.loads(write_fields(CHAT.prepare(found, facts.model, usage)), object_pairs_hook=list)
    assert len({key.casefold() for key, _ in sent}) == len(sent)
    values = {key: value for key, value in sent if key in FIELDS}
    assert values["model"] == facts.model
    assert bool(values.get("stream")) == facts.stream
    bounds = [values[name] for name in ("max_tokens", "max_completion_tokens") if name in values]
    assert max(bounds, default=None) == facts.max_output
    assert max(values.get("n", 1), values.get("best_of", 1)) == facts.choices


@pytest.mark.parametrize("name", ["MODEL", "Max_Tokens", "max_to\u212aens", "me\u017f\u017fages", "\\u004e"])
def test_name_in_other_letters_is_refused(name: str) -> None:
    """Servers written in Go take it for the name."""
    with pytest.raises(InvalidRequest, match="in lower case"):
        read(f'{{"model":"m","messages":[],"{name}":1}}'.encode())
    within = f'{{"model":"m","messages":[{{"{name}":1}}],"tools":[{{"{name}":1}}],"Else":1}}'.encode()
    assert json.loads(write_fields(CHAT.prepare(read_body(within), "m", False))) == json.loads(within)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "hi"}, {}),
        ({}, {}),
        ({"prompt": None, "max_tokens": 5, "n": 2}, {"max_output": 5, "choices": 2}),
        ({"max_tokens": 0, "echo": True, "logprobs": 0, "best_of": 0}, {"max_output": 0}),
        ({"max_tokens": -1}, {}),
        ({"prompt": ["a", "b", "c"], "n": 2}, {"choices": 6}),
        ({"prompt": [1, 2, 3]}, {}),
        ({"prompt": [[1, 2], [3]]}, {"choices": 2}),
        ({"prompt": []}, {}),
        (
            {"stream": True, "stream_options": {"include_usage": True}, "best_of": 3},
            {"stream": True, "wants_usage": True, "choices": 3},
        ),
    ],
)
def test_completion_request_is_read(body: dict[str, Any], expected: dict[str, Any]) -> None:
    facts = read({"model": "m", **body}, COMPLETIONS)
    assert facts == RequestFacts(**{"model": "m", **expected, "text_bytes": facts.text_bytes})


@pytest.mark.parametrize(
    ("format_", "body", "missing"),
    [
        (EMBEDDINGS, {"model": "m", "input": "x"}, "input"),
        (
            EMBEDDINGS,
            {"model": "m", "input": [1, 2], "encoding_format": "base64", "dimensions": None},
            "input",
        ),
        (MODERATIONS, {"model": "m", "input": [{"type": "text", "text": "x"}]}, "input"),
        (RERANK, {"model": "m", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}, "documents"),
        (RERANK, {"model": "m", "query": "q", "documents": []}, "query"),
    ],
)
def test_request_without_output_is_read(format_: Format, body: dict[str, Any], missing: str) -> None:
    facts = read(body, format_)
    assert facts == RequestFacts(model="m", max_output=0, text_bytes=facts.text_bytes)
    with pytest.raises(InvalidRequest) as caught:
        read({name: value for name, value in body.items() if name != missing}, format_)
    assert caught.value.param == missing


def test_moderation_without_a_model_has_openais_default() -> None:
    assert read({"input": "x"}, MODERATIONS).model == read({"input": "x", "model": None}, MODERATIONS).model
    assert "moderation" in read({"input": "x"}, MODERATIONS).model


@pytest.mark.parametrize(
    "media",
    [
        b"data:image/png;base64," + b"iVBORw0KGgo" * 20_000 + b"==",
        b"data:image/png;base64," + b"iV\\/BORw0KGgo" * 20_000,
        b"UklGRiQA" * 20_000,
    ],
)
def test_media_in_base64_are_no_text(media: bytes) -> None:
    words = b"a few words and more " * 1000
    messages = b'[{"role":"user","content":[{"x":"%b"},{"text":"%b"}]}]'
    assert text_size(messages % (media, words)) == len(messages % (b"", words))
    body = b'{"model":"m","messages":%b}'
    facts = CHAT.read_request(read_body(body % (messages % (media, words))))
    assert facts.text_bytes == len(messages % (b"", words)) + len('"m"')
    assert text_bytes({}) == 0
