"""The items of the Responses API: what a request adds to a conversation, and what a response adds to it.

Format: OpenAI API reference, responses. An item is a JSON object with a `type`; a message may come without
one, and its content may be a text. Items keep the bytes of all values that are not changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Raw

from bluesminds.common.errors import InvalidRequest
from bluesminds.http.sse import EventSplitter
from bluesminds.wire.field_reading import decode_as
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields, write_fields
from bluesminds.wire.stages import name_and_data

TERMINAL: Final = frozenset((b"response.completed", b"response.incomplete", b"response.failed"))
_PREFIXES: Final = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_RESULTS: Final = ("function_call_output", "custom_tool_call_output")
_PREVIOUS: Final = "previous_response_id"

_text = msgspec.json.Decoder(str)
_raw_objects = msgspec.json.Decoder(list[Fields])


def input_items(fields: Fields, new_id: Callable[[str], str]) -> list[Fields]:
    """The items of a request's `input`, each with its type and an id. `new_id` makes the id of an item that
    has none; it gets the prefix, such as "msg". Raises InvalidRequest.
    """
    return [_with_id(item, new_id) for item in new_items(fields)]


def with_history(fields: Fields, items: Sequence[Fields]) -> Fields:
    """The request with earlier items before those of its `input`, and without the id of an earlier response.
    Raises InvalidRequest.
    """
    rest = {name: value for name, value in fields.items() if name != _PREVIOUS}
    return rest | {"input": _array([*items, *new_items(fields)])}


def unmatched_result(items: Sequence[Fields]) -> str | None:
    """The id of a call that has a result in `items`, but is not before it. None if there is none."""
    calls: set[str] = set()
    for item in items:
        kind, call_id = _text_in(item, "type"), _text_in(item, "call_id")
        if kind in _RESULTS and call_id not in calls:
            return call_id
        if kind.endswith("_call"):
            calls.add(call_id)
    return None


def referenced_ids(fields: Fields) -> list[str]:
    """The ids of stored items that the request's `input` refers to. Raises InvalidRequest."""
    return [_text_in(item, "id") for item in new_items(fields) if _is_reference(item)]


def with_references(fields: Fields, found: Mapping[str, Fields]) -> Fields:
    """The request with stored items, by id, instead of references to them. Raises InvalidRequest for an
    id that is not in `found`.
    """
    items = []
    for item in new_items(fields):
        if _is_reference(item):
            id_ = _text_in(item, "id")
            if id_ not in found:
                message = f"There is no stored item `{id_[:80]}`."
                raise InvalidRequest("invalid_value", message, param="input.id")
            item = found[id_]
        items.append(item)
    return fields | {"input": _array(items)}


def output_items(response: bytes) -> list[Fields]:
    """The items of a whole response. Raises ValueError for a body that is not a response."""
    try:
        items: list[Fields] = _raw_objects.decode(read_fields(response)["output"])
    except (*NOT_JSON, KeyError) as exc:
        raise ValueError("an answer without output") from exc
    return items


def response_of_stream(stream: bytes) -> bytes:
    """The response that a stream, or its last events, ends with. If its output is empty, it is that of the
    items that were done in the stream. Raises ValueError for a stream without an end.
    """
    splitter = EventSplitter()
    done: list[Raw] = []
    for event in (*splitter.feed(stream), splitter.finish()):
        name, data = name_and_data(event)
        if name == b"response.output_item.done":
            done.append(_field(data, "item"))
        elif name in TERMINAL:
            response = bytes(_field(data, "response"))
            return response if output_items(response) or not done else _with_output(response, done)
    raise ValueError("a stream without an end")


def new_items(fields: Fields) -> list[Fields]:
    """The items of `input`; a text is a message of the user. Raises InvalidRequest."""
    raw = fields.get("input", ABSENT)
    if bytes(raw) in (b"", b"null"):
        return []
    if bytes(raw).startswith(b'"'):
        return [_message({"role": Raw(b'"user"'), "content": raw})]
    items: list[Fields] = decode_as(_raw_objects, raw, "input")
    return [_message(item) if _text_in(item, "type") in ("", "message") else item for item in items]


def _message(item: Fields) -> Fields:
    """A message with its type, whose content is a list of parts. A reference may have no type either."""
    if "role" not in item:
        return item if "type" in item else {"type": Raw(b'"item_reference"'), **item}
    content = bytes(item.get("content", ABSENT))
    if content.startswith(b'"'):
        kind = b"output_text" if _text_in(item, "role") == "assistant" else b"input_text"
        more = b',"annotations":[]' if kind == b"output_text" else b""
        content = b'[{"type":"%b","text":%b%b}]' % (kind, content, more)
    return {"type": Raw(b'"message"'), **item, "content": Raw(content or b"[]")}


def _is_reference(item: Fields) -> bool:
    return _text_in(item, "type") == "item_reference"


def _with_id(item: Fields, new_id: Callable[[str], str]) -> Fields:
    if _text_in(item, "id"):
        return item
    id_ = new_id(_PREFIXES.get(_text_in(item, "type"), "item"))
    return item | {"id": Raw(msgspec.json.encode(id_))}


def _text_in(item: Fields, name: str) -> str:
    try:
        return _text.decode(item.get(name, ABSENT))
    except NOT_JSON:
        return ""


def _field(data: bytes, name: str) -> Raw:
    try:
        return read_fields(data)[name]
    except (*NOT_JSON, KeyError) as exc:
        raise ValueError(f"an event without {name}") from exc


def _with_output(response: bytes, done: Sequence[Raw]) -> bytes:
    output = Raw(b"[%b]" % b",".join([bytes(item) for item in done]))
    return write_fields(read_fields(response) | {"output": output})


def _array(items: Sequence[Fields]) -> Raw:
    return Raw(b"[%b]" % b",".join([write_fields(item) for item in items]))
