"""What the file, the environment, systemd credentials and flags say, gathered before it is understood.

A Draft holds the strongest value given so far for every setting, with its origin: flags beat variables,
variables beat credentials, credentials beat the file. Names that belong to no setting are refused here;
values are not looked at. The environment addresses a server by its name, in capitals, with everything but
letters and digits turned into "_"; a name that the file does not have makes a new server.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from bluesminds.config_fields import SERVERS, fields_in, nearest, sections
from bluesminds.config_lines import KeyPath, index_lines, line_of
from bluesminds.config_values import ConfigError, Origin, Problem

PREFIX: Final = "BLUESMINDS__"
_SYNTAX_PLACE = re.compile(
    r"^(?P<what>.*?) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$"
)
_OTHERS_MAY_READ = 0o044


@dataclass(frozen=True, slots=True)
class Given:
    """A value somebody gave: `text` when it must still be parsed, `base` where its relative paths start."""

    value: object
    origin: Origin
    text: bool = False
    base: Path = Path()


Table = dict[str, Given]


@dataclass(frozen=True, slots=True)
class ServerDraft:
    """One of [[servers]] and who brought it up."""

    origin: Origin
    table: Table

    @property
    def name(self) -> str:
        """The name it was given, or "" when there is none that could be one."""
        given = self.table.get("name")
        return given.value if given and isinstance(given.value, str) else ""


@dataclass(slots=True)
class Draft:
    """Everything given so far. `plain` is keyed by section, "" being the top of the file."""

    plain: dict[str, Table] = field(default_factory=lambda: {name: {} for name in ("", *sections())})
    servers: list[ServerDraft] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, where: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(where, message, remedy))


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file. `shared` says that users other than its owner may read it."""

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


def variable_of(*names: str) -> str:
    """The environment variable for a setting, or for a setting of a server: ("server", "port")."""
    return PREFIX + "__".join(re.sub("[^a-z0-9]", "_", name.lower()).upper() for name in names if name)


def read_document(path: Path) -> Document:
    """Read and parse a file. Raises ConfigError when it cannot be read or is not TOML."""
    try:
        with path.open("rb") as file:
            shared = bool(path.stat().st_mode & _OTHERS_MAY_READ)
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


def add_document(draft: Draft, document: Document) -> None:
    """Take over what the file says."""
    reader = _Reader(draft, document.origin, document.path.parent)
    for key, value in document.data.items():
        if key in sections() and isinstance(value, dict):
            draft.plain[key] = reader.table(key, value, (key,))
        elif key == SERVERS and isinstance(value, list) and all(isinstance(one, dict) for one in value):
            draft.servers += [reader.server(one, (key, index)) for index, one in enumerate(value)]
        elif key in (*sections(), SERVERS):
            kind = "a list of tables" if key == SERVERS else "one table"
            remedy = f"put the settings under a line that says {label(key)}"
            draft.refuse(document.origin((key,)).place, f"{key} must be {kind}", remedy)
        else:
            reader.add(draft.plain[""], "", key, value, ())


@dataclass(frozen=True, slots=True)
class _Reader:
    """Tables of known settings from nested data; whatever is unknown becomes a problem of the draft."""

    draft: Draft
    origin: Callable[[KeyPath], Origin]
    base: Path

    def server(self, data: Mapping[str, object], path: KeyPath) -> ServerDraft:
        return ServerDraft(self.origin(path), self.table(SERVERS, data, path))

    def table(self, section: str, data: Mapping[str, object], path: KeyPath) -> Table:
        table: Table = {}
        for key, value in data.items():
            self.add(table, section, key, value, path)
        return table

    def add(self, table: Table, section: str, key: str, value: object, path: KeyPath) -> None:
        source = self.origin((*path, key))
        if key in fields_in(section):
            table[key] = Given(value, source, base=self.base)
        else:
            message = f'unknown key "{key}"' + (f" in {label(section)}" if section else "")
            self.draft.refuse(source.place, message, _meant(section, key))


def _meant(section: str, key: str) -> str:
    """The fix for an unknown key: the like of it, else its right section, else all that is known here."""
    known = [*fields_in(section), *(() if section else (*sections(), SERVERS))]
    if close := nearest(key, known):
        return f'did you mean "{close}"?'
    elsewhere = {known: label(name) for name in (*sections(), SERVERS) for known in fields_in(name)}
    if close := nearest(key, elsewhere, likeness=0.75):
        return f'did you mean "{close}" in {elsewhere[close]}?'
    return f"known here: {', '.join(known)}"


def add_environment(draft: Draft, environ: Mapping[str, str]) -> None:
    """Take over the BLUESMINDS__ variables; an empty one counts as not set."""
    mine = {name: text for name, text in environ.items() if name.startswith(PREFIX) and text}
    if text := mine.pop(variable_of(SERVERS), ""):
        _replace_servers(draft, text)
    plain = _plain_variables()
    for name in sorted(mine):
        if name in plain:
            section, key, from_file = plain[name]
            _set(draft, draft.plain[section], name, key, mine, from_file)
        elif name.startswith(variable_of(SERVERS) + "__"):
            _add_server_variable(draft, name, mine)
        else:
            endings = [known.removeprefix(PREFIX) for known in plain]
            _refuse_variable(draft, name, PREFIX, name.removeprefix(PREFIX), endings)


