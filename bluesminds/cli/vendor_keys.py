"""vendor-keys add, list, set, test, remove."""

import sys
from pathlib import Path
from typing import Any, Final, get_args

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.servers import read_key
from bluesminds.cli.users import find_user
from bluesminds.common.values import OwnKeyMode
from bluesminds.config.fields import nearest
from bluesminds.providers.own_keys import OWN_KEY_VENDORS

_COLUMNS: Final = ("vendor", "last4", "mode", "model_count", "models", "server", "tested_at", "problem", "id")
_MODE_HELP: Final = "first: before the gateway's servers; only: instead of them."


@click.group("vendor-keys")
def vendor_keys_group() -> None:
    """Manage the keys of users for vendors. USER is an e-mail address or an id.

    Requests of a user for the models of a vendor use the user's own key, and cost nothing here.
    """


@vendor_keys_group.command()
@click.argument("user")
@click.argument("vendor")
@click.option(
    "--mode", type=click.Choice(get_args(OwnKeyMode)), default="first", show_default=True, help=_MODE_HELP
)
@click.option(
    "--model", "models", multiple=True, help="A model. Repeatable. Default: all models of the vendor."
)
@config_option
@json_option
def add(
    user: str, vendor: str, mode: str, models: tuple[str, ...], config: Path | None, as_json: bool
) -> None:
    """Test a key for VENDOR and store it for a user. The key is read from standard input.

    The vendor may charge for the test: a completion of at most 16 tokens.
    """
    body = {"vendor": _checked_vendor(vendor), "mode": mode, "models": list(models)}
    body["api_key"] = _read_key(vendor)
    added = call(config, "POST", _path(config, user), body)
    if as_json:
        echo_json(added)
        return
    click.echo(f"stored the key for {vendor} of {user}, for {added['model_count']} models")
    _warn(added)


@vendor_keys_group.command("list")
@click.argument("user")
@config_option
@json_option
def list_(user: str, config: Path | None, as_json: bool) -> None:
    """List the keys of a user. Only the last four characters of each key are shown."""
    show(call(config, "GET", _path(config, user)), as_json=as_json, columns=_COLUMNS)


@vendor_keys_group.command("set")
@click.argument("user")
@click.argument("vendor")
@click.option("--mode", type=click.Choice(get_args(OwnKeyMode)), help=_MODE_HELP)
@click.option(
    "--model", "models", multiple=True, help="A model. Repeatable. `any`: all models that the vendor lists."
)
@click.option("--api-key-stdin", is_flag=True, help="Read another key from standard input.")
@config_option
@json_option
def set_(
    user: str,
    vendor: str,
    mode: str | None,
    models: tuple[str, ...],
    api_key_stdin: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Change the key of a user for VENDOR. Only the given options change."""
    body: dict[str, Any] = {} if mode is None else {"mode": mode}
    if models:
        body["models"] = [] if models == ("any",) else list(models)
    if api_key_stdin:
        body["api_key"] = _read_key(vendor)
    if not body:
        raise exits.Failure("no option was given", exits.USAGE, "bluesminds vendor-keys set --help")
    changed = call(config, "PATCH", _key_path(config, user, vendor), body)
    if as_json:
        echo_json(changed)
        return
    click.echo(f"changed the key for {vendor} of {user}")
    _warn(changed)


@vendor_keys_group.command()
@click.argument("user")
@click.argument("vendor")
@config_option
@json_option
def test(user: str, vendor: str, config: Path | None, as_json: bool) -> None:
    """Test the key of a user for VENDOR.

    This reads the models that the vendor lists.
    """
    found = call(config, "POST", f"{_key_path(config, user, vendor)}/test")
    if as_json:
        echo_json(found)
    else:
        for step in found["steps"]:
            result = "ok" if step["ok"] else "failed"
            line = f"{step['name']}: {result}, {step['ms']} ms: {step['message']}"
            click.echo(exits.printable(line.rstrip(": ")))
    if not found["ok"]:
        problem = f"the key for {vendor} of {user} does not work"
        raise exits.Failure(problem, exits.UNAVAILABLE, "ask the user to store another key")


@vendor_keys_group.command()
@click.argument("user")
@click.argument("vendor")
@config_option
@json_option
def remove(user: str, vendor: str, config: Path | None, as_json: bool) -> None:
    """Delete the key of a user for VENDOR."""
    call(config, "DELETE", _key_path(config, user, vendor))
    if as_json:
        echo_json({"user": user, "vendor": vendor, "removed": True})
    else:
        click.echo(f"removed the key for {vendor} of {user}")


def _path(config: Path | None, user: str) -> str:
    return f"/users/{find_user(config, user)['id']}/vendor-keys"


def _key_path(config: Path | None, user: str, vendor: str) -> str:
    """The API path of the key of a user for a vendor. Raises exits.Failure if there is no such key."""
    path = _path(config, user)
    for row in call(config, "GET", path)["data"]:
        if row["vendor"] == vendor:
            return f"{path}/{row['id']}"
    problem = f"{user} has no key for {vendor!r}"
    raise exits.Failure(problem, exits.NOT_FOUND, f"list them: bluesminds vendor-keys list {user}")


def _checked_vendor(name: str) -> str:
    """Raises exits.Failure for a vendor without keys of users."""
    if name in OWN_KEY_VENDORS:
        return name
    close = nearest(name, OWN_KEY_VENDORS)
    remedy = f'did you mean "{close}"?' if close else f"use one of {', '.join(OWN_KEY_VENDORS)}"
    raise exits.Failure(f"users cannot store keys for the vendor {name!r}", exits.USAGE, remedy)


def _read_key(vendor: str) -> str:
    """From a prompt on a terminal, else from standard input."""
    if sys.stdin.isatty():
        return str(click.prompt(f"API key for {vendor}", hide_input=True, err=True)).strip()
    return read_key(f"for example: bluesminds vendor-keys add USER {vendor} < FILE")


def _warn(row: dict[str, Any]) -> None:
    if row["problem"]:
        click.echo(exits.printable(f"The test found a problem: {row['problem']}"), err=True)
