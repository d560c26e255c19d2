"""Orders to a scripted model, one on a line of the prompt:

    call weather {"city": "Oslo"}     call this tool, if the request offers it
    answer {"city": "Oslo"}           answer with the rest of the line
    refuse 429                        respond with this status
    cut                               reset the connection in the middle of the stream

Without an order the answer is "Hello world", or what the tools returned. So a client that only has a prompt,
such as an SDK in another process or an agent, decides what the model does.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

HELLO = "Hello world"
_CALL = re.compile(r"^call (\S+) (\{.*\})$", re.MULTILINE)
_ANSWER = re.compile(r"^answer (.+)$", re.MULTILINE)
_REFUSE = re.compile(r"^refuse (\d{3})$", re.MULTILINE)
_CUT = re.compile(r"^cut$", re.MULTILINE)
_PIECE = re.compile(r"\s*\S+\s*$|\s*\S+")


class Orders(Struct, frozen=True):
    """`calls` are names and arguments. `refuse` is the status of an error response."""

    answer: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    refuse: int | None = None
    cut: bool = False

    @property
    def pieces(self) -> list[str]:
        """The answer, divided as a stream divides it."""
        return _PIECE.findall(self.answer)


def orders_of(messages: Sequence[dict[str, Any]], tools: Iterable[str]) -> Orders:
    """The orders in what follows the last message of the assistant: chat messages, or those of Messages."""
    turns = [number for number, message in enumerate(messages) if message.get("role") == "assistant"]
    latest = messages[turns[-1] + 1 :] if turns else messages
    prompt = "\n".join(text for message in latest for text in _texts(message))
    results = [result for message in latest for result in _results(message)]
    known = set(tools)
    calls = tuple(
        (name, msgspec.json.decode(arguments)) for name, arguments in _CALL.findall(prompt) if name in known
    )
    answer = _ANSWER.search(prompt)
    refuse = _REFUSE.search(prompt)
    said = ("The tool returned " + ", ".join(results)) if results else HELLO
    return Orders(
        answer[1] if answer else said,
        calls,
        int(refuse[1]) if refuse else None,
        _CUT.search(prompt) is not None,
    )


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
