"""Reads the fields of a form that decide what a request may cost, into the same values as those of JSON."""

from collections.abc import Mapping
from typing import Final

from msgspec import Raw, json

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.base import FieldKind, FormFields, RequestFacts

MAX_FIELD: Final = 4096  # bytes of a field that is read
_TRUE: Final = frozenset(("true", "1", "on", "yes"))
_FALSE: Final = frozenset(("false", "0", "off", "no", ""))


def check_name(form: FormFields, name: str) -> None:
    """Raises InvalidRequest for a name that some servers take for one of those that are read."""
    if name not in form.kinds and (meant := name.strip().casefold().partition("[")[0]) in form.kinds:
        raise InvalidRequest(
            "invalid_value",
            f"Some servers read `{name[:40]}` as `{meant}`. Name the field `{meant}`.",
            param=meant,
        )


def read_form(form: FormFields, values: Mapping[str, bytes]) -> RequestFacts:
    """Raises InvalidRequest with the field that is wrong as `param`."""
    return form.read({name: _as_json(name, value, form.kinds[name]) for name, value in values.items()})


def _as_json(name: str, value: bytes, kind: FieldKind) -> Raw:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("invalid_value", f"`{name}` is not UTF-8.", param=name) from None
    if kind == "text":
        return Raw(json.encode(text))
    if kind == "flag":
        word = text.strip().casefold()
        if word not in _TRUE | _FALSE:
            raise InvalidRequest("invalid_value", f"`{name}` must be true or false.", param=name)
        return Raw(b"true" if word in _TRUE else b"false")
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        raise InvalidRequest("invalid_value", f"`{name}` must be a whole number.", param=name)
    return Raw(str(int(digits)).encode())
