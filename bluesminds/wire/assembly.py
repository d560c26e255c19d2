"""Converts between a JSON answer and the same answer as a stream of chunks.

For servers that send the other form than the client requested.
"""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Raw

from bluesminds.http.sse import EventSplitter, event_data, write_event
from bluesminds.wire.json_text import NOT_JSON, Fields, is_set, read_fields, read_value, write_fields

_NULL = Raw(b"null")
# Complete in every chunk; all other texts come in parts.
_WHOLE = frozenset(
    ("role", "id", "type", "object", "name", "finish_reason", "stop_reason", "format", "call_id")
)
_DONE = b"data: [DONE]\n\n"


def events_of(
    body: bytes, object_: str, spread: Callable[[Fields], list[Fields]], *, wants_usage: bool
) -> bytes:
    """A JSON answer as a stream. `spread` makes the choices of the chunks from one choice.

    Raises ValueError if the body has no choices, or is nested too deeply.
    """
    try:
        return _events_of(body, object_, spread, wants_usage)
    except RecursionError as exc:
        raise ValueError("an answer with a value that is nested too deep") from exc


def _events_of(
    body: bytes, object_: str, spread: Callable[[Fields], list[Fields]], wants_usage: bool
) -> bytes:
    head = read_fields(body)
    usage = head.pop("usage", None)
    choices = _objects(head.pop("choices", _NULL))
    if not choices:
        raise ValueError("an answer without choices")
    head["object"] = Raw(msgspec.json.encode(object_))
    events = [
        write_event(write_fields(head | {"choices": _array(part)}))
        for choice in choices
        for part in spread(choice)
    ]
    if wants_usage and usage is not None and is_set(usage):
        events.append(write_event(write_fields(head | {"choices": Raw(b"[]"), "usage": usage})))
    return b"".join([*events, _DONE])


def _array(*items: Fields) -> Raw:
    return Raw(b"[%b]" % b",".join([write_fields(item) for item in items]))


_raws = msgspec.json.Decoder(list[Raw])


def _objects(raw: Raw) -> list[Fields]:
    try:
        items = _raws.decode(raw)
    except NOT_JSON:
        items = _odd_items(raw)
    return [read_fields(bytes(item)) for item in items]


def _odd_items(raw: Raw) -> list[Raw]:
    """The items of an array that msgspec cannot read; its values are encoded again."""
    values = read_value(raw)
    return [Raw(msgspec.json.encode(value)) for value in values] if isinstance(values, list) else []


def spread_message(choice: Fields) -> list[Fields]:
    """A choice of a chat answer as two chunks: the message, and the finish_reason."""
    message = read_fields(bytes(choice.get("message", Raw(b"{}"))))
    message = {name: value for name, value in message.items() if bytes(value) != b"null" or name == "content"}
    if "tool_calls" in message:
        calls = _objects(message["tool_calls"])
        numbered = [{"index": Raw(b"%d" % number)} | call for number, call in enumerate(calls)]
        message["tool_calls"] = _array(*numbered)
    rest = {
        name: value for name, value in choice.items() if name not in ("index", "message", "finish_reason")
    }
    index, delta = choice.get("index", Raw(b"0")), Raw(write_fields(message))
    return [
        {"index": index, "delta": delta, **rest, "finish_reason": _NULL},
        {"index": index, "delta": Raw(b"{}"), "finish_reason": _finish_reason(choice)},
    ]


def spread_text(choice: Fields) -> list[Fields]:
    """The same for a legacy completion."""
    rest = {name: value for name, value in choice.items() if name not in ("index", "finish_reason")}
    index = choice.get("index", Raw(b"0"))
    return [
        {"index": index, **rest, "finish_reason": _NULL},
        {"index": index, "text": Raw(b'""'), "logprobs": _NULL, "finish_reason": _finish_reason(choice)},
    ]


def _finish_reason(choice: Fields) -> Raw:
    reason = choice.get("finish_reason", _NULL)
    return reason if is_set(reason) else Raw(b'"stop"')


def reply_of(stream: bytes, object_: str, part: str) -> bytes:
    """A stream of chunks as a JSON answer. `part`: "delta", which becomes the `message`, or "text". Raises
    ValueError if no chunk has a choice, or one is nested too deeply.
    """
    try:
        return _reply_of(stream, object_, part)
    except RecursionError as exc:
        raise ValueError("a stream with a value that is nested too deep") from exc


def _reply_of(stream: bytes, object_: str, part: str) -> bytes:
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in _chunks(stream):
        for choice in chunk.pop("choices", None) or ():
            if isinstance(choice, dict):
                index = choice.get("index")
                index = index if isinstance(index, int) else 0
                _merge(choices.setdefault(index, {"index": index}), {**choice, "index": None})
        usage = chunk.pop("usage", None)
        answer |= {name: value for name, value in chunk.items() if value is not None}
        if isinstance(usage, dict) and (any(usage.values()) or "usage" not in answer):
            answer["usage"] = usage
    if not choices:
        raise ValueError("a stream without choices")
    usage = answer.pop("usage", None)
    answer["object"] = object_
    answer["choices"] = [_closed(choices[index], part) for index in sorted(choices)]
    if usage is not None:
        answer["usage"] = usage
    return msgspec.json.encode(_joined(answer))


def _chunks(stream: bytes) -> Iterable[dict[str, Any]]:
    splitter = EventSplitter()
    for event in (*splitter.feed(stream), splitter.finish()):
        data = event_data(event)
        if data.lstrip().startswith(b"[DONE]"):
            return
        try:
            chunk = read_value(data) if data else None
        except NOT_JSON:
            continue
        if isinstance(chunk, dict):
            yield chunk


class _Text(list[str]):
    """The parts of a text; joined once."""


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        known = into.get(name)
        if value is None:
            into.setdefault(name, None)
        elif name in _WHOLE:
            into[name] = known or value
        elif isinstance(value, str) and (known is None or isinstance(known, _Text)):
            into[name] = _Text([value]) if known is None else known
            if known is not None:
                known.append(value)
        elif isinstance(value, list) and (known is None or isinstance(known, list)):
            into[name] = _merged_lists(known or [], value)
        elif isinstance(value, dict) and (known is None or isinstance(known, dict)):
            into[name] = {} if known is None else known
            _merge(into[name], value)
        else:
            into[name] = value


def _merged_lists(known: list[Any], value: list[Any]) -> list[Any]:
    """Items with an index, as tool calls have, are merged by it."""
    if isinstance(known, _Text):
        known = [{"type": "text", "text": "".join(known)}] if any(known) else []
    for item in value:
        index = item.get("index") if isinstance(item, dict) else None
        if not isinstance(index, int):
            known.append(item)
            continue
        found = next((one for one in known if isinstance(one, dict) and one.get("index") == index), None)
        if found is None:
            found = {"index": index}
            known.append(found)
        _merge(found, {name: inner for name, inner in item.items() if name != "index"})
    return known


def _closed(choice: dict[str, Any], part: str) -> dict[str, Any]:
    """The choice in the form of a JSON answer."""
    if part == "delta":
        message = {"role": "assistant", "content": None, **(choice.pop("delta", None) or {})}
        for call in message.get("tool_calls") or ():
            if isinstance(call, dict):
                call.pop("index", None)
        choice = {"index": choice.pop("index"), "message": message, **choice}
    choice.setdefault("finish_reason", None)
    return choice


def _joined(value: object) -> object:
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, list):
        return [_joined(item) for item in value]
    if isinstance(value, dict):
        return {name: _joined(inner) for name, inner in value.items()}
    return value
