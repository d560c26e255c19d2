"""Loads settings from gateway.toml, the environment, systemd credentials and flags.

Precedence: flag, environment variable, credential, file, default. Unknown names and wrong values are errors:
load() raises one ConfigError with every problem, its location and a fix. Every value keeps its origin, and
secrets are Secret objects from here on. Other packages import from this module.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import platformdirs

from bluesminds.config.build import SettingsBuilder
from bluesminds.config.checks import check
from bluesminds.config.environ import add_credentials, add_environment
from bluesminds.config.fields import toml_value
from bluesminds.config.file_permissions import exposed_secrets
from bluesminds.config.findings import Finding, Source
from bluesminds.config.routes import configured_routes
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
    ConfigDocument,
    PendingSettings,
    RawValue,
    add_document,
    add_flags,
    read_document,
)
from bluesminds.config.values import DEFAULT, MASK, ConfigError, Problem, Secret, SettingOrigin

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
    "Problem",
    "Secret",
    "ServerSettings",
    "SettingOrigin",
    "Settings",
    "StorageSettings",
    "UpstreamSettings",
    "configured_routes",
    "find_file",
    "load",
    "toml_value",
]

DEFAULT_FILES: Final = (Path("gateway.toml"), Path("/etc/bluesminds/gateway.toml"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings ready for use. `origins` is keyed like "server.port" and "servers.NAME.url"."""

    settings: Settings
    origins: Mapping[str, SettingOrigin]
    warnings: tuple[Problem, ...]
    path: Path | None


def find_file(environ: Mapping[str, str]) -> Path | None:
    """The file when no flag names one: $BLUESMINDS_CONFIG, else the first of DEFAULT_FILES that exists."""
    if named := environ.get("BLUESMINDS_CONFIG"):
        return Path(named)
    return next((path for path in DEFAULT_FILES if path.is_file()), None)


def load(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    defer_secrets: bool = False,
) -> Loaded:
    """Settings from all sources; `flags` is keyed like "server.port", None meaning not given.

    With `defer_secrets` secrets in variables, files and credentials are read when they are used; until then
    they may be missing. Raises ConfigError with all problems found.
    """
    document = read_document(path) if path else None
    pending = _merge_sources(document, environ, flags)
    build = SettingsBuilder(pending, environ, defer_secrets)
    settings = build.settings()
    warnings = [*exposed_secrets(pending, document), *pending.warnings]
    for finding in check(settings):
        if build.failed.isdisjoint(finding.about):
            problem = Problem(_location(finding, build), finding.message, finding.help)
            (warnings if finding.warning else pending.problems).append(problem)
    if pending.problems:
        raise ConfigError(sorted(pending.problems, key=lambda problem: _line(problem, path)))
    return Loaded(settings, _named(build.origins, settings), tuple(warnings), path)


def _merge_sources(
    document: ConfigDocument | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> PendingSettings:
    pending = PendingSettings()
    pending.plain[""]["state_dir"] = _default_state_dir(environ)
    if document:
        add_document(pending, document)
    add_environment(pending, environ)
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        add_credentials(pending, Path(folder))
    add_flags(pending, flags)
    return pending


def _default_state_dir(environ: Mapping[str, str]) -> RawValue:
    """The first directory of systemd's StateDirectory=, else the user's own state directory."""
    first = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if first:
        return RawValue(first, SettingOrigin("environment", "STATE_DIRECTORY"))
    return RawValue(platformdirs.user_state_dir("bluesminds", appauthor=False), DEFAULT)


def _location(finding: Finding, build: SettingsBuilder) -> str:
    """The location of a finding: the first setting it is about that has a value from a source."""
    given = (origin for source in finding.about if (origin := build.origin(source)) != DEFAULT)
    first = next(given, None)
    return first.location if first else ""


def _line(problem: Problem, path: Path | None) -> float:
    """The sort key of a problem: problems of the file by line, then all others."""
    line = problem.where.removeprefix(f"{path}:")
    return int(line) if line.isdecimal() else math.inf


def _named(origins: Mapping[Source, SettingOrigin], settings: Settings) -> dict[str, SettingOrigin]:
    named = {}
    for source, origin in origins.items():
        match source:
            case (section, int(index), key):
                named[f"{section}.{settings.servers[index].name}.{key}"] = origin
            case _:
                named[".".join(map(str, source))] = origin
    return named
