"""Changes to JSON schemas of answers."""

from typing import Final

import msgspec
from msgspec import Raw

from bluesminds.wire.json_text import NOT_JSON, read_value

_NAMED: Final = ("properties", "$defs", "definitions")  # keywords with schemas by name
_VALUES: Final = ("const", "default", "enum", "examples")  # keywords with values instead of schemas


def close_objects(schema: bytes) -> Raw:
    """Objects that say nothing about additional properties have none: Anthropic's servers refuse others."""
    try:
        value = read_value(schema)
        closed = _close(value)
    except NOT_JSON:  # or nested too deeply
        return Raw(schema)
    return Raw(schema if closed == value else msgspec.json.encode(closed))


def _close(schema: object) -> object:
    if isinstance(schema, list):
        return [_close(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed: dict[str, object] = {}
    for key, inner in schema.items():
        if key in _NAMED and isinstance(inner, dict):
            closed[key] = {name: _close(one) for name, one in inner.items()}
        else:
            closed[key] = inner if key in _VALUES else _close(inner)
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind):
        closed.setdefault("additionalProperties", False)
    return closed
