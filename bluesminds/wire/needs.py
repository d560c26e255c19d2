"""What a request needs of a model: tools, images, audio.

Parts of media are found by their type in the JSON text. In a string, the quotes would be escaped.
"""

import re
from typing import Final

from bluesminds.common.routes import Need
from bluesminds.wire.json_text import Fields

_TOOLS: Final = ("tools", "functions")
_MESSAGES: Final = ("messages", "input", "contents", "content", "requests", "system", "systemInstruction")
_EMPTY: Final = frozenset((b"null", b"[]", b"{}"))
# Types of parts: chat, messages, responses. MIME types: Gemini, and sources of messages.
_IMAGE: Final = re.compile(
    rb'"type"\s*:\s*"(?:image|image_url|input_image)"|"(?:mime_?type|media_type)"\s*:\s*"image/',
    re.IGNORECASE,
)
_AUDIO: Final = re.compile(rb'"type"\s*:\s*"input_audio"|"mime_?type"\s*:\s*"audio/', re.IGNORECASE)


def request_needs(fields: Fields) -> frozenset[Need]:
    found: set[Need] = set()
    if any(bytes(fields[name]).strip() not in _EMPTY for name in _TOOLS if name in fields):
        found.add("tools")
    for name in _MESSAGES:
        if name in fields:
            text = bytes(fields[name])
            if _IMAGE.search(text) is not None:
                found.add("images")
            if _AUDIO.search(text) is not None:
                found.add("audio")
    return frozenset(found)
