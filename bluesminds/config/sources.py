"""What was given for each setting before it is understood, and the reading of the file and of flags.

A Draft holds the strongest value given so far for every setting, with its origin; sources are added to it
from the weakest to the strongest. Names that belong to no setting are refused here; values are not looked at.
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bluesminds.config.fields import SERVERS, fields_in, nearest, sections, shown
from bluesminds.config.toml_locations import KeyPath, index_lines, line_of
from bluesminds.config.values import ConfigError, Origin, Problem

_SYNTAX_PLACE = re.compile(
    r"^(?P<what>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$"
)
_NAMES: Final = {
    "env": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "file": re.compile(r"[^\x00-\x1f\x7f]+"),
    "cred": re.compile(r"(?!\.\.?\Z)[A-Za-z0-9_.@-]+"),
}


@dataclass(frozen=True, slots=True)
class RawValue:
    """A value somebody gave: `text` when it must still be parsed, `base` where its relative paths start."""

    value: object
    origin: Origin
    text: bool = False
    base: Path = Path()


Table = dict[str, RawValue]


@dataclass(frozen=True, slots=True)
class PendingServer:
    """One of [[servers]] and who brought it up."""

    origin: Origin
    table: Table

    @property
    def name(self) -> str:
        """The name it was given, or "" when there is none that could be one."""
        given = self.table.get("name")
        return given.value if given and isinstance(given.value, str) else ""


@dataclass(slots=True)
class PendingSettings:
    """Everything given so far. `plain` is keyed by section, "" being the top of the file."""

    plain: dict[str, Table] = field(default_factory=lambda: {name: {} for name in ("", *sections())})
    servers: list[PendingServer] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, where: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(where, message, remedy))


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. `shared` says that everybody on the machine may read it."""

    path: Path
    data: Mapping[str, object]
    lines: Mapping[KeyPath, int]
    shared: bool

    def origin(self, path: KeyPath) -> Origin:
        line = line_of(self.lines, path)
        return Origin("file", f"{self.path}:{line}" if line else str(self.path))


def label(section: str) -> str:
    """A section as it is written in the file."""
    return "[[servers]]" if section == SERVERS else f"[{section}]"


def read_document(path: Path) -> Document:
    """Read and parse a file. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            shared = bool(os.fstat(file.fileno()).st_mode & stat.S_IROTH)
            text = file.read().decode("utf-8-sig")
        return Document(path, tomllib.loads(text), index_lines(text), shared)
    except OSError as error:
        problem = Problem(
            str(path),
            f"the configuration cannot be read: {error.strerror}",
            "name another file with --config, or write one with: bluesminds init",
        )
    except UnicodeDecodeError:
        problem = Problem(str(path), "the configuration is not UTF-8 text", "save the file as UTF-8")
    except RecursionError:
        problem = Problem(str(path), "the configuration is nested too deeply", "remove the nested brackets")
    except ValueError as error:
        problem = _syntax_problem(path, str(error))
    raise ConfigError([problem])


def _syntax_problem(path: Path, text: str) -> Problem:
    found = _SYNTAX_PLACE.match(text)
    where = f"{path}:{found['line']}:{found['column']}" if found and found["line"] else str(path)
    what = found["what"] if found else text
    return Problem(
        where, f"not valid TOML: {what}", "text needs quotes, a table needs [brackets], a key appears once"
    )


def add_document(draft: PendingSettings, document: Document) -> None:
    """Take over what the file says."""
    reader = Reader(draft, document.origin, document.path.parent)
    for key, value in document.data.items():
        if key in _tables() and isinstance(value, dict):
            reader.section(key, value)
        elif key == SERVERS and isinstance(value, list) and all(isinstance(one, dict) for one in value):
            draft.servers += [reader.server(one, (key, index)) for index, one in enumerate(value)]
        elif key in (*_tables(), SERVERS):
            kind = "a list of tables" if key == SERVERS else "one table"
            shown_label = label(f"{key}.{_inner(key)[0]}" if _inner(key) else key)
            remedy = f"put the settings under a line that says {shown_label}"
            draft.refuse(document.origin((key,)).place, f"{key} must be {kind}", remedy)
        else:
            reader.add(draft.plain[""], "", key, value, ())


@dataclass(frozen=True, slots=True)
class Reader:
    """Tables of known settings from nested data; whatever is unknown becomes a problem of the draft."""

    draft: PendingSettings
    origin: Callable[[KeyPath], Origin]
    base: Path

    def section(self, name: str, data: Mapping[str, object]) -> None:
        """A table of settings, or one of nothing but tables."""
        path = tuple(name.split("."))
        if not _inner(name):
            self.draft.plain[name] = self.table(name, data, path)
            return
        for key, value in data.items():
            if key in _inner(name) and isinstance(value, dict):
                self.section(f"{name}.{key}", value)
            else:
                message, remedy = _no_table(name, key)
                self.draft.refuse(self.origin((*path, key)).place, message, remedy)

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
            table[key] = RawValue(value, source, base=self.base)
        else:
            message = f"unknown key {shown(key)}" + (f" in {label(section)}" if section else "")
            self.draft.refuse(source.place, message, _meant(section, key))


def _no_table(name: str, key: str) -> tuple[str, str]:
    """What is wrong with a key of a table that holds tables, and the fix."""
    known = _inner(name)
    if key in known:
        remedy = f"put the settings under a line that says [{name}.{key}]"
        return f"{key} in [{name}] must be one table", remedy
    close = nearest(key, known)
    remedy = f'did you mean "{close}"?' if close else f"known here: {', '.join(known)}"
    return f"unknown key {shown(key)} in [{name}]", remedy


def _tables() -> set[str]:
    """The names that a file may have tables by."""
    return {name.partition(".")[0] for name in sections()}


def _inner(name: str) -> list[str]:
    """The tables within a table that holds nothing else."""
    return [section.removeprefix(f"{name}.") for section in sections() if section.startswith(f"{name}.")]


def _meant(section: str, key: str) -> str:
    """The fix for an unknown key: the like of it, else its right section, else all that is known here."""
    known = [*fields_in(section), *(() if section else (*sections(), SERVERS))]
    if close := nearest(key, known):
        return f'did you mean "{close}"?'
    places = reversed((*sections(), SERVERS))  # of several, the first
    elsewhere = {known: label(name) for name in places for known in fields_in(name)}
    if close := nearest(key, elsewhere, likeness=0.75):
        return f'did you mean "{close}" in {elsewhere[close]}?'
    return f"known here: {', '.join(known)}"


def reference_of(value: object) -> tuple[str, str] | None:
    """What {env="NAME"}, {file="path"} or {cred="name"} refers to; None for anything else.

    A name that no variable or credential can have is refused here, since it may be the secret itself.
    """
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if isinstance(name, str) and kind in _NAMES and _NAMES[kind].fullmatch(name):
            return kind, name
    return None


def add_flags(draft: PendingSettings, flags: Mapping[str, object]) -> None:
    """Take over command line flags, called "section.setting"; None is a flag that was not given."""
    for name, value in flags.items():
        section, _, key = name.rpartition(".")
        if value is not None:
            if key not in fields_in(section):
                raise KeyError(name)
            draft.plain[section][key] = RawValue(value, Origin("flag"))
