"""servers keys add, list, remove."""

from pathlib import Path
from urllib.parse import urlencode

import click

from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.servers import checked_name, read_key


@click.group("keys")
def server_keys_group() -> None:
    """Manage the API keys of a server, which are used in turn."""


@server_keys_group.command()
@click.argument("name")
@config_option
@json_option
def add(name: str, config: Path | None, as_json: bool) -> None:
    """Add an API key to a server. The key is read from standard input."""
    changed = call(config, "POST", f"/servers/{checked_name(name)}/keys", {"api_key": read_key()})
    if as_json:
        echo_json(changed)
    else:
        click.echo(f"{name} has {len(changed['api_keys'])} API keys")


@server_keys_group.command("list")
@click.argument("name")
@config_option
@json_option
def list_(name: str, config: Path | None, as_json: bool) -> None:
    """List the API keys of a server. Only the last four characters of each key are shown."""
    found = call(config, "GET", f"/servers/{checked_name(name)}/keys")
    show(found, as_json=as_json, columns=("last_four", "state", "seconds", "reason"))


@server_keys_group.command()
@click.argument("name")
@click.argument("last_four")
@config_option
@json_option
def remove(name: str, last_four: str, config: Path | None, as_json: bool) -> None:
    """Remove an API key from a server. LAST_FOUR are the last characters of the key."""
    call(config, "DELETE", f"/servers/{checked_name(name)}/keys?{urlencode({'last_four': last_four})}")
    if as_json:
        echo_json({"name": name, "last_four": last_four, "removed": True})
    else:
        click.echo(f"removed the key that ends with {last_four} from {name}")
