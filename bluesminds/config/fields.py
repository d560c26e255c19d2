"""Describes every setting from the Structs and converts one value to the type of its setting.

Text from the environment is parsed according to the type; values from the file and from flags must already
have it. Error messages are built from the description of the type.
"""

import json
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

import msgspec
import tomli_w

from bluesminds.common.durations import read_duration
from bluesminds.config.settings import MONEY, ServerSettings, Settings
from bluesminds.config.values import Secret

SERVERS: Final = "servers"
_MAX_DISPLAY = 40  # characters of a wrong value that an error repeats
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_UNIONS = (Union, types.UnionType)
_NOTHING = (types.NoneType, msgspec.UnsetType)


class UnsuitableError(Exception):
    """An invalid value. The message completes a sentence that starts with the name of the setting, or with
    `name` if that is not empty. `path` leads from the setting to the wrong part of its value.
    """

    def __init__(
        self, message: str, remedy: str = "", name: str = "", path: tuple[str | int, ...] = ()
    ) -> None:
        super().__init__(message)
        self.remedy = remedy
        self.name = name
        self.path = path


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One setting. `type` is without None; `expected` completes "must be ..."; `example` is a valid value."""

    name: str
    type: Any
    expected: str
    default: object
    example: object
    required: bool = False

    @property
    def secret(self) -> bool:
        return self.type is Secret

    @property
    def secret_map(self) -> bool:
        """Whether the value is a table of secrets by name."""
        return self.is_table and get_args(self.base_type)[1] is Secret

    @property
    def secret_list(self) -> bool:
        return self.is_list and get_args(self.base_type)[0] is Secret

    @property
    def is_table(self) -> bool:
        """Whether the value is a table with arbitrary names."""
        return get_origin(self.base_type) is dict

    @property
    def base_type(self) -> Any:  # noqa: ANN401
        """The type without its annotations."""
        return _base_type(self.type)

    @property
    def is_money(self) -> bool:
        return any(note.extra and MONEY in note.extra for note in _notes(self.type))

    @property
    def item(self) -> Any:  # noqa: ANN401 - a Struct type or None
        """The type of the tables in an array of tables."""
        inner = get_args(self.base_type)[0] if self.is_list else None
        return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None

    @property
    def item_secrets(self) -> frozenset[str]:
        """The names of the secrets in the tables of an array of tables."""
        fields = {} if self.item is None else fields_of(self.item)
        return frozenset(name for name, field in fields.items() if field.secret)

    @property
    def is_list(self) -> bool:
        return get_origin(self.base_type) is tuple


@cache
def fields_of(struct: type[msgspec.Struct]) -> Mapping[str, FieldSpec]:
    """The settings of a section by name, without nested sections."""
    found = {}
    for info in msgspec.structs.fields(struct):
        kind = _without_none(info.type)
        if struct is not Settings or not (_is_struct(kind) or info.name == SERVERS):
            default = None if info.required else _default(info)
            found[info.name] = FieldSpec(
                info.name, kind, _describe(kind), default, _example(kind, default), info.required
            )
    return found


def _default(info: msgspec.structs.FieldInfo) -> object:
    made = info.default_factory
    return info.default if made is msgspec.NODEFAULT else made()


@cache
def sections() -> Mapping[str, type[msgspec.Struct]]:
    """The tables of gateway.toml by name, such as "tiers.free", without arrays of tables."""
    return dict(_tables_of(Settings, ""))


def _tables_of(struct: type[msgspec.Struct], prefix: str) -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for info in msgspec.structs.fields(struct):
        if _is_struct(info.type):
            inner = dict(_tables_of(info.type, f"{prefix}{info.name}."))
            yield from inner.items() if inner else [(prefix + info.name, info.type)]


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def fields_in(section: str) -> Mapping[str, FieldSpec]:
    """The settings of a section by its name: "" is the top level, "servers" one [[servers]] entry."""
    if section == SERVERS:
        return fields_of(ServerSettings)
    return fields_of(sections()[section]) if section else fields_of(Settings)


def convert(field: FieldSpec, value: object, base: Path) -> object:
    """Check and convert a value; relative paths start at `base`. Raises UnsuitableError."""
    try:
        if field.base_type is float and isinstance(value, str):
            return msgspec.convert(float(read_duration(value)), field.type)
        if isinstance(value, Secret) and field.secret:
            return value
        if field.type is not Path:
            if field.secret_map:
                return {name: Secret(text) for name, text in msgspec.convert(value, dict[str, str]).items()}
            if field.is_money:
                return msgspec.convert(_as_amount(value), field.type)
            if (item := field.item) is not None and isinstance(value, list):
                return tuple(_convert_item(field, item, one, at, base) for at, one in enumerate(value))
            if field.is_table and isinstance(value, dict):
                return dict(_convert_entry(field, key, one) for key, one in value.items())
            return msgspec.convert(value, field.type)
        if isinstance(value, str | Path) and str(value):
            return resolve(value, base)
    except ValueError:
        pass
    raise UnsuitableError(f"must be {field.expected}, not {display(value)}")


def _convert_item(field: FieldSpec, item: type[msgspec.Struct], value: object, at: int, base: Path) -> object:
    """One table of an array of tables. Raises UnsuitableError, which names the key."""
    header = f"[[{field.name}]]"
    if not isinstance(value, dict):
        raise UnsuitableError(
            f"must be a table, not {display(value)}", f"write it under {header}", header, (at,)
        )
    known, fields = dict(value), fields_of(item)
    title = value.get("model", value.get("name"))
    label = f"{header} {display(title)}" if isinstance(title, str) else header
    for key in known:
        if key not in fields:
            close = nearest(key, fields)
            remedy = f'did you mean "{close}"?' if close else f"known names: {', '.join(fields)}"
            raise UnsuitableError("is not a known key", remedy, f"{display(key)} in {label}", (at, key))
    for key, one in fields.items():
        if key in known:
            try:
                known[key] = convert(one, known[key], base)
            except UnsuitableError as error:
                remedy = f"write it like {key} = {toml_value(one.example)}"
                raise UnsuitableError(str(error), remedy, f"{key} in {label}", (at, key)) from None
        elif one.required:
            remedy = f"add a line like {key} = {toml_value(one.example)}"
            raise UnsuitableError("is missing", remedy, f"{key} in {label}", (at,))
    return msgspec.convert(known, item)


def _convert_entry(field: FieldSpec, key: str, value: object) -> tuple[str, object]:
    """One value of a table; for lists, text is a list of one. Raises UnsuitableError, which names the key."""
    name_type, value_type = get_args(field.base_type)
    takes_list = get_origin(_base_type(value_type)) is tuple
    given = [value] if takes_list and isinstance(value, str) else value
    for part, kind in ((key, name_type), (given, value_type)):
        try:
            msgspec.convert(part, kind)
        except msgspec.ValidationError:
            remedy = f"write it like {_toml_key(key)} = {toml_value(_example(value_type, None))}"
            message = f"must be {_describe(kind)}" + ("" if part is key else f", not {display(value)}")
            raise UnsuitableError(message, remedy, f"{display(key)} in [{field.name}]", (key,)) from None
    return key, msgspec.convert(given, value_type)


def _as_amount(value: object) -> object:
    """A number as the text of an amount; anything else unchanged."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return format(Decimal(repr(value)), "f")
    return value


