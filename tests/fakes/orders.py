"""What a scripted model does. A line of the prompt orders it:

    call weather {"city": "Oslo"}     call this tool, if the request offers it
    answer {"city": "Oslo"}           answer with the rest of the line
    refuse 429                        respond with this status
    cut                               reset the connection in the middle of the stream

So a client that only has a prompt, such as an SDK in another process, decides what the model does.

Without an order it calls a tool that the request requires, or the only tool, if the prompt has a word of its
name. The values are those of the demo server; numbers and quoted texts of the prompt come first. An answer
with a schema is JSON. Any other answer is "Hello world", or what the tools returned.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from bluesminds.providers.demo.json_schema import instance

HELLO = "Hello world"
_CALL = re.compile(r"^call (\S+) (\{.*\})$", re.MULTILINE)
_ANSWER = re.compile(r"^answer (.+)$", re.MULTILINE)
_REFUSE = re.compile(r"^refuse (\d{3})$", re.MULTILINE)
_CUT = re.compile(r"^cut$", re.MULTILINE)
_PIECE = re.compile(r"\s*\S+\s*$|\s*\S+")
_QUOTED = re.compile(r"'([^']+)'")
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"[a-z]{4,}")

Call = tuple[str, dict[str, Any]]  # name and arguments


class Offer(Struct, frozen=True):
    """What a request offers and wants. `tools`: their schemas, by name. `required`: a tool must be called,
    the one that `chosen` names or any. `schema`: of the answer. `any_json`: the answer is a JSON object.
    """

    tools: Mapping[str, dict[str, Any]] = {}
    required: bool = False
    chosen: str | None = None
    schema: dict[str, Any] | None = None
    any_json: bool = False


class Orders(Struct, frozen=True):
    """`refuse` is the status of an error response."""

    answer: str
    calls: tuple[Call, ...] = ()
    refuse: int | None = None
    cut: bool = False

    @property
    def pieces(self) -> list[str]:
        """The answer, divided as a stream divides it."""
        return _PIECE.findall(self.answer)


def orders_of(messages: Sequence[dict[str, Any]], offer: Offer) -> Orders:
    """The orders in what follows the last message of the assistant: chat messages, or those of Messages."""
    turns = [number for number, message in enumerate(messages) if message.get("role") == "assistant"]
    latest = messages[turns[-1] + 1 :] if turns else messages
    prompt = "\n".join(text for message in latest for text in _texts(message))
    results = [result for message in latest for result in _results(message)]
    calls = tuple(
        (name, msgspec.json.decode(arguments))
        for name, arguments in _CALL.findall(prompt)
        if name in offer.tools
    )
    refuse = _REFUSE.search(prompt)
    return Orders(
        _answer(prompt, results, offer),
        calls or _own_calls(prompt, offer, bool(results)),
        int(refuse[1]) if refuse else None,
        _CUT.search(prompt) is not None,
    )


def _answer(prompt: str, results: list[str], offer: Offer) -> str:
    if answer := _ANSWER.search(prompt):
        return answer[1]
    if offer.schema is not None:
        return msgspec.json.encode(_filled(offer.schema, prompt)).decode()
    if offer.any_json:
        return msgspec.json.encode(dict.fromkeys(_QUOTED.findall(prompt), HELLO)).decode()
    return ("The tool returned " + ", ".join(results)) if results else HELLO


def _own_calls(prompt: str, offer: Offer, has_results: bool) -> tuple[Call, ...]:
    name = offer.chosen or next(iter(offer.tools), None)
    if name is None or name not in offer.tools:
        return ()
    only = len(offer.tools) == 1 and not has_results
    meant = only and set(_WORD.findall(name)) & set(_WORD.findall(prompt.lower()))
    return ((name, _filled(offer.tools[name], prompt)),) if offer.required or meant else ()


def _filled(schema: dict[str, Any], prompt: str) -> dict[str, Any]:
    """An instance of the schema with the values of the prompt."""
    value: dict[str, Any] = instance({"type": "object"} | schema, "answer")
    numbers, quoted = iter(_NUMBER.findall(prompt)), iter(_QUOTED.findall(prompt))
    for key, old in value.items():
        if type(old) is int:
            value[key] = int(next(numbers, old))
        elif isinstance(old, str):
            value[key] = next(quoted, old)
    return value


def _texts(message: dict[str, Any]) -> Iterable[str]:
    if message.get("role") == "user":
        yield from _texts_of(message.get("content"))


def _results(message: dict[str, Any]) -> Iterable[str]:
    content = message.get("content")
    if message.get("role") == "tool":
        yield "".join(_texts_of(content))
    elif isinstance(content, list):
        for block in content:
            if block.get("type") == "tool_result":
                yield "".join(_texts_of(block.get("content")))


def _texts_of(content: Any) -> Iterable[str]:
    if isinstance(content, str):
        yield content
    for block in content if isinstance(content, list) else ():
        if block.get("type") == "text":
            yield block["text"]
