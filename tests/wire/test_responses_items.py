"""The items of requests and responses, and histories of both."""

import json
from itertools import count
from typing import Any

import pytest

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.responses_items import (
    input_items,
    output_items,
    referenced_ids,
    response_of_stream,
    with_history,
    with_references,
)
from tests.wire.conversations import fields_of, json_of, named

CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "5"}
HELLO = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
SAID = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
}


def items_of(**fields: Any) -> list[Any]:
    numbers = count(1)
    items = input_items(fields_of({"model": "m"} | fields), lambda prefix: f"{prefix}_new{next(numbers)}")
    return [json_of(item) for item in items]


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("Hi", [HELLO | {"id": "msg_new1"}]),
        ([{"role": "user", "content": "Hi"}], [HELLO | {"id": "msg_new1"}]),
        ([{"role": "assistant", "content": "Hello"}], [SAID | {"id": "msg_new1"}]),
        (
            [SAID | {"id": "msg_7", "phase": "final_answer"}],
            [SAID | {"id": "msg_7", "phase": "final_answer"}],
        ),
        ([CALL, RESULT], [CALL, RESULT | {"id": "fco_new1"}]),
        ([{"type": "future", "x": 1}], [{"type": "future", "x": 1, "id": "item_new1"}]),
        ([{"id": "msg_1"}], [{"type": "item_reference", "id": "msg_1"}]),
        ([], []),
        (None, []),
    ],
)
def test_input_items_have_a_type_and_an_id(given: Any, items: list[Any]) -> None:
    assert items_of(input=given) == items


def test_input_items_of_a_request_without_input_are_empty() -> None:
    assert items_of() == []


@pytest.mark.parametrize("given", [5, {"role": "user"}, ["Hi"]])
def test_input_of_another_type_is_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        items_of(input=given)
    assert refused.value.param == "input"


def test_history_comes_before_the_new_input() -> None:
    earlier = [fields_of(HELLO | {"id": "msg_1"}), fields_of(CALL)]
    fields = fields_of({"model": "m", "previous_response_id": "resp_1", "input": [RESULT], "store": False})
    assert json_of(with_history(fields, earlier)) == {
        "model": "m",
        "input": [HELLO | {"id": "msg_1"}, CALL, RESULT],
        "store": False,
    }


def test_history_before_a_text_makes_the_text_a_message() -> None:
    fields = with_history(fields_of({"model": "m", "input": "Hi"}), [fields_of(CALL)])
    assert json_of(fields)["input"] == [CALL, HELLO]


def test_references_are_replaced_by_the_items() -> None:
    fields = fields_of({"input": [{"type": "item_reference", "id": "fc_1"}, RESULT]})
    assert referenced_ids(fields) == ["fc_1"]
    assert json_of(with_references(fields, {"fc_1": fields_of(CALL)}))["input"] == [CALL, RESULT]


def test_reference_to_an_unknown_item_is_refused() -> None:
    fields = fields_of({"input": [{"id": "fc_9"}]})
    with pytest.raises(InvalidRequest, match="fc_9"):
        with_references(fields, {})


def test_output_items_of_a_response_are_read() -> None:
    body = json.dumps({"id": "resp_1", "output": [SAID, CALL]}).encode()
    assert [json_of(item) for item in output_items(body)] == [SAID, CALL]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output":5}', b'{"output":[1]}'])
def test_body_without_output_has_no_items(body: bytes) -> None:
    with pytest.raises(ValueError, match="an answer without output"):
        output_items(body)


DONE = named("response.output_item.done", output_index=0, item=CALL)


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
@pytest.mark.parametrize("output", [[], [CALL]])
def test_response_is_that_of_the_last_event(kind: str, output: list[Any]) -> None:
    response = {"id": "resp_1", "output": output, "usage": None}
    stream = DONE + named(kind, response=response) + b"data: [DONE]\n\n"
    assert json.loads(response_of_stream(stream)) == response | {"output": [CALL]}


def test_response_without_items_stays_as_it_is() -> None:
    response = {"id": "resp_1", "output": []}
    assert json.loads(response_of_stream(named("response.failed", response=response))) == response


@pytest.mark.parametrize("stream", [b"", DONE, b"event: response.completed\ndata: {\n\n"])
def test_stream_without_an_end_has_no_response(stream: bytes) -> None:
    with pytest.raises(ValueError, match=r"an end|an event"):
        response_of_stream(stream)
