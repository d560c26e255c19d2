"""Reads the nested JSON of a request level by level, and lists the fields that were not read."""

from typing import Final, Self, TypeVar

import msgspec
from msgspec import Raw

from bluesminds.common.errors import InvalidRequest
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, decode, is_set

T = TypeVar("T")

_text = msgspec.json.Decoder(str)
_texts = msgspec.json.Decoder(list[str])
_whole = msgspec.json.Decoder(int)
_number = msgspec.json.Decoder(float)
_flag = msgspec.json.Decoder(bool)
_object = msgspec.json.Decoder(Fields)
_objects = msgspec.json.Decoder(list[Fields])
_NULL: Final = (b"", b"null")


class FieldReader:
    """The fields of one JSON object. `path` is its name in error messages and in the list of dropped fields,
    without positions in lists. Every method raises InvalidRequest for a value of another type.
    """

    __slots__ = ("_dropped", "_path", "_rest")

    def __init__(self, fields: Fields, path: str, dropped: list[str]) -> None:
        self._rest = dict(fields)
        self._path = path
        self._dropped = dropped

    def name(self, field: str) -> str:
        return f"{self._path}.{field}" if self._path else field

    def raw(self, field: str) -> Raw:
        """ABSENT for a field that is missing or null."""
        value = self._rest.pop(field, ABSENT)
        return ABSENT if bytes(value) in _NULL else value

    def text(self, field: str, default: str = "") -> str:
        value = self._read(field, _text)
        return default if value is None else value

    def needed(self, field: str) -> str:
        """A required text."""
        if (value := self._read(field, _text)) is None:
            raise InvalidRequest("invalid_value", f"`{self.name(field)}` is missing.", param=self.name(field))
        return value

    def whole(self, field: str) -> int | None:
        return self._read(field, _whole)

    def number(self, field: str) -> float | None:
        return self._read(field, _number)

    def flag(self, field: str) -> bool | None:
        return self._read(field, _flag)

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts, or one text."""
        raw = self.raw(field)
        if bytes(raw).startswith(b'"'):
            return (decode_as(_text, raw, self.name(field)),)
        texts: list[str] = decode_as(_texts, raw, self.name(field)) if raw else []
        return tuple(texts)

    def inner(self, field: str) -> Self | None:
        """The object in a field."""
        raw = self.raw(field)
        name = self.name(field)
        return type(self)(decode_as(_object, raw, name), name, self._dropped) if raw else None

    def items(self, field: str) -> list[Self]:
        """The objects in a list."""
        raw = self.raw(field)
        name = self.name(field)
        if not raw:
            return []
        return [type(self)(one, name, self._dropped) for one in decode_as(_objects, raw, name)]

    def objects(self, field: str) -> list[Self]:
        """The objects in a list, or one object."""
        if bytes(self._rest.get(field, ABSENT)).lstrip().startswith(b"{"):
            one = self.inner(field)
            return [] if one is None else [one]
        return self.items(field)

    def first_unread(self) -> str | None:
        """The name of a field that was not read and is not null."""
        return next((name for name, raw in self._rest.items() if bytes(raw) not in _NULL), None)

    def is_text(self, field: str) -> bool:
        return bytes(self._rest.get(field, ABSENT)).lstrip().startswith(b'"')

    def has(self, field: str) -> bool:
        """Whether a field is there and is not null."""
        return bytes(self._rest.get(field, ABSENT)) not in _NULL

    def ignore(self, *fields: str) -> None:
        """Ignore fields without listing them as dropped. Without names: all fields that were not read."""
        for field in fields or tuple(self._rest):
            self._rest.pop(field, None)

    def note(self, field: str) -> None:
        """List a field as dropped."""
        self._dropped.append(self.name(field))

    def drop(self, field: str) -> None:
        """List a field as dropped, unless it is null, false or empty."""
        if is_set(self._rest.pop(field, ABSENT)):
            self.note(field)

    def drop_rest(self) -> None:
        """List every field that was not read."""
        for field in list(self._rest):
            self.drop(field)

    def _read(self, field: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        raw = self.raw(field)
        return decode_as(decoder, raw, self.name(field)) if raw else None


def decode_as(decoder: msgspec.json.Decoder[T], raw: Raw, param: str) -> T:
    try:
        return decode(decoder, raw)
    except msgspec.ValidationError as exc:
        reason = str(exc).partition(" - at `$")[0]
        raise InvalidRequest("invalid_value", f"{reason} (in `{param}`).", param=param) from exc
    except NOT_JSON as exc:
        raise InvalidRequest(
            "invalid_value", f"`{param}` has a value that JSON does not allow.", param=param
        ) from exc
