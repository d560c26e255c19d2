"""Converts Gemini's schemas, a subset of OpenAPI 3.0, to JSON schemas.

Format: Gemini API reference, Schema. Gemini also has fields for JSON schemas, so the other direction needs no
conversion.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.gemini_fields import camel_case
from bluesminds.wire.json_text import NOT_JSON, read_value

_BOUNDS: Final = frozenset(
    ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
)
_LISTS: Final = ("anyOf", "prefixItems")
_UNSPECIFIED: Final = "type_unspecified"


def write_json_schema(schema: Raw, param: str) -> bytes:
    """Raises InvalidRequest with `param` for a value that is not a schema."""
    try:
        return msgspec.json.encode(_convert(read_value(schema)))
    except (*NOT_JSON, AttributeError, KeyError, TypeError) as exc:
        raise InvalidRequest("invalid_value", f"`{param}` must be a schema.", param=param) from exc


def _convert(schema: object) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise TypeError("a schema must be an object")
    found = {camel_case(name): value for name, value in schema.items() if value is not None}
    nullable = found.pop("nullable", False) is True
    order = found.pop("propertyOrdering", ())
    written: dict[str, Any] = {}
    for name, value in found.items():
        if name == "type":
            if (kind := value.lower()) != _UNSPECIFIED:
                written["type"] = [kind, "null"] if nullable else kind
        elif name == "properties":
            written["properties"] = {key: _convert(value[key]) for key in _ordered(value, order)}
        elif name in ("items", "additionalProperties") and isinstance(value, dict):
            written[name] = _convert(value)
        elif name in _LISTS:
            written[name] = [_convert(one) for one in value]
        elif name in ("defs", "$defs"):
            written["$defs"] = {key: _convert(inner) for key, inner in value.items()}
        elif name == "ref":
            written["$ref"] = value
        elif name == "example":
            written["examples"] = [value]
        elif name == "format" and value == "enum":
            continue
        else:
            written[name] = int(value) if name in _BOUNDS else value
    if nullable and "anyOf" in written:
        written["anyOf"].append({"type": "null"})
    if nullable and "enum" in written and None not in written["enum"]:
        written["enum"] = [*written["enum"], None]
    return written


def _ordered(properties: dict[str, Any], order: Sequence[str]) -> list[str]:
    """The names of the properties in the order of generation."""
    first = [name for name in order if name in properties]
    return [*first, *(name for name in properties if name not in first)]
