"""servers add, set, list, test, remove."""

import re
import sys
from pathlib import Path
from typing import Any, Final

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option

_NAME: Final = re.compile(r"[a-z0-9_-][a-z0-9_.-]{0,63}")


@click.group("servers")
def servers_group() -> None:
    """Manage upstream servers."""


@servers_group.command()
@click.argument("name")
@click.option("--url", required=True, help="Base URL, e.g. https://api.openai.com/v1.")
@click.option(
    "--dialect",
    type=click.Choice(["openai", "litellm", "anthropic", "gemini"]),
    default="openai",
    show_default=True,
    help="API dialect of the server.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model of the server. Repeatable. Default: the gateway asks the server.",
)
@click.option(
    "--weight",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Share of requests relative to other servers.",
)
@click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    default=0,
    show_default=True,
    help="Servers with a lower number are used first.",
)
@click.option("--api-key-stdin", is_flag=True, help="Read the API key of the server from standard input.")
@config_option
@json_option
def add(
    name: str,
    url: str,
    dialect: str,
    models: tuple[str, ...],
    weight: int,
    priority: int,
    api_key_stdin: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Add a server to the database.

    The API key is read from standard input, because other users can see command lines.
    """
    api_key = _read_key() if api_key_stdin else None
    body = {
        "name": name,
        "url": url,
        "dialect": dialect,
        "models": models,
        "weight": weight,
        "priority": priority,
    }
    added = call(config, "POST", "/servers", body | {"api_key": api_key})
    if as_json:
        echo_json(added)
    else:
        click.echo(f"added {name}")


@servers_group.command("set")
@click.argument("name")
@click.option("--url", help="Base URL.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="A model of the server. Repeatable. `any`: the gateway asks the server.",
)
@click.option("--weight", type=click.IntRange(1, 10_000), help="Share of requests relative to other servers.")
@click.option(
    "--priority", type=click.IntRange(-1000, 1000), help="Servers with a lower number are used first."
)
@click.option("--api-key-stdin", is_flag=True, help="Read a new API key from standard input.")
@config_option
@json_option
def set_(
    name: str,
    models: tuple[str, ...],
    api_key_stdin: bool,
    config: Path | None,
    as_json: bool,
    **given: str | int | None,
) -> None:
    """Change a server of the database. Only the given options change."""
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if models:
        body["models"] = [] if models == ("any",) else list(models)
    if api_key_stdin:
        body["api_key"] = _read_key()
    if not body:
        raise exits.Failure("no option was given", exits.USAGE, "bluesminds servers set --help")
    changed = call(config, "PATCH", f"/servers/{_checked(name)}", body)
    if as_json:
        echo_json(changed)
    else:
        click.echo(f"changed {name}")


def _read_key() -> str:
    key = sys.stdin.readline().strip()
    if not key:
        remedy = "for example: bluesminds servers add NAME --url URL --api-key-stdin < FILE"
        raise exits.Failure("standard input contains no key", exits.USAGE, remedy)
    return key


@servers_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List all servers, including those of the configuration."""
    columns = (
        *("name", "state", "model_count", "dialect", "url", "has_api_key", "models", "weight", "priority"),
        *("origin", "last_error"),
    )
    show(call(config, "GET", "/servers"), as_json=as_json, columns=columns)


@servers_group.command()
@click.argument("name")
@config_option
@json_option
def test(name: str, config: Path | None, as_json: bool) -> None:
    """Test a server by listing its models.

    This costs nothing. The exit code is 0 if the server works.
    """
    found = call(config, "POST", f"/servers/{_checked(name)}/test")
    if as_json:
        echo_json(found)
    elif found["ok"]:
        click.echo(
            f"{name}: ok, {exits.counted(len(found['models'] or []), 'model')}, {found['latency_ms']} ms"
        )
    if not found["ok"]:
        raise exits.Failure(f"{name}: {found['problem']}", exits.UNAVAILABLE, "check its url and api_key")


@servers_group.command()
@click.argument("name")
@config_option
@json_option
def remove(name: str, config: Path | None, as_json: bool) -> None:
    """Remove a server from the database."""
    call(config, "DELETE", f"/servers/{_checked(name)}")
    if as_json:
        echo_json({"name": name, "removed": True})
    else:
        click.echo(f"removed {name}")


def _checked(name: str) -> str:
    """Check a name before it becomes part of a path. Raises exits.Failure."""
    if not _NAME.fullmatch(name):
        raise exits.Failure(f"{name!r} is not a server name", exits.USAGE, "bluesminds servers list")
    return name
