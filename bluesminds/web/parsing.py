"""Converts request bodies and queries to Structs that forbid unknown fields. Only the query of a page that
is linked from other sites may allow them, because such links get parameters of others.

Error messages are built from the descriptions of the fields. They never repeat a value, and a name only if it
is a plain identifier, because messages end up on terminals.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from quart import Request

from bluesminds.common.errors import InvalidRequest
from bluesminds.config.fields import FieldSpec, fields_of

T = TypeVar("T", bound=msgspec.Struct)
# The format of msgspec's messages.
_INVALID: Final = re.compile(r" (?:- at|in) `\$\.(\w+)([^`]*)")
_MISSING: Final = re.compile(r"^Object missing required field `(\w+)`")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?:([\w.-]{1,64})`)?", re.ASCII)
_IDENTIFIER: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_BOOLEANS: Final = {"true": True, "false": False}


async def read_body(model: type[T], incoming: Request) -> T:
    """The JSON body. Raises InvalidRequest."""
    body = await incoming.get_data(cache=False)
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as exc:
        raise _invalid(model, str(exc), "The request body must be a JSON object.") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest("invalid_json", "The request body is not valid JSON.") from exc


def read_query(model: type[T], incoming: Request) -> T:
    """The query parameters. Raises InvalidRequest."""
    fields, given = fields_of(model), dict[str, Any]()
    for name, values in incoming.args.lists():
        if name not in fields and not model.__struct_config__.forbid_unknown_fields:
            continue
        if name not in fields:
            plain = name if _IDENTIFIER.fullmatch(name) else None
            raise InvalidRequest("invalid_value", _unknown_message("query parameter", plain, fields))
        if len(values) > 1:
            raise InvalidRequest("invalid_value", f"Duplicate query parameter `{name}`.", param=name)
        if "\0" in values[0]:
            raise InvalidRequest("invalid_value", f"{name} must not contain NUL.", param=name)
        given[name] = _convert(fields[name], values[0])
    try:
        return msgspec.convert(given, model)
    except msgspec.ValidationError as exc:
        raise _invalid(model, str(exc), "The query is invalid.") from exc


def _convert(field: FieldSpec, text: str) -> object:
    """Integers and booleans from text. msgspec's lax conversion would accept more, such as 8 for a time."""
    if field.base_type is int and _INTEGER.fullmatch(text):
        return int(text)
    if field.base_type is bool:
        return _BOOLEANS.get(text, text)
    return text


def _invalid(model: type[msgspec.Struct], reason: str, otherwise: str) -> InvalidRequest:
    """Translates msgspec's message. `otherwise` is the message for a reason without a field."""
    fields, prefix = fields_of(model), ""
    name, field = None, None
    if (found := _INVALID.search(reason)) and found[1] in fields:
        name, field = found[1], fields[found[1]]
        inner = _inner_fields(field)
        if found[2].startswith(".") and (part := found[2][1:]) in inner:
            name, field = f"{name}.{part}", inner[part]
        fields, prefix = _inner_fields(field), f"{name}."
    if unknown := _UNKNOWN.match(reason):
        message = _unknown_message("field", unknown[1], fields, prefix)
        return InvalidRequest("invalid_value", message, param=name)
    if (missing := _MISSING.match(reason)) and missing[1] in fields:
        param = prefix + missing[1]
        message = f"Missing field `{param}`. It must be {fields[missing[1]].expected}."
        return InvalidRequest("invalid_value", message, param=param)
    if field is not None:
        return InvalidRequest("invalid_value", f"{name} must be {field.expected}.", param=name)
    return InvalidRequest("invalid_value", otherwise)


def _unknown_message(kind: str, name: str | None, fields: Mapping[str, FieldSpec], prefix: str = "") -> str:
    """`name` is None if it must not be repeated; `prefix` is the path of the object, such as "limits."."""
    quoted = f" `{prefix}{name}`" if name is not None else ""
    for field in fields.values():
        if name in _inner_fields(field):
            return f"Unknown {kind}{quoted}: `{name}` belongs under `{field.name}`."
    known = ", ".join(f"`{field}`" for field in fields)
    return f"Unknown {kind}{quoted}. " + (f"Known: {known}." if known else f"This request has no {kind}s.")


def _inner_fields(field: FieldSpec) -> Mapping[str, FieldSpec]:
    """The fields of a field whose value is an object."""
    kind = field.base_type
    return fields_of(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else {}
