"""What a request needs of a model."""

from typing import Any

import msgspec

from bluesminds.wire.json_text import read_fields
from bluesminds.wire.needs import request_needs
from tests.cases import each

TOOL = {"type": "function", "function": {"name": "f"}}


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@each(
    ("body", "needs"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, set()),
        ({"tools": [TOOL]}, {"tools"}),
        ({"tools": []}, set()),
        ({"tools": None}, set()),
        ({"functions": [{"name": "f"}]}, {"tools"}),
        (user({"type": "image_url", "image_url": {"url": "https://x"}}), {"images"}),
        (user({"type": "input_audio", "input_audio": {"data": ""}}), {"audio"}),
        (user({"type": "image", "source": {"type": "base64", "media_type": "image/png"}}), {"images"}),
        (user({"type": "text", "text": '{"type": "image"}'}), set()),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, {"images"}),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]}]}, {"images"}),
        ({"contents": [{"parts": [{"inline_data": {"mime_type": "audio/wav", "data": ""}}]}]}, {"audio"}),
        ({"tools": [TOOL]} | user({"type": "image_url", "image_url": {"url": "x"}}), {"tools", "images"}),
    ],
)
def test_needs_are_found_in_every_format(body: dict[str, Any], needs: set[str]) -> None:
    assert request_needs(read_fields(msgspec.json.encode(body))) == needs
    indented = msgspec.json.format(msgspec.json.encode(body), indent=2)
    assert request_needs(read_fields(indented)) == needs
