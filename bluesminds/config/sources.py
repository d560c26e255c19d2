"""Collects raw values of settings, and reads the file and flags.

PendingSettings holds for every setting the value of the highest precedence so far, with its origin; sources
are added in ascending precedence. Unknown names are reported here; values are not checked.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bluesminds.config.fields import SERVERS, display, fields_in, nearest, sections
from bluesminds.config.toml_locations import KeyPath, index_lines, line_of
from bluesminds.config.values import ConfigError, Problem, SettingOrigin

_SYNTAX_LOCATION = re.compile(
    r"^(?P<what>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$"
)
_TABLE = re.compile(r"\((?:'[^']*'(?:, |,)?)+\)")  # as tomllib names it: ('server',)
_NAMES: Final = {
    "env": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "file": re.compile(r"[^\x00-\x1f\x7f]+"),
    "cred": re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_.@-]+"),
}


@dataclass(frozen=True, slots=True)
class RawValue:
    """An unchecked value. `text`: it must be parsed. `base`: the start of relative paths. `locate` gives the
    origin of a part of the value, by its path from the value.
    """

    value: object
    origin: SettingOrigin
    text: bool = False
    base: Path = Path()
    locate: Callable[[KeyPath], SettingOrigin] | None = None


Table = dict[str, RawValue]


@dataclass(frozen=True, slots=True)
class PendingServer:
    """One [[servers]] entry and its origin."""

    origin: SettingOrigin
    table: Table

    @property
    def name(self) -> str:
        """The name, or "" if it has none that is text."""
        given = self.table.get("name")
        return given.value if given and isinstance(given.value, str) else ""


@dataclass(slots=True)
class PendingSettings:
    """All raw values so far. `plain` is keyed by section; "" is the top level."""

    plain: dict[str, Table] = field(default_factory=lambda: {name: {} for name in ("", *sections())})
    servers: list[PendingServer] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def add_problem(self, where: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(where, message, remedy))


@dataclass(frozen=True, slots=True)
class ConfigDocument:
    """A parsed file. `shared`: every user of the machine can read it."""

    path: Path
    data: Mapping[str, object]
    lines: Mapping[KeyPath, int]
    shared: bool

    def origin(self, path: KeyPath) -> SettingOrigin:
        line = line_of(self.lines, path)
        return SettingOrigin("file", f"{self.path}:{line}" if line else str(self.path))


def label(section: str) -> str:
    """The header of a section in the file."""
    return "[[servers]]" if section == SERVERS else f"[{section}]"


def read_document(path: Path) -> ConfigDocument:
    """Read and parse a file. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            shared = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            text = file.read().decode("utf-8-sig")
        return ConfigDocument(path, tomllib.loads(text), index_lines(text), shared)
    except OSError as error:
        problem = Problem(
            str(path),
            f"the configuration cannot be read: {error.strerror}",
            "name another file with --config, or create one: bluesminds init",
        )
    except UnicodeDecodeError:
        problem = Problem(str(path), "the configuration is not UTF-8 text", "save the file as UTF-8")
    except RecursionError:
        problem = Problem(str(path), "the configuration is nested too deeply", "remove nested brackets")
    except ValueError as error:
        problem = _syntax_problem(path, str(error))
    raise ConfigError([problem])


def _as_header(found: re.Match[str]) -> str:
    return "[" + ".".join(re.findall("'([^']*)'", found[0])) + "]"


def _syntax_problem(path: Path, text: str) -> Problem:
    found = _SYNTAX_LOCATION.match(text)
    where = f"{path}:{found['line']}:{found['column']}" if found and found["line"] else str(path)
    what = _TABLE.sub(_as_header, found["what"] if found else text)
    return Problem(
        where, f"not valid TOML: {what}", "quote text, write tables as [NAME], and use each key once"
    )


