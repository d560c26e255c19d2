"""What the environment and systemd credentials say.

Variables beat credentials. The environment addresses a server by its name, in capitals, with everything but
letters and digits turned into "_"; a name that the file does not have makes a new server. A variable of ours
that is no setting is refused; such a credential is only pointed out, for a unit may have others.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from bluesminds.config.fields import SERVERS, fields_in, nearest, sections
from bluesminds.config.sources import PendingServer, PendingSettings, RawValue, Reader, Table, reference_of
from bluesminds.config.values import Origin, Problem

PREFIX: Final = "BLUESMINDS__"


def variable_of(*names: str) -> str:
    """The environment variable for a setting, or for a setting of a server: ("server", "port")."""
    return PREFIX + "__".join(re.sub("[^a-z0-9]", "_", name.lower()).upper() for name in names if name)


def add_environment(draft: PendingSettings, environ: Mapping[str, str]) -> None:
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
            variable = variable_of(*section.split("."), key)
            found[variable] = (section, key, False)
            if one.secret:
                found[variable + "_FILE"] = (section, key, True)
    return found


def _set(
    draft: PendingSettings, table: Table, name: str, key: str, mine: Mapping[str, str], from_file: bool
) -> None:
    origin = Origin("environment", name)
    if not from_file:
        table[key] = RawValue(mine[name], origin, text=True)
    elif name.removesuffix("_FILE") in mine:
        plain = name.removesuffix("_FILE")
        draft.refuse("environment", f"{plain} and {name} are both set", f"unset {plain}: a file is safer")
    else:
        table[key] = RawValue({"file": mine[name]}, origin)


def _refuse_variable(
    draft: PendingSettings, name: str, start: str, ending: str, known: Iterable[str]
) -> None:
    """A variable whose ending is none of those known after `start`."""
    plain = ending.removesuffix("_FILE")
    if plain != ending and plain in known:
        remedy = f"only secrets are read from files; set {start}{plain}"
    elif close := nearest(ending, known):
        remedy = f"did you mean {start}{close}?"
    else:
        remedy = f"unset it, or write {PREFIX}SECTION__SETTING"
    draft.refuse("environment", f"unknown environment variable {name}", remedy)


def _add_server_variable(draft: PendingSettings, name: str, mine: Mapping[str, str]) -> None:
    server, _, setting = name.removeprefix(variable_of(SERVERS) + "__").rpartition("__")
    known = _server_variables()
    if not server or setting not in known:
        _refuse_variable(draft, name, f"{variable_of(SERVERS)}__{server or 'NAME'}__", setting, known)
        return
    same = [one for one in draft.servers if variable_of(one.name) == PREFIX + server]
    if len(same) > 1:
        remedy = "give the servers names that differ in more than punctuation"
        draft.refuse("environment", f"{name} could mean several servers", remedy)
        return
    if not same:
        origin = Origin("environment", name)
        same = [PendingServer(origin, {"name": RawValue(server.lower(), origin)})]
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


def _replace_servers(draft: PendingSettings, text: str) -> None:
    """BLUESMINDS__SERVERS: a JSON array of objects in place of all the file's servers."""
    name = variable_of(SERVERS)
    origin = Origin("environment", name)
    try:
        servers = msgspec.json.decode(text, type=list[dict[str, object]])
    except (msgspec.DecodeError, UnicodeEncodeError):
        remedy = f"""for example {name}='[{{"name": "main", "url": "http://127.0.0.1:4000/v1"}}]'"""
        draft.refuse("environment", f"{name} must be a JSON array of objects", remedy)
        return
    reader = Reader(draft, lambda _: origin, Path())
    draft.servers = [reader.server(data, ()) for data in servers]


def add_credentials(draft: PendingSettings, folder: Path) -> None:
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
                table[names[name]] = RawValue({"cred": name}, Origin("credential", name))
    _warn_of_unused(draft, present - used)


def _reference_in(given: RawValue) -> tuple[str, str] | None:
    return reference_of(given.value)


def _warn_of_unused(draft: PendingSettings, credentials: Iterable[str]) -> None:
    """Credentials that are named as if they were settings, but are none."""
    for name in sorted(credentials):
        if name.partition(".")[0] in (*sections(), SERVERS):
            remedy = "secrets are called SECTION.SETTING or servers.NAME.api_key"
            draft.warnings.append(Problem(f"credential {name}", f"the credential {name} is not used", remedy))