def resolve(path: str | Path, base: Path) -> Path:
    """Resolve a path relative to `base`. Raises ValueError for an invalid path."""
    if "\0" in str(path):
        raise ValueError("a path must not contain NUL")
    try:
        return base / Path(path).expanduser()
    except RuntimeError:
        raise ValueError("the home directory is unknown") from None


def parse(field: FieldSpec, text: str, base: Path) -> object:
    """Parse text: lists are JSON or comma-separated. Raises UnsuitableError."""
    if field.is_list:
        return convert(field, parse_list(text), base)
    if field.is_table:
        return convert(field, parse_table(text), base)
    if field.type is Path:
        return convert(field, text, base)
    if not text.isprintable():
        raise UnsuitableError(f"must be {field.expected}, not text with control characters")
    try:
        return msgspec.convert(text, field.type, strict=False)
    except msgspec.ValidationError:
        pass
    if field.base_type is float:
        return convert(field, text, base)
    raise UnsuitableError(f"must be {field.expected}, not {display(text)}")


def parse_table(text: str) -> object:
    """A JSON object. Raises UnsuitableError."""
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise UnsuitableError("must be a JSON object of names and values") from None


def parse_list(text: str) -> object:
    """A JSON array, or names separated by commas. Raises UnsuitableError."""
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise UnsuitableError("must be a JSON array or a comma-separated list") from None


def display(value: object) -> str:
    """A wrong value for an error message: its kind, or at most 40 characters in TOML syntax."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case list() | tuple():
            return "a list"
        case int() if abs(value) >= 2**63:
            return "a number this large"
        case int() | float():
            return repr(value)
        case str():
            short = value if len(value) <= _MAX_DISPLAY else value[:_MAX_DISPLAY] + "..."
            return json.dumps(short, ensure_ascii=not short.isprintable())
        case _:
            return f"a {type(value).__name__}"


def toml_value(value: object) -> str:
    """A value as TOML on one line; secrets are masked."""
    match value:
        case list() | tuple():
            return "[" + ", ".join(toml_value(one) for one in value) + "]"
        case dict():
            return "{" + ", ".join(f"{_toml_key(key)}={toml_value(one)}" for key, one in value.items()) + "}"
        case Path() | Secret():
            value = str(value)
    return tomli_w.dumps({"_": value}).removeprefix("_ = ").rstrip("\n")


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The closest known word, if any; a likeness of 1.0 means equal."""
    close = get_close_matches(word, sorted(known), cutoff=likeness)
    return min(close, key=lambda one: word not in one.split("_"), default=None)  # prefer "api_key" for "key"


def _base_type(kind: object) -> object:
    return getattr(kind, "__origin__", kind) if hasattr(kind, "__metadata__") else kind


def _without_none(kind: object) -> object:
    if get_origin(kind) in _UNIONS:
        (kind,) = (part for part in get_args(kind) if part not in _NOTHING)
    return kind


def _notes(kind: object) -> list[msgspec.Meta]:
    return [note for note in getattr(kind, "__metadata__", ()) if isinstance(note, msgspec.Meta)]


def _example(kind: object, default: object) -> object:
    for note in _notes(kind):
        if note.examples:
            return note.examples[0]
    if kind is Secret:
        return {"env": "NAME"}
    if get_origin(kind) is Literal and default is None:
        return get_args(kind)[0]
    return Path("/etc/bluesminds/example.pem") if default is None else default


def _describe(kind: object) -> str:
    for note in _notes(kind):
        if note.description:
            return note.description
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if kind is Secret:
        return 'text, {env="NAME"}, {file="path"} or {cred="name"}'
    return {bool: "true or false", Path: "a path"}.get(kind, "text") if isinstance(kind, type) else "text"
