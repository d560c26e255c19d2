"""Reads Gemini's JSON: names of fields in both spellings, and both alphabets of base64.

Format: Protocol Buffers, JSON mapping. A field's name is in camel case or in snake case; base64 may use the
alphabet for URLs and may lack its padding.
"""

from typing import Final

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.field_reading import FieldReader
from bluesminds.wire.json_text import Fields

_STANDARD: Final = str.maketrans("-_", "+/")


def camel_case(name: str) -> str:
    first, *rest = name.strip("_").split("_")
    return first + "".join([word[:1].upper() + word[1:] for word in rest])


def camel_fields(fields: Fields, path: str = "") -> Fields:
    """The fields by their names in camel case. Raises InvalidRequest for a field in both spellings."""
    if not any("_" in name for name in fields):
        return fields
    renamed: Fields = {}
    for name, value in fields.items():
        plain = camel_case(name)
        if plain in renamed or (plain != name and plain in fields):
            param = f"{path}.{plain}" if path else plain
            raise InvalidRequest("invalid_value", f"`{param}` is in the request twice.", param=param)
        renamed[plain] = value
    return renamed


class GeminiReader(FieldReader):
    """A FieldReader for names in either spelling."""

    __slots__ = ()

    def __init__(self, fields: Fields, path: str, dropped: list[str]) -> None:
        super().__init__(camel_fields(fields, path), path, dropped)


def standard_base64(data: str) -> str:
    """Base64 in the alphabet that other formats use, with its padding."""
    if "-" in data or "_" in data:
        data = data.translate(_STANDARD)
    return data + "=" * (-len(data) % 4)
