"""The beginning of a prompt, which stays the same when a conversation continues.

It is the text of the system prompt, and of the messages up to the first one of the user. Only text counts,
because clients move other fields, such as marks for a cache, from one turn to the next.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.wire.json_text import NOT_JSON, Fields, read_value

MAX_PREFIX: Final = 1024  # bytes
_MAX_MESSAGES: Final = 8  # messages before the first one of the user
_SYSTEM: Final = ("system", "instructions", "systemInstruction", "system_instruction")
_MESSAGES: Final = ("messages", "input", "contents")
_TEXTS: Final = ("text", "content", "parts")

_list = msgspec.json.Decoder(list[Raw])


def prompt_prefix(fields: Fields) -> bytes:
    """At most MAX_PREFIX bytes; b"" for a request without a prompt."""
    parts: list[str] = []
    try:
        for name in _SYSTEM:
            if name in fields:
                parts += _texts(read_value(fields[name]))
        for name in _MESSAGES:
            if name in fields:
                parts += _first_messages(bytes(fields[name]))
        if not parts and "prompt" in fields:
            parts += _texts(read_value(fields["prompt"]))
    except NOT_JSON:
        return b""
    return "\0".join(parts).encode(errors="replace")[:MAX_PREFIX]


def _first_messages(messages: bytes) -> Iterator[str]:
    if not messages.startswith(b"["):
        yield from _texts(read_value(messages))
        return
    for raw in _list.decode(messages)[:_MAX_MESSAGES]:
        message = read_value(raw)
        yield from _texts(message)
        if isinstance(message, str) or (isinstance(message, dict) and message.get("role") == "user"):
            return


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    """The texts in a message, in a list of parts, or in one part."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, dict):
        for name in _TEXTS:
            if name in value:
                yield from _texts(value[name])
