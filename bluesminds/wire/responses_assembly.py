"""Converts a whole response to a stream, for servers that ignore `stream`. Every item keeps all its fields,
also unknown ones.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.http.sse import write_event
from bluesminds.wire.json_text import Fields, read_fields, write_fields
from bluesminds.wire.responses_items import output_items
from bluesminds.wire.responses_output import OutputEvent
from bluesminds.wire.responses_stream import arguments_of, read_item, text_in

_STATUSES: Final = ("completed", "incomplete", "failed")
_EMPTIED: Final[dict[str, Raw]] = {
    "content": Raw(b"[]"),
    "summary": Raw(b"[]"),
    "arguments": Raw(b'""'),
    "input": Raw(b'""'),
    "status": Raw(b'"in_progress"'),
}


def events_of_response(body: bytes) -> bytes:
    """Raises ValueError for a body that is not a finished response."""
    items = output_items(body)
    fields = read_fields(body)
    status = msgspec.json.decode(fields.get("status", Raw(b'"completed"')))
    if status not in _STATUSES:
        raise ValueError("an answer that has not ended")
    running: Fields = {"status": Raw(b'"in_progress"'), "output": Raw(b"[]"), "usage": Raw(b"null")}
    begun = Raw(write_fields(fields | running))
    events: list[OutputEvent] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
    ]
    for index, item in enumerate(items):
        events += _events_of_item(index, item)
    events.append((f"response.{status}", {"response": Raw(body.strip())}))
    return b"".join([_write(number, *event) for number, event in enumerate(events)])


def _write(number: int, kind: str, fields: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({"type": kind, "sequence_number": number, **fields})
    return write_event(data, kind.encode())


def _events_of_item(index: int, item: Fields) -> Iterator[OutputEvent]:
    whole = Raw(write_fields(item))
    emptied = {name: value for name, value in _EMPTIED.items() if name in item}
    read = read_item(whole)
    if not isinstance(read.get("arguments", ""), str):
        emptied.pop("arguments", None)
    yield "response.output_item.added", {"output_index": index, "item": Raw(write_fields(item | emptied))}
    place = {"item_id": text_in(read, "id"), "output_index": index}
    match read.get("type"):
        case "message":
            for number, part in enumerate(read.get("content") or ()):
                yield from _events_of_part(place | {"content_index": number}, part)
        case "reasoning":
            for number, part in enumerate(read.get("summary") or ()):
                yield from _events_of_summary(place | {"summary_index": number}, part)
        case "function_call":
            arguments = arguments_of(read)
            yield "response.function_call_arguments.delta", place | {"delta": arguments}
            named = {"name": text_in(read, "name"), "arguments": arguments}
            yield "response.function_call_arguments.done", place | named
        case "custom_tool_call":
            text = text_in(read, "input")
            yield "response.custom_tool_call_input.delta", place | {"delta": text}
            yield "response.custom_tool_call_input.done", place | {"input": text}
    yield "response.output_item.done", {"output_index": index, "item": whole}


def _events_of_part(place: dict[str, Any], part: object) -> Iterator[OutputEvent]:
    if not isinstance(part, dict):
        raise ValueError("an answer with a part that is not an object")
    field = "refusal" if part.get("type") == "refusal" else "text"
    text = text_in(part, field)
    kind = "refusal" if field == "refusal" else "output_text"
    more = {} if field == "refusal" else {"logprobs": part.get("logprobs") or []}
    yield "response.content_part.added", place | {"part": part | {field: ""}}
    yield f"response.{kind}.delta", place | more | {"delta": text}
    yield f"response.{kind}.done", place | more | {field: text}
    yield "response.content_part.done", place | {"part": part}


def _events_of_summary(place: dict[str, Any], part: object) -> Iterator[OutputEvent]:
    if not isinstance(part, dict):
        raise ValueError("an answer with a part that is not an object")
    text = text_in(part, "text")
    yield "response.reasoning_summary_part.added", place | {"part": part | {"text": ""}}
    yield "response.reasoning_summary_text.delta", place | {"delta": text}
    yield "response.reasoning_summary_text.done", place | {"text": text}
    yield "response.reasoning_summary_part.done", place | {"part": part}
