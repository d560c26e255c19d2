"""gateway.toml, the environment, systemd credentials and flags, made into frozen settings.

Precedence: flag, environment variable, credential, file, default. Nothing unknown is accepted and nothing
wrong is skipped: load() raises one ConfigError with every problem, each with its place and its fix. Every
value keeps the origin it came from, and secrets stay Secret from here on. This is the door.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from bluesminds.config.build import SettingsBuilder, Source
from bluesminds.config.checks import Finding, check
from bluesminds.config.environ import add_credentials, add_environment
from bluesminds.config.fields import toml_value
from bluesminds.config.file_permissions import exposed_secrets
from bluesminds.config.settings import (
    AccountSettings,
    KeySettings,
    LimitSettings,
    ListenSettings,
    LogSettings,
    MailSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    UpstreamSettings,
)
from bluesminds.config.sources import (
    Document,
    PendingSettings,
    RawValue,
    add_document,
    add_flags,
    read_document,
)
from bluesminds.config.values import DEFAULT, MASK, ConfigError, Origin, Problem, Secret

__all__ = [
    "MASK",
    "AccountSettings",
    "ConfigError",
    "KeySettings",
    "LimitSettings",
    "ListenSettings",
    "Loaded",
    "LogSettings",
    "MailSettings",
    "Origin",
    "Problem",
    "Secret",
    "ServerSettings",
    "Settings",
    "StorageSettings",
    "UpstreamSettings",
    "find_file",
    "load",
    "toml_value",
]

PLACES: Final = (Path("gateway.toml"), Path("/etc/bluesminds/gateway.toml"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings ready for use. `origins` is keyed like "server.port" and "servers.NAME.url"."""

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[Problem, ...]
    path: Path | None


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The file when no flag names one: $BLUESMINDS_CONFIG, else the first of PLACES that exists."""
    if named := environ.get("BLUESMINDS_CONFIG"):
        return Path(named)
    return next((path for path in PLACES if path.is_file()), None)


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Settings from all sources; `flags` is keyed like "server.port", None meaning not given.

    Raises ConfigError with all problems found.
    """
    document = read_document(path) if path else None
    draft = _gather(document, environ, flags)
    build = SettingsBuilder(draft, environ)
    settings = build.settings()
    warnings = [*exposed_secrets(draft, document), *draft.warnings]
    for finding in check(settings):
        if build.failed.isdisjoint(finding.about):
            problem = Problem(_place(finding, build.origins), finding.message, finding.help)
            (warnings if finding.warning else draft.problems).append(problem)
    if draft.problems:
        raise ConfigError(sorted(draft.problems, key=lambda problem: _line(problem, path)))
    return Loaded(settings, _named(build.origins, settings), tuple(warnings), path)


def _gather(
    document: Document | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> PendingSettings:
    draft = PendingSettings()
    draft.plain[""]["state_dir"] = _default_state_dir(environ)
    if document:
        add_document(draft, document)
    add_environment(draft, environ)
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        add_credentials(draft, Path(folder))
    add_flags(draft, flags)
    return draft


def _default_state_dir(environ: Mapping[str, str]) -> RawValue:
    """The first directory systemd made for the service, else the user's own."""
    first = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if first:
        return RawValue(first, Origin("environment", "STATE_DIRECTORY"))
    return RawValue(platformdirs.user_state_dir("bluesminds", appauthor=False), DEFAULT)


def _place(finding: Finding, origins: Mapping[Source, Origin]) -> str:
    """Where to put a finding right: the first setting it is about that somebody gave."""
    given = (origins[place] for place in finding.about if origins.get(place, DEFAULT) != DEFAULT)
    first = next(given, None)
    return first.place if first else ""


def _line(problem: Problem, path: Path | None) -> float:
    """Where a problem goes in the report: the file's in its order, then all others."""
    line = problem.where.removeprefix(f"{path}:")
    return int(line) if line.isdecimal() else math.inf


def _named(origins: Mapping[Source, Origin], settings: Settings) -> dict[str, Origin]:
    named = {}
    for place, origin in origins.items():
        match place:
            case (section, int(index), key):
                named[f"{section}.{settings.servers[index].name}.{key}"] = origin
            case _:
                named[".".join(map(str, place))] = origin
    return named
