"""The beginning of a prompt, in every format."""

from typing import Any

import msgspec
import pytest

from bluesminds.wire.json_text import read_fields
from bluesminds.wire.prompt_prefix import MAX_PREFIX, prompt_prefix

FIRST = {"role": "user", "content": "Hello"}
LATER = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Again"}]


def prefix(body: dict[str, Any]) -> bytes:
    return prompt_prefix(read_fields(msgspec.json.encode(body)))


@pytest.mark.parametrize(
    ("first", "later", "expected"),
    [
        ({"messages": [FIRST]}, {"messages": [FIRST, *LATER]}, b"Hello"),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, FIRST]},
            {"messages": [{"role": "system", "content": "Be brief."}, FIRST, *LATER]},
            b"Be brief.\0Hello",
        ),
        (
            {
                "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
                "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
            },
            {
                "system": "Be brief.",
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {}}]},
                    *LATER,
                ],
            },
            b"Be brief.\0Hello",
        ),
        (
            {"instructions": "Be brief.", "input": "Hello"},
            {"instructions": "Be brief.", "input": [FIRST, *LATER]},
            b"Be brief.\0Hello",
        ),
        (
            {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]},
            {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}, *LATER]},
            b"Hello",
        ),
    ],
)
def test_prefix_stays_the_same_when_a_conversation_goes_on(
    first: dict[str, Any], later: dict[str, Any], expected: bytes
) -> None:
    assert prefix(first) == prefix(later) == expected


def test_prefix_is_short_and_never_fails() -> None:
    assert prefix({"messages": [{"role": "system", "content": "é" * 5000}, FIRST]}) == "é".encode() * 512
    assert len(prefix({"prompt": "x" * 5000})) == MAX_PREFIX
    assert prefix({"prompt": ["a", "b"]}) == b"a\0b"
    assert prefix({"model": "m", "messages": 3}) == b""
    assert prefix({"model": "m"}) == b""
    deep: Any = "text"
    for _ in range(300):
        deep = [deep]
    assert prefix({"messages": [{"role": "user", "content": deep}]}) == b"text"
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert prefix({"messages": [{"role": "user", "content": [image]}]}) == b""
