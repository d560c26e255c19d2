"""POST /moderations: flags a few plain words."""

import re
from typing import Any, Literal

from msgspec import Struct

from bluesminds.providers.demo.script import DemoError, Script, identifier, read, response

_CATEGORIES: dict[str, tuple[str, ...]] = {
    "harassment": ("idiot", "stupid"),
    "harassment/threatening": ("threaten",),
    "hate": ("hate",),
    "hate/threatening": (),
    "illicit": ("drugs", "steal"),
    "illicit/violent": ("bomb",),
    "self-harm": ("suicide",),
    "self-harm/intent": (),
    "self-harm/instructions": (),
    "sexual": ("porn",),
    "sexual/minors": (),
    "violence": ("kill", "attack", "bomb"),
    "violence/graphic": ("blood",),
}
_OF_IMAGES = ("self-harm", "sexual", "violence")


class _ImageURL(Struct):
    url: str


class _InputPart(Struct):
    type: Literal["text", "image_url"]
    text: str = ""
    image_url: _ImageURL | None = None


class _ModerationRequest(Struct):
    input: str | list[str | _InputPart]
    model: str = "demo/moderation"


def moderations(body: bytes) -> Script:
    """A result for each text; parts of texts and images make one input. Raises DemoError."""
    request = read(body, _ModerationRequest)
    given = [request.input] if isinstance(request.input, str) else request.input
    if not given:
        raise DemoError("input must have a text or an image.", "input")
    results = [_result(text, types=("text",)) for text in given if isinstance(text, str)]
    parts = [part for part in given if isinstance(part, _InputPart)]
    if parts:
        types = tuple(sorted({part.type.removesuffix("_url") for part in parts}))
        results.append(_result(" ".join(part.text for part in parts), types))
    return response({"id": identifier("modr", body), "model": request.model, "results": results})


def _result(text: str, types: tuple[str, ...]) -> dict[str, Any]:
    words = re.findall(r"\w+", text.lower())
    flags = {name: any(word in words for word in plain) for name, plain in _CATEGORIES.items()}
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": {name: 0.95 if flagged else 0.0005 for name, flagged in flags.items()},
        "category_applied_input_types": {
            name: [kind for kind in types if kind == "text" or name.startswith(_OF_IMAGES)] for name in flags
        },
    }
