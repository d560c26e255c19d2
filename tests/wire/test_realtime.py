"""The events of the Realtime API."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import InvalidRequest, RateLimited
from bluesminds.common.values import Usage
from bluesminds.wire.realtime import REALTIME, read_client, read_server, write_error
from bluesminds.wire.sockets import OTHER, ClientEvent, ServerEvent
from tests.cases import each

GOLDEN = json.loads((Path(__file__).parent / "golden" / "realtime.json").read_text())
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(("model", "type")), inner),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ("type", "session", "response", "event_id", "item", "audio", "delta", "error", "usage")
)
TYPES = st.sampled_from([event["type"] for event in (*GOLDEN["client"], *GOLDEN["server"])])
EVENTS = st.builds(lambda kind, rest: {**rest, "type": kind}, TYPES, st.dictionaries(NAMES, JSON))


def client(**event: Any) -> ClientEvent:
    return read_client(json.dumps(event))


@pytest.mark.parametrize("case", GOLDEN["client"], ids=lambda case: case["type"])
def test_client_event_is_read_and_passed_unchanged(case: dict[str, Any]) -> None:
    event = read_client(json.dumps(case["event"], separators=(",", ":")))
    assert json.loads(event.text) == case["event"]
    found = {name: getattr(event, name) for name in event.__struct_fields__ if name != "text"}
    expected = {"tokens": found["tokens"]} | {name: _tuple(value) for name, value in case["read"].items()}
    assert {name: value for name, value in found.items() if value != getattr(ClientEvent(""), name)} == {
        name: value for name, value in expected.items() if value != getattr(ClientEvent(""), name)
    }


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@each("case", GOLDEN["server"])
def test_server_event_is_read(case: dict[str, Any]) -> None:
    read = dict(case["read"])
    if (usage := read.get("usage")) is not None:
        read["usage"] = Usage(**usage, usage_source="upstream")
    assert read_server(json.dumps(case["event"])) == ServerEvent(**read)


@given(EVENTS)
def test_client_event_of_any_content_is_passed_or_refused(event: dict[str, Any]) -> None:
    try:
        text = read_client(json.dumps(event)).text
    except InvalidRequest:
        return
    assert json.loads(text) == event


@given(st.text() | EVENTS.map(json.dumps))
def test_server_event_of_any_content_is_read(text: str) -> None:
    assert isinstance(read_server(text), ServerEvent)


@given(st.text())
def test_client_text_of_any_content_is_read_or_refused(text: str) -> None:
    REALTIME.name_of(text)
    try:
        read_client(text)
    except InvalidRequest as exc:
        assert exc.code in ("invalid_json", "invalid_value")


@pytest.mark.parametrize(
    ("event", "param"),
    [
        ({"type": "session.update", "Session": {}}, "session"),
        ({"type": "response.create", "RESPONSE": {}}, "response"),
        ({"Type": "response.create"}, "type"),
        ({"type": "session.update", "session": {"MoDel": "x"}}, "session.model"),
        ({"type": "session.update", "session": {"model": ["x"]}}, "session.model"),
        ({"type": "session.update", "session": {"max_output_tokens": 0}}, "session.max_output_tokens"),
        ({"type": "response.create", "response": {"max_output_tokens": True}}, "response.max_output_tokens"),
        ({"type": "response.create", "response": []}, "response"),
        ({"type": "x", "event_id": 1}, "event_id"),
        ({}, "type"),
    ],
)
def test_client_event_with_a_wrong_field_is_refused(event: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        client(**event)
    assert (raised.value.code, raised.value.param) == ("invalid_value", param)


def test_client_event_with_lone_surrogates_and_odd_numbers_is_passed() -> None:
    text = '{"type":"x","a":"\\ud800","b":NaN,"c":1e999}'
    assert read_client(text).text == text


def test_client_audio_is_not_counted_as_text() -> None:
    audio = client(type="input_audio_buffer.append", audio="A" * 64_000)
    item = {"type": "message", "content": [{"type": "input_audio", "audio": "A" * 64_000}]}
    assert audio.tokens == 11
    assert client(type="conversation.item.create", item=item).tokens < 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"type":"response.done"}',
        '{"type":"response.done","response":{"id":5}}',
        '{"type":"response.created","response":null}',
        '{"type":"error","error":"x"}',
        '{"type":"response.output_text.delta","delta":""}',
        '{"type":"response.output_text.delta"}',
        '{"type":5}',
    ],
)
def test_server_event_that_says_nothing_is_other(text: str) -> None:
    assert read_server(text) == OTHER


def test_error_event_has_the_shape_of_the_api() -> None:
    error = RateLimited("rate_limit_exceeded", "Wait.", retry_after=1.0)
    assert json.loads(write_error(error, "event_1", "mine")) == {
        "type": "error",
        "event_id": "event_1",
        "error": {
            "type": "rate_limit_error",
            "code": "rate_limit_exceeded",
            "message": "Wait.",
            "param": None,
            "event_id": "mine",
        },
    }
