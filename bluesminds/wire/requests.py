"""Reads the fields of a request that limit what it may cost, and replaces those that differ for the server.

Other fields are forwarded unread. The fields that the gateway reads are validated: a wrong type is refused.
So is a name that only differs in upper case, because servers written in Go accept it as the same field.
"""

from collections.abc import Iterable
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.json_text import NOT_JSON, Fields, read_fields, write_fields

MAX_TOKENS: Final = 10_000_000  # a larger bound is a mistake
UNBOUNDED: Final = -1  # as llama.cpp and LM Studio write it
Tokens = Annotated[int, Meta(ge=UNBOUNDED, le=MAX_TOKENS)]
Choices = Annotated[int, Meta(ge=1, le=128)]

R = TypeVar("R", bound=Struct)

_FORCED = Raw(b'{"include_usage":true}')
_PRESENT = Raw(b"0")


class StreamOptions(Struct):
    include_usage: bool | None = None


class UsageOptions(Struct):
    """OpenRouter's `usage`."""

    include: bool | None = None


def read_body(body: bytes) -> Fields:
    """The fields of a request body. Of a duplicate key only the last value is kept. Raises InvalidRequest."""
    try:
        if not body.isascii():
            body.decode()  # unread fields are not decoded, but must be valid text
        return read_fields(body)
    except NOT_JSON as exc:
        raise _not_an_object(body) from exc


def _not_an_object(body: bytes) -> InvalidRequest:
    try:
        is_other_value = not isinstance(msgspec.json.decode(body), dict)
    except NOT_JSON:
        is_other_value = False
    if is_other_value:
        return InvalidRequest("invalid_value", "The request body must be a JSON object.")
    return InvalidRequest("invalid_json", "The request body is not valid JSON.")


def decode_fields(fields: Fields, decoder: msgspec.json.Decoder[R], unread: Iterable[str] = ()) -> R:
    """Decode the fields of the decoder's type. `unread`: fields that must be present.

    Raises InvalidRequest with the field as `param`.
    """
    names = decoder.type.__struct_encode_fields__
    _check_spelling(fields, names)
    read = {name: fields[name] for name in names if name in fields}
    for name in unread:
        if name in read:
            read[name] = _PRESENT
    try:
        return decoder.decode(msgspec.json.encode(read))
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at `$.")
        if missing := _missing_field(reason):
            raise InvalidRequest("invalid_value", f"Missing field `{missing}`.", param=missing) from exc
        raise _invalid(reason, path.rstrip("`") or None) from exc
    except NOT_JSON as exc:
        raise InvalidRequest("invalid_value", "A field has a value that JSON does not allow.") from exc


def _check_spelling(fields: Fields, names: tuple[str, ...]) -> None:
    for name in fields:
        if name not in names and (meant := name.casefold()) in names:
            raise InvalidRequest(
                "invalid_value", f"Write the name of the field `{meant}` in lower case.", param=meant
            )


def _invalid(reason: str, param: str | None) -> InvalidRequest:
    where = f" (in `{param}`)" if param else ""
    return InvalidRequest("invalid_value", f"{reason}{where}.", param=param)


def _missing_field(reason: str) -> str | None:
    """The name in msgspec's "Object missing required field `name`"."""
    return reason.split("`")[1] if reason.startswith("Object missing") else None


def largest_bound(*bounds: tuple[str, int | None]) -> int | None:
    """The largest maximum of several fields with the same meaning, given with their names; None: no maximum.

    Raises InvalidRequest for a maximum of 0.
    """
    for name, bound in bounds:
        if bound == 0:
            raise _invalid("Expected `int` >= 1, or -1 for no maximum", name)
    said = [bound for _, bound in bounds if bound is not None]
    return None if not said or UNBOUNDED in said else max(said)


def with_model(fields: Fields, model: str) -> Fields:
    """The fields with the server's model name."""
    return fields | {"model": Raw(msgspec.json.encode(model))}


def force_usage(fields: Fields) -> Fields:
    """The fields with `stream_options.include_usage` set; other stream options are kept."""
    options = fields.get("stream_options")
    if options is None or bytes(options) == b"null":
        return fields | {"stream_options": _FORCED}
    merged = read_fields(bytes(options)) | {"include_usage": Raw(b"true")}
    return fields | {"stream_options": Raw(write_fields(merged))}


def prepare(fields: Fields, model: str, force: bool) -> Fields:
    """For formats without streams."""
    return with_model(fields, model)


def prepare_stream(fields: Fields, model: str, force: bool) -> Fields:
    """For formats with streams. `usage` is for the gateway; OpenRouter sends its usage in any case."""
    fields = with_model(fields, model)
    fields.pop("usage", None)
    if force and bytes(fields.get("stream", b"")) == b"true":
        return force_usage(fields)
    return fields