def add_document(pending: PendingSettings, document: ConfigDocument) -> None:
    """Add the values of the file."""
    reader = Reader(pending, document.origin, document.path.parent)
    for key, value in document.data.items():
        if key in _tables() and isinstance(value, dict):
            reader.section(key, value)
        elif key == SERVERS and isinstance(value, list) and all(isinstance(one, dict) for one in value):
            pending.servers += [reader.server(one, (key, index)) for index, one in enumerate(value)]
        elif key in (*_tables(), SERVERS):
            kind = "a list of tables" if key == SERVERS else "one table"
            display_label = label(f"{key}.{_subtables(key)[0]}" if _subtables(key) else key)
            remedy = f"write the settings under {display_label}"
            pending.add_problem(document.origin((key,)).location, f"{key} must be {kind}", remedy)
        else:
            reader.add(pending.plain[""], "", key, value, ())


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads tables of known settings from nested data; unknown names become problems."""

    pending: PendingSettings
    origin: Callable[[KeyPath], SettingOrigin]
    base: Path

    def section(self, name: str, data: Mapping[str, object]) -> None:
        """Read a table of settings, or a table that contains only tables."""
        path = tuple(name.split("."))
        if not _subtables(name):
            self.pending.plain[name] = self.table(name, data, path)
            return
        for key, value in data.items():
            if key in _subtables(name) and isinstance(value, dict):
                self.section(f"{name}.{key}", value)
            else:
                message, remedy = _no_table(name, key)
                self.pending.add_problem(self.origin((*path, key)).location, message, remedy)

    def server(self, data: Mapping[str, object], path: KeyPath) -> PendingServer:
        return PendingServer(self.origin(path), self.table(SERVERS, data, path))

    def table(self, section: str, data: Mapping[str, object], path: KeyPath) -> Table:
        table: Table = {}
        for key, value in data.items():
            self.add(table, section, key, value, path)
        return table

    def add(self, table: Table, section: str, key: str, value: object, path: KeyPath) -> None:
        source = self.origin((*path, key))
        if key in fields_in(section):
            table[key] = RawValue(
                value, source, base=self.base, locate=lambda inner: self.origin((*path, key, *inner))
            )
        else:
            message = f"unknown key {display(key)}" + (f" in {label(section)}" if section else "")
            self.pending.add_problem(source.location, message, _suggest(section, key))


def _no_table(name: str, key: str) -> tuple[str, str]:
    """The error and the fix for a wrong key in a table that contains only tables."""
    known = _subtables(name)
    if key in known:
        remedy = f"write the settings under [{name}.{key}]"
        return f"{key} in [{name}] must be one table", remedy
    close = nearest(key, known)
    remedy = f'did you mean "{close}"?' if close else f"known names: {', '.join(known)}"
    return f"unknown key {display(key)} in [{name}]", remedy


def _tables() -> set[str]:
    """The top-level names that must be tables."""
    return {name.partition(".")[0] for name in sections()}


def _subtables(name: str) -> list[str]:
    """The names of the tables in a table that contains only tables."""
    return [section.removeprefix(f"{name}.") for section in sections() if section.startswith(f"{name}.")]


def _suggest(section: str, key: str) -> str:
    """The fix for an unknown key: a similar name, its right section, or the list of known names."""
    known = [*fields_in(section), *(() if section else (*sections(), SERVERS))]
    names = reversed((*sections(), SERVERS))  # of several, the first
    elsewhere = {known: label(name) for name in names for known in fields_in(name)}
    here = nearest(key, known)
    there = None if here and nearest(key, (here,), likeness=0.75) else nearest(key, elsewhere, likeness=0.75)
    if there:
        return f'did you mean "{there}" in {elsewhere[there]}?'
    if here:
        return f'did you mean "{here}"?'
    return f"known names: {', '.join(known)}"


def reference_of(value: object) -> tuple[str, str] | None:
    """The kind and name of {env="NAME"}, {file="path"} or {cred="name"}; None for any other value.

    An invalid name gives None too, because it may be the secret itself.
    """
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if isinstance(name, str) and kind in _NAMES and _NAMES[kind].fullmatch(name):
            return kind, name
    return None


def add_flags(pending: PendingSettings, flags: Mapping[str, object]) -> None:
    """Add command-line flags, named "section.setting"; None means not given. Raises KeyError."""
    for name, value in flags.items():
        section, _, key = name.rpartition(".")
        if value is not None:
            if key not in fields_in(section):
                raise KeyError(name)
            pending.plain[section][key] = RawValue(value, SettingOrigin("flag"))