def _plain_variables() -> dict[str, tuple[str, str, bool]]:
    """Every variable outside [[servers]]: its section, its key, and whether it names a file to read."""
    found = {}
    for section in ("", *sections()):
        for key, one in fields_in(section).items():
            found[variable_of(section, key)] = (section, key, False)
            if one.secret:
                found[variable_of(section, key) + "_FILE"] = (section, key, True)
    return found


def _set(draft: Draft, table: Table, name: str, key: str, mine: Mapping[str, str], from_file: bool) -> None:
    origin = Origin("environment", name)
    if not from_file:
        table[key] = Given(mine[name], origin, text=True)
    elif name.removesuffix("_FILE") in mine:
        plain = name.removesuffix("_FILE")
        draft.refuse(origin.place, f"{plain} and {name} are both set", f"unset {plain}: a file is safer")
    else:
        table[key] = Given({"file": mine[name]}, origin)


def _refuse_variable(draft: Draft, name: str, start: str, ending: str, known: Iterable[str]) -> None:
    """A variable whose ending is none of those known after `start`."""
    plain = ending.removesuffix("_FILE")
    if plain != ending and plain in known:
        remedy = f"only secrets are read from files; set {start}{plain}"
    elif close := nearest(ending, known):
        remedy = f"did you mean {start}{close}?"
    else:
        remedy = f"unset it, or write {PREFIX}SECTION__SETTING"
    draft.refuse(f"env {name}", f"unknown environment variable {name}", remedy)


def _add_server_variable(draft: Draft, name: str, mine: Mapping[str, str]) -> None:
    server, _, setting = name.removeprefix(variable_of(SERVERS) + "__").rpartition("__")
    known = _server_variables()
    if not server or setting not in known:
        _refuse_variable(draft, name, f"{variable_of(SERVERS)}__{server or 'NAME'}__", setting, known)
        return
    same = [one for one in draft.servers if variable_of(one.name) == PREFIX + server]
    if len(same) > 1:
        remedy = "give the servers names that differ in more than punctuation"
        draft.refuse(f"env {name}", f"{name} could mean several servers", remedy)
        return
    if not same:
        origin = Origin("environment", name)
        same = [ServerDraft(origin, {"name": Given(server.lower(), origin)})]
        draft.servers += same
    key, from_file = known[setting]
    _set(draft, same[0].table, name, key, mine, from_file)


def _server_variables() -> dict[str, tuple[str, bool]]:
    found = {}
    for key, one in fields_in(SERVERS).items():
        if key != "name":
            found[key.upper()] = (key, False)
            if one.secret:
                found[key.upper() + "_FILE"] = (key, True)
    return found


def _replace_servers(draft: Draft, text: str) -> None:
    """BLUESMINDS__SERVERS: a JSON array of objects in place of all the file's servers."""
    name = variable_of(SERVERS)
    origin = Origin("environment", name)
    try:
        servers = msgspec.json.decode(text, type=list[dict[str, object]])
    except (msgspec.DecodeError, UnicodeEncodeError):
        remedy = f"""for example {name}='[{{"name": "main", "url": "http://127.0.0.1:4000/v1"}}]'"""
        draft.refuse(origin.place, f"{name} must be a JSON array of objects", remedy)
        return
    reader = _Reader(draft, lambda _: origin, Path())
    draft.servers = [reader.server(data, ()) for data in servers]


def reference_of(value: object) -> tuple[str, str] | None:
    """What {env="NAME"}, {file="path"} or {cred="name"} refers to; None for anything else."""
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if kind in ("env", "file", "cred") and isinstance(name, str) and name and "\0" not in name:
            return kind, name
    return None


def add_credentials(draft: Draft, folder: Path) -> None:
    """Take over the secrets among systemd's credentials: SECTION.SETTING and servers.NAME.SETTING."""
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        remedy = "unset CREDENTIALS_DIRECTORY, or let the gateway read it"
        draft.refuse(str(folder), f"the credentials cannot be read: {error.strerror}", remedy)
        return
    tables = [(section, section, table) for section, table in draft.plain.items()]
    tables += [(SERVERS, f"{SERVERS}.{server.name}", server.table) for server in draft.servers]
    used = set[str]()
    for section, prefix, table in tables:
        used |= {name for kind, name in filter(None, map(_reference_in, table.values())) if kind == "cred"}
        names = {f"{prefix}.{key}": key for key, one in fields_in(section).items() if one.secret}
        for name in names.keys() & present:
            used.add(name)
            if names[name] not in table or table[names[name]].origin.kind != "environment":
                table[names[name]] = Given({"cred": name}, Origin("credential", name))
    _warn_of_unused(draft, present - used)


def _reference_in(given: Given) -> tuple[str, str] | None:
    return reference_of(given.value)


def _warn_of_unused(draft: Draft, credentials: Iterable[str]) -> None:
    """Credentials that are named as if they were settings, but are none."""
    for name in sorted(credentials):
        if name.partition(".")[0] in (*sections(), SERVERS):
            remedy = "secrets are called SECTION.SETTING or servers.NAME.api_key"
            draft.warnings.append(Problem(f"credential {name}", f"the credential {name} is not used", remedy))


def add_flags(draft: Draft, flags: Mapping[str, object]) -> None:
    """Take over command line flags, called "section.setting"; None is a flag that was not given."""
    for name, value in flags.items():
        section, _, key = name.rpartition(".")
        if value is not None:
            if key not in fields_in(section):
                raise KeyError(name)
            draft.plain[section][key] = Given(value, Origin("flag"))
