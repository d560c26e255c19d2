"""Builds settings from PendingSettings: reads secrets, converts values, collects every failure as a Problem.

A setting that fails keeps its default, so one run finds all problems. load() never returns settings that were
built with problems.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Literal, cast, get_args, get_origin

import msgspec

from bluesminds.config.fields import (
    SERVERS,
    FieldSpec,
    UnsuitableError,
    convert,
    display,
    fields_in,
    nearest,
    parse,
    parse_list,
    parse_table,
    resolve,
    sections,
    toml_value,
)
from bluesminds.config.findings import Source
from bluesminds.config.settings import Settings
from bluesminds.config.sources import PendingServer, PendingSettings, RawValue, Table, label, reference_of
from bluesminds.config.toml_locations import KeyPath
from bluesminds.config.values import DEFAULT, ConfigError, DeferredSecret, Problem, Secret, SettingOrigin

_SECRET_BYTES: Final = 65_536
# How other tools refer to a variable: ${NAME}, $NAME, os.environ/NAME, env:NAME, {{ ... }}.
_FOREIGN: Final = re.compile(
    r"\s*(?:\$\{([A-Z][A-Z0-9_]*)[^}]*\}|\$([A-Z][A-Z0-9_]*)|os\.environ/([A-Z][A-Z0-9_]*)|env[:/.]([A-Z][A-Z0-9_]*)"
    r"|\{\{.*\}\})\s*"
)


@dataclasses.dataclass(slots=True)
class SettingsBuilder:
    """Builds settings and records the origin of each and those that could not be converted.

    With `defer_secrets` referenced secrets ({env=...}, {file=...}, {cred=...}) are read when they are used.
    """

    pending: PendingSettings
    environ: Mapping[str, str]
    defer_secrets: bool = False
    origins: dict[Source, SettingOrigin] = dataclasses.field(default_factory=dict)
    locators: dict[Source, Callable[[KeyPath], SettingOrigin]] = dataclasses.field(default_factory=dict)
    failed: set[Source] = dataclasses.field(default_factory=set)

    def settings(self) -> Settings:
        tree: dict[str, object] = {"state_dir": Path()}
        tree |= self._values("", (), "", self.pending.plain[""])
        for name in sections():
            *outer, last = name.split(".")
            table = tree
            for part in outer:
                table = cast("dict[str, object]", table.setdefault(part, {}))
            table[last] = self._values(name, (name,), label(name), self.pending.plain[name])
        tree[SERVERS] = [self._server(index, server) for index, server in enumerate(self.pending.servers)]
        return msgspec.convert(tree, Settings)

    def origin(self, source: Source) -> SettingOrigin:
        """Of a setting, or of a part of the value of a setting at the top level."""
        if source in self.origins:
            return self.origins[source]
        whole = source[:1]
        locate = self.locators.get(whole)
        return self.origins.get(whole, DEFAULT) if locate is None else locate(source[1:])

    def _server(self, index: int, server: PendingServer) -> dict[str, object]:
        title = f"{label(SERVERS)} {display(server.name)}" if server.name else label(SERVERS)
        values = self._values(SERVERS, (SERVERS, index), title, server.table)
        if "name" not in server.table:
            self.failed.add((SERVERS, index, "name"))
            self.pending.add_problem(
                server.origin.location,
                "a server has no name",
                'add a line like name = "main" under [[servers]]',
            )
        return {"name": "unnamed", **values}

    def _values(self, section: str, path: Source, title: str, table: Table) -> dict[str, object]:
        values = {}
        for key, field in fields_in(section).items():
            source = (*path, key)
            given = table.get(key)
            self.origins[source] = _final_origin(given) if given else DEFAULT
            if given:
                if given.locate is not None:
                    self.locators[source] = given.locate
                name = f"{key} in {title}" if title else key
                try:
                    values[key] = self._value(field, given, name)
                except UnsuitableError as error:
                    if section not in ("", SERVERS):  # the name of a table in it
                        error.name = error.name.replace("[[", f"[[{section}.", 1)
                    self.failed.add(source)
                    self.pending.problems.append(_problem(name, field, given, error))
        return values

    def _value(self, field: FieldSpec, given: RawValue, name: str) -> object:
        if field.secret:
            if self.defer_secrets and reference_of(given.value):
                return DeferredSecret(partial(_read_deferred, name, field, given, self.environ))
            return Secret(_secret(given, self.environ))
        if field.secret_map:
            return self._secret_map(field, given, name)
        if field.secret_list:
            return self._secret_list(field, given, name)
        if field.item_secrets:
            return convert(field, self._with_secrets(field, given, name), given.base)
        if isinstance(given.value, str) and given.text:
            return parse(field, given.value, given.base)
        return convert(field, given.value, given.base)

    def _secret_map(self, field: FieldSpec, given: RawValue, name: str) -> dict[str, Secret]:
        """A table whose values are secrets. Raises UnsuitableError."""
        table = parse_table(given.value) if given.text and isinstance(given.value, str) else given.value
        if not isinstance(table, dict):
            raise UnsuitableError(f"must be {field.expected}, not {display(table)}")
        return {
            key: self._secret_part(field, given, key, value, f"{display(key)} in {name}")
            for key, value in table.items()
        }

    def _secret_list(self, field: FieldSpec, given: RawValue, name: str) -> tuple[Secret, ...]:
        """Raises UnsuitableError."""
        values = parse_list(given.value) if given.text and isinstance(given.value, str) else given.value
        if not isinstance(values, list):
            raise UnsuitableError(f"must be {field.expected}, not {display(values)}")
        return tuple(
            self._secret_part(field, given, at, value, f"key {at + 1} of {name}")
            for at, value in enumerate(values)
        )

    def _with_secrets(self, field: FieldSpec, given: RawValue, name: str) -> object:
        """An array of tables, with their secrets read. Raises UnsuitableError."""
        values = parse_list(given.value) if given.text and isinstance(given.value, str) else given.value
        if not isinstance(values, list):
            raise UnsuitableError(f"must be {field.expected}, not {display(values)}")
        found = []
        for at, table in enumerate(values):
            known = dict(table) if isinstance(table, dict) else table
            for key in field.item_secrets & (known.keys() if isinstance(known, dict) else set()):
                part = self._secret_part(field, given, key, known[key], f"{key} in table {at + 1} of {name}")
                known[key] = part
            found.append(known)
        return found

    def _secret_part(
        self, field: FieldSpec, given: RawValue, key: str | int, value: object, title: str
    ) -> Secret:
        """One secret of a table or list. Raises UnsuitableError."""
        one = dataclasses.replace(given, value=value, text=False, locate=None)
        if self.defer_secrets and reference_of(value):
            return DeferredSecret(partial(_read_deferred, title, field, one, self.environ))
        try:
            return Secret(_secret(one, self.environ))
        except UnsuitableError as error:
            raise UnsuitableError(str(error), error.remedy, title, (key,)) from None


def _read_deferred(name: str, field: FieldSpec, given: RawValue, environ: Mapping[str, str]) -> str:
    """Raises ConfigError."""
    try:
        return _secret(given, environ)
    except UnsuitableError as error:
        problem = _problem(name, field, given, error)
    raise ConfigError([problem])


def _problem(name: str, field: FieldSpec, given: RawValue, error: UnsuitableError) -> Problem:
    origin = given.locate(error.path) if given.locate and error.path else given.origin
    return Problem(origin.location, f"{error.name or name} {error}", error.remedy or _remedy(field, given))


def _final_origin(given: RawValue) -> SettingOrigin:
    reference = reference_of(given.value)
    if reference and given.origin.kind == "file":
        return dataclasses.replace(given.origin, via=" ".join(reference))
    return given.origin


def _remedy(field: FieldSpec, given: RawValue) -> str:
    """The help for a wrong value: an example of a valid one."""
    if given.origin.kind == "environment":
        example = field.example
        text = ",".join(map(str, example)) if isinstance(example, list) else str(example).lower()
        return f"for example {given.origin.where}={text}"
    choices = get_args(field.type) if get_origin(field.type) is Literal else ()
    if isinstance(given.value, str) and (close := nearest(given.value, choices)):
        return f'did you mean "{close}"?'
    if isinstance(given.value, dict) and not (field.secret or field.is_table):
        return "only secrets accept a reference; any setting can be set by an environment variable"
    example = field.example
    if isinstance(given.value, str) and not field.secret:
        with contextlib.suppress(UnsuitableError):
            example = parse(field, given.value, given.base)
    return f"write it like {field.name} = {toml_value(example)}"


def _secret(given: RawValue, environ: Mapping[str, str]) -> str:
    """The text of a secret. Raises UnsuitableError, whose message never contains the value."""
    if isinstance(given.value, str):
        text = given.value
        if foreign := _FOREIGN.fullmatch(text):
            variable = next(filter(None, foreign.groups()), "NAME")
            raise UnsuitableError(
                "is a reference that is not supported", f'write {{env="{variable}"}} without quotes around it'
            )
    elif reference := reference_of(given.value):
        text = _fetch(reference, given.base, environ)
    else:
        raise UnsuitableError('must be text, {env="NAME"}, {file="path"} or {cred="name"}')
    text = text.rstrip("\r\n")
    if not text:
        raise UnsuitableError("is empty", "remove the setting, or give it a value")
    if not text.isprintable():
        raise UnsuitableError("contains a line break or control character", "store only the secret there")
    return text


def _fetch(reference: tuple[str, str], base: Path, environ: Mapping[str, str]) -> str:
    kind, name = reference
    if kind == "env":
        if name not in environ:
            raise UnsuitableError(
                f"reads the environment variable {name}, which is not set",
                f"export {name}=..., or remove the setting",
            )
        return environ[name]
    if kind == "file":
        return _read(name, base, f"reads the file {name}")
    folder = environ.get("CREDENTIALS_DIRECTORY")
    unit_line = f"add LoadCredential={name}:/path/to/file to the systemd unit"
    if not folder:
        raise UnsuitableError(f"reads the credential {name}, but the service has no credentials", unit_line)
    return _read(name, Path(folder), f"reads the credential {name}", unit_line)


def _read(name: str, base: Path, what: str, remedy: str = "") -> str:
    try:
        with resolve(name, base).open("rb") as file:
            data = file.read(_SECRET_BYTES + 1)
        if len(data) <= _SECRET_BYTES:
            return data.decode()
        reason = "it is too large for a secret"
    except OSError as error:
        reason = str(error.strerror)
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except ValueError as error:
        reason = str(error)
    remedy = remedy or f"write only the secret to {base / name} and let the gateway read it"
    raise UnsuitableError(f"{what}, which cannot be used: {reason}", remedy)
