"""What callers of the control plane send, as Structs that forbid unknown fields. What is wrong is said in
words made from the field's description. Messages never contain a value; they name an unknown field.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from quart import Request

from bluesminds.common.errors import InvalidRequest
from bluesminds.config.fields import FieldSpec, fields_of

T = TypeVar("T", bound=msgspec.Struct)
# How msgspec words what is wrong.
_WRONG: Final = re.compile(r" (?:- at|in) `\$\.(\w+)([^`]*)")
_MISSING: Final = re.compile(r"^Object missing required field `(\w+)`")
_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_TRUTHS: Final = {"true": True, "false": False}
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


async def read_input(model: type[T], incoming: Request) -> T:
    """The JSON body. Raises InvalidRequest, with the field's name if it has one that is known."""
    body = await incoming.get_data(cache=False)
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as exc:
        raise _invalid(model, str(exc), "The request body must be a JSON object.") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest("invalid_json", "The request body is not valid JSON.") from exc


def read_query(model: type[T], incoming: Request) -> T:
    """The part of the URL after "?". Raises InvalidRequest, with the parameter's name if it is known."""
    fields, given = fields_of(model), dict[str, Any]()
    for name, values in incoming.args.lists():
        if name not in fields:
            raise _unknown("parameter", name, fields)
        if len(values) > 1:
            raise InvalidRequest("invalid_value", "A parameter is there twice. Send each once.", param=name)
        if "\0" in values[0]:
            raise InvalidRequest("invalid_value", "Send text without NUL characters.", param=name)
        given[name] = _meant(fields[name], values[0])
    try:
        return msgspec.convert(given, model)
    except msgspec.ValidationError as exc:
        raise _invalid(model, str(exc), "The query cannot be read.") from exc


def _meant(field: FieldSpec, text: str) -> object:
    """A URL has only text for a number or a truth. Nothing is read more kindly: 8 would pass for a time."""
    if field.base_type is int and _WHOLE.fullmatch(text):
        return int(text)
    if field.base_type is bool:
        return _TRUTHS.get(text, text)
    return text


def _invalid(model: type[msgspec.Struct], reason: str, otherwise: str) -> InvalidRequest:
    """msgspec's reason in words of ours: the field and its rule, never the value."""
    fields = fields_of(model)
    if (missing := _MISSING.match(reason)) and missing[1] in fields:
        message = f"{missing[1]} is missing; it must be {fields[missing[1]].expected}."
        return InvalidRequest("invalid_value", message, param=missing[1])
    if (found := _WRONG.search(reason)) and found[1] in fields:
        place, field = found[1], fields[found[1]]
        if (inner := _inner(field).get(found[2].removeprefix("."))) is not None:
            place, field = f"{place}.{inner.name}", inner
        return InvalidRequest("invalid_value", f"{place} must be {field.expected}.", param=place)
    if unknown := _UNKNOWN.match(reason):
        return _unknown("field", unknown[1], fields)
    return InvalidRequest("invalid_value", otherwise)


def _unknown(what: str, name: str, fields: Mapping[str, FieldSpec]) -> InvalidRequest:
    known = f"Known {what}s: {', '.join(fields) or 'none'}."
    if not _PLAIN_NAME.fullmatch(name):
        return InvalidRequest("invalid_value", f"Unknown {what}. {known}")
    hint = "".join(
        f" `{name}` belongs under `{field.name}`." for field in fields.values() if name in _inner(field)
    )
    return InvalidRequest("invalid_value", f"Unknown {what} `{name}`.{hint} {known}", param=name)


def _inner(field: FieldSpec) -> Mapping[str, FieldSpec]:
    """The fields of an object that is a field's value."""
    kind = field.base_type
    return fields_of(kind) if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else {}
