"""The text of an answer and of a prompt, whatever their format: for people who read them.

A tool call is written as a line with its name and its arguments.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from bluesminds.http.sse import EventSplitter, EventTooLarge, event_data
from bluesminds.wire.json_text import NOT_JSON

_read: Final = msgspec.json.Decoder()
_MESSAGES: Final = ("messages", "input", "contents")


def answer_text(body: bytes) -> str:
    """The text of a JSON answer; "" if it has none."""
    try:
        return "".join(_of_reply(_read.decode(body)))
    except (*NOT_JSON, AttributeError, TypeError):
        return ""


def last_prompt_text(body: bytes) -> str:
    """The text of the last message of a JSON request; "" if it has none."""
    try:
        fields = _read.decode(body)
        for name in _MESSAGES:
            found = fields.get(name)
            if found:
                return "".join(_texts(found[-1] if isinstance(found, list) else found))
        return "".join(_texts(fields.get("prompt") or fields.get("query") or ""))
    except (*NOT_JSON, AttributeError, TypeError):
        return ""


class AnswerJoiner:
    """Joins the text of a stream from its events. It keeps at most `most` characters, and never raises."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._splitter: EventSplitter | None = EventSplitter()
        self._texts: list[str] = []
        self._size = 0
        self.is_cut = False

    def feed(self, data: bytes) -> None:
        if self._splitter is None:
            return
        try:
            for event in self._splitter.feed(data):
                self._add(event)
        except EventTooLarge:
            self._cut()

    def finish(self) -> str:
        if self._splitter is not None:
            self._add(self._splitter.finish())
        return "".join(self._texts).strip("\n")[: self._most]

    def _add(self, event: bytes) -> None:
        try:
            data = event_data(event)
            text = "".join(_of_event(_read.decode(data))) if data[:1] == b"{" else ""
        except (*NOT_JSON, AttributeError, TypeError):
            return
        if text:
            self._texts.append(text)
            self._size += len(text)
            if self._size > self._most:
                self._cut()

    def _cut(self) -> None:
        self.is_cut = True
        self._splitter = None


def _of_event(event: dict[str, Any]) -> Iterator[str]:
    """Chat and completions, Gemini, Responses, Messages."""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        yield from _texts(delta.get("content") or choice.get("text") or "")
        for call in delta.get("tool_calls") or ():
            yield from _call(call.get("function") or {})
    yield from _of_candidates(event)
    kind = event.get("type")
    if kind in ("response.output_text.delta", "response.function_call_arguments.delta"):
        yield event.get("delta") or ""
    elif kind == "response.output_item.added" and (event.get("item") or {}).get("type") == "function_call":
        yield from _call({"name": event["item"].get("name")})
    elif kind == "content_block_start" and (event.get("content_block") or {}).get("type") == "tool_use":
        yield from _call({"name": event["content_block"].get("name")})
    elif kind == "content_block_delta":
        delta = event.get("delta") or {}
        yield delta.get("text") or delta.get("partial_json") or ""


def _of_reply(reply: dict[str, Any]) -> Iterator[str]:
    for choice in reply.get("choices") or ():
        message = choice.get("message") or {}
        yield from _texts(message.get("content") or choice.get("text") or "")
        for call in message.get("tool_calls") or ():
            yield from _call(call.get("function") or {})
    yield from _of_candidates(reply)
    for item in reply.get("output") or ():
        if item.get("type") == "function_call":
            yield from _call(item)
        else:
            yield from _texts(item.get("content") or "")
    if reply.get("type") == "message":
        for part in reply.get("content") or ():
            if part.get("type") == "tool_use":
                arguments = msgspec.json.encode(part.get("input")).decode()
                yield from _call({"name": part.get("name"), "arguments": arguments})
            else:
                yield part.get("text") or ""
    elif isinstance(reply.get("text"), str):  # a transcript
        yield reply["text"]


def _of_candidates(reply: dict[str, Any]) -> Iterator[str]:
    for candidate in reply.get("candidates") or ():
        for part in (candidate.get("content") or {}).get("parts") or ():
            if "functionCall" in part:
                call = part["functionCall"]
                arguments = msgspec.json.encode(call.get("args")).decode()
                yield from _call({"name": call.get("name"), "arguments": arguments})
            elif not part.get("thought"):
                yield part.get("text") or ""


def _call(function: dict[str, Any]) -> Iterator[str]:
    if function.get("name"):
        yield f"\n[tool call {function['name']}] "
    arguments = function.get("arguments")
    yield arguments if isinstance(arguments, str) else ""


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        yield from _texts(value.get("content") or value.get("parts") or value.get("text") or "")
