"""Reads settings from environment variables and systemd credentials.

Variables override credentials. A variable names a server by its upper-case name with every character except
letters and digits replaced by "_"; an unknown name adds a server. An unknown BLUESMINDS__ variable is an
error. An unknown credential is only a warning: a unit may have credentials for other programs.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from bluesminds.config.fields import SERVERS, fields_in, nearest, sections
from bluesminds.config.sources import PendingServer, PendingSettings, RawValue, Reader, Table, reference_of
from bluesminds.config.values import Problem, SettingOrigin

PREFIX: Final = "BLUESMINDS__"


def variable_of(*names: str) -> str:
    """The environment variable for a setting, or for a setting of a server: ("server", "port")."""
    return PREFIX + "__".join(re.sub("[^a-z0-9]", "_", name.lower()).upper() for name in names if name)


def add_environment(pending: PendingSettings, environ: Mapping[str, str]) -> None:
    """Add the BLUESMINDS__ variables. An empty variable counts as not set."""
    variables = {name: text for name, text in environ.items() if name.startswith(PREFIX) and text}
    if text := variables.pop(variable_of(SERVERS), ""):
        _replace_servers(pending, text)
    plain = _plain_variables()
    for name in sorted(variables):
        if name in plain:
            section, key, from_file = plain[name]
            _set(pending, pending.plain[section], name, key, variables, from_file)
        elif name.startswith(variable_of(SERVERS) + "__"):
            _add_server_variable(pending, name, variables)
        else:
            endings = [known.removeprefix(PREFIX) for known in plain]
            _refuse_variable(pending, name, PREFIX, name.removeprefix(PREFIX), endings)


@cache
def _plain_variables() -> Mapping[str, tuple[str, str, bool]]:
    """Every variable outside [[servers]]: its section, its key, and whether it names a file to read."""
    found = {}
    for section in ("", *sections()):
        for key, one in fields_in(section).items():
            variable = variable_of(*section.split("."), key)
            found[variable] = (section, key, False)
            if one.secret:
                found[variable + "_FILE"] = (section, key, True)
    return found


def _set(
    pending: PendingSettings, table: Table, name: str, key: str, variables: Mapping[str, str], from_file: bool
) -> None:
    origin = SettingOrigin("environment", name)
    if not from_file:
        table[key] = RawValue(variables[name], origin, text=True)
    elif name.removesuffix("_FILE") in variables:
        plain = name.removesuffix("_FILE")
        pending.add_problem(
            "environment", f"{plain} and {name} are both set", f"unset {plain}; a file is safer"
        )
    else:
        table[key] = RawValue({"file": variables[name]}, origin)


def _refuse_variable(
    pending: PendingSettings, name: str, start: str, ending: str, known: Iterable[str]
) -> None:
    """Report a variable whose ending is not in `known`."""
    plain = ending.removesuffix("_FILE")
    if plain != ending and plain in known:
        remedy = f"only secrets are read from files; set {start}{plain}"
    elif close := nearest(ending, known):
        remedy = f"did you mean {start}{close}?"
    else:
        remedy = f"unset it, or write {PREFIX}SECTION__SETTING"
    pending.add_problem("environment", f"unknown environment variable {name}", remedy)


def _add_server_variable(pending: PendingSettings, name: str, variables: Mapping[str, str]) -> None:
    server, _, setting = name.removeprefix(variable_of(SERVERS) + "__").rpartition("__")
    known = _server_variables()
    if not server or setting not in known:
        _refuse_variable(pending, name, f"{variable_of(SERVERS)}__{server or 'NAME'}__", setting, known)
        return
    same = [one for one in pending.servers if variable_of(one.name) == PREFIX + server]
    if len(same) > 1:
        remedy = "give the servers names that differ in letters or digits"
        pending.add_problem("environment", f"{name} matches several servers", remedy)
        return
    if not same:
        origin = SettingOrigin("environment", name)
        same = [PendingServer(origin, {"name": RawValue(server.lower(), origin)})]
        pending.servers += same
    key, from_file = known[setting]
    _set(pending, same[0].table, name, key, variables, from_file)


def _server_variables() -> dict[str, tuple[str, bool]]:
    found = {}
    for key, one in fields_in(SERVERS).items():
        if key != "name":
            found[key.upper()] = (key, False)
            if one.secret:
                found[key.upper() + "_FILE"] = (key, True)
    return found


def _replace_servers(pending: PendingSettings, text: str) -> None:
    """BLUESMINDS__SERVERS: a JSON array of objects that replaces all servers of the file."""
    name = variable_of(SERVERS)
    origin = SettingOrigin("environment", name)
    try:
        servers = msgspec.json.decode(text, type=list[dict[str, object]])
    except (msgspec.DecodeError, UnicodeEncodeError):
        remedy = f"""for example {name}='[{{"name": "main", "url": "http://127.0.0.1:4000/v1"}}]'"""
        pending.add_problem("environment", f"{name} must be a JSON array of objects", remedy)
        return
    reader = Reader(pending, lambda _: origin, Path())
    pending.servers = [reader.server(data, ()) for data in servers]


def add_credentials(pending: PendingSettings, folder: Path) -> None:
    """Add the secrets among systemd's credentials: SECTION.SETTING and servers.NAME.SETTING."""
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        remedy = "unset CREDENTIALS_DIRECTORY, or make it readable"
        pending.add_problem(str(folder), f"the credentials cannot be read: {error.strerror}", remedy)
        return
    tables = [(section, section, table) for section, table in pending.plain.items()]
    tables += [(SERVERS, f"{SERVERS}.{server.name}", server.table) for server in pending.servers]
    used = set[str]()
    for section, prefix, table in tables:
        used |= {name for kind, name in filter(None, map(_reference_in, table.values())) if kind == "cred"}
        names = {f"{prefix}.{key}": key for key, one in fields_in(section).items() if one.secret}
        for name in names.keys() & present:
            used.add(name)
            if names[name] not in table or table[names[name]].origin.kind != "environment":
                table[names[name]] = RawValue({"cred": name}, SettingOrigin("credential", name))
    _warn_of_unused(pending, present - used)


def _reference_in(given: RawValue) -> tuple[str, str] | None:
    return reference_of(given.value)


def _warn_of_unused(pending: PendingSettings, credentials: Iterable[str]) -> None:
    """Warn about credentials that look like settings but are not used."""
    for name in sorted(credentials):
        if name.partition(".")[0] in (*sections(), SERVERS):
            remedy = "name credentials SECTION.SETTING or servers.NAME.api_key"
            pending.warnings.append(
                Problem(f"credential {name}", f"the credential {name} is not used", remedy)
            )
