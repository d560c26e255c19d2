"""config show, check and init. Secrets are masked."""

import json
import os
from collections.abc import Iterator
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from bluesminds.app import preflight
from bluesminds.cli import exits
from bluesminds.cli.failures import run
from bluesminds.cli.options import InvalidConfig, config_option, load_settings
from bluesminds.config import ConfigError, Loaded, Secret, Settings, toml_value
from bluesminds.config.fields import sections
from bluesminds.providers.vendors import from_environment
from storage import sqlite_path

STARTER: Final = """\
# BluesMinds. Test this file with: bluesminds check
# Every setting is explained in gateway.toml.example and docs/configure.md.

[server]
host = "127.0.0.1"        # "0.0.0.0" accepts connections from other machines
port = 3000
# public_url = "https://ai.example.com"
# tls_cert = "/etc/bluesminds/cert.pem"
# tls_key = "/etc/bluesminds/key.pem"

[limits]
time_zone = "UTC"         # defines the days and months of limits

[log]
level = "info"

# The built-in demo server with the model "demo/echo".
# [[servers]]
# name = "demo"
# dialect = "demo"

# A hosted vendor from `bluesminds vendors`. The key is read from the environment.
# [[servers]]
# name = "openai"
# vendor = "openai"
# api_key = {env="OPENAI_API_KEY"}

# A LiteLLM proxy; the key is read from a file.
# [[servers]]
# name = "litellm"
# dialect = "litellm"
# url = "http://127.0.0.1:4000"
# api_key = {file="litellm.key"}

# A model server on this machine. Its models are discovered.
# [[servers]]
# name = "ollama"
# url = "http://127.0.0.1:11434/v1"
"""


@click.group("config")
def config_group() -> None:
    """Show the configuration."""


@config_group.command()
@config_option
@click.option("--origin", is_flag=True, help="Show the source of each value.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(config: Path | None, origin: bool, as_json: bool) -> None:
    """Print the effective settings; secrets are masked."""
    loaded = load_settings(config)
    if as_json:
        click.echo(json.dumps(_origins_json(loaded) if origin else settings_json(loaded), indent=2))
    else:
        for line in _toml_lines(loaded, origin):
            click.echo(line)


@click.command()
@config_option
@click.option("--connect", is_flag=True, help="Also connect to the database and the servers.")
def check(config: Path | None, connect: bool) -> None:
    """Check the configuration without starting the gateway.

    Also checks the state directory, the location of the database and the listening address. With --connect,
    it connects to the database and the servers as well.
    """
    loaded = load_settings(config)
    if problems := list(preflight.static_checks(loaded)):
        raise InvalidConfig(ConfigError(problems))
    if connect and (silent := run(loaded, preflight.connectivity_checks, loaded)):
        raise InvalidConfig(ConfigError(silent), exits.UNAVAILABLE)
    click.echo(f"{loaded.path or 'no configuration file (defaults)'}: ok")
    click.echo(_summary(loaded.settings))


def _summary(settings: Settings) -> str:
    """What the configuration contains, in one line."""
    names = [server.name for server in settings.servers or from_environment(os.environ)]
    origin = "" if settings.servers else " from the environment"
    servers = exits.counted(len(names), "server") + (f"{origin} ({', '.join(names)})" if names else "")
    path = sqlite_path(settings.database_url.reveal())
    database = "PostgreSQL" if path is None else f"SQLite in {path}"
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    routes = len(settings.routes) + len(settings.routes_short)
    parts = [servers, *([exits.counted(routes, "route")] if routes else [])]
    parts += [exits.counted(len(settings.prices), "price"), database]
    return f"{', '.join(parts)}, listens on {host}:{settings.server.port}"


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="gateway.toml")
@click.option("--force", is_flag=True, help="Overwrite the file if it exists.")
def init(path: Path, force: bool) -> None:
    """Write a starter configuration, readable only by its owner.

    PATH is the file to write. Default: ./gateway.toml.
    """
    try:
        write_private(path, STARTER, force)
    except FileExistsError:
        remedy = "choose another path, or replace it with --force"
        raise exits.Failure(f"{path} exists already", exits.CONFLICT, remedy) from None
    except OSError as error:
        remedy = "choose a path in a writable directory"
        raise exits.Failure(f"{path} cannot be written: {error.strerror}", remedy=remedy) from None
    click.echo(f"wrote {path}")
    click.echo(f"next: bluesminds serve --config {path}", err=True)


def write_private(path: Path, text: str, force: bool) -> None:
    """Write a file with mode 0600. Raises FileExistsError without `force`, OSError."""
    target = path.with_name(f".{path.name}.{os.getpid()}.new") if force else path
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    if force:
        target.replace(path)


Section = tuple[str, str, msgspec.Struct]  # header, prefix in origins, values


def _sections(loaded: Loaded) -> Iterator[Section]:
    settings = loaded.settings
    yield "", "", settings
    for name in sections():
        yield f"[{name}]", f"{name}.", attrgetter(name)(settings)
    for server in settings.servers:
        yield "[[servers]]", f"servers.{server.name}.", server


def _values(section: msgspec.Struct) -> Iterator[tuple[str, object]]:
    """The settings of a section as printable values, without nested sections."""
    for name, value in msgspec.structs.asdict(section).items():
        if not isinstance(value, msgspec.Struct) and name != "servers":
            yield name, _plain(value)


def _plain(value: object) -> object:
    match value:
        case Path() | Secret():
            return str(value)
        case dict():
            return {name: _plain(one) for name, one in value.items()}
        case tuple():
            return [_plain(one) for one in value]
        case msgspec.Struct():
            return {
                name: _plain(one) for name, one in msgspec.structs.asdict(value).items() if one is not None
            }
    return value


def _toml_lines(loaded: Loaded, origin: bool) -> Iterator[str]:
    for header, prefix, section in _sections(loaded):
        if header:
            yield ""
            yield header
        for name, value in _values(section):
            line = f"# {name} =" if value is None else f"{name} = {toml_value(value)}"
            yield f"{line:<48} # {loaded.origins[prefix + name]}" if origin else line


def settings_json(loaded: Loaded) -> dict[str, object]:
    """All settings. Secrets are masked."""
    tree: dict[str, Any] = dict(_values(loaded.settings))
    servers = []
    for header, prefix, section in _sections(loaded):
        if header == "[[servers]]":
            servers.append(dict(_values(section)))
        elif header:
            *outer, last = prefix.rstrip(".").split(".")
            table = reduce(lambda inner, part: inner.setdefault(part, {}), outer, tree)
            table[last] = dict(_values(section))
    return {**tree, "servers": servers}


def _origins_json(loaded: Loaded) -> dict[str, object]:
    return {
        prefix + name: {"value": value, "origin": str(loaded.origins[prefix + name])}
        for _, prefix, section in _sections(loaded)
        for name, value in _values(section)
    }
