"""keys create, list, revoke."""

import re
from pathlib import Path
from typing import Final

import click

from bluesminds.cli import exits
from bluesminds.cli.ask import ask, echo_json, json_option, show
from bluesminds.cli.options import config_option

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@click.group("keys")
def keys_group() -> None:
    """API keys."""


@keys_group.command()
@click.argument("name")
@click.option("--rpm", type=click.IntRange(min=0), help="Requests per minute; 0 is no limit.")
@click.option("--concurrency", type=click.IntRange(min=0), help="Requests at once; 0 is no limit.")
@config_option
@json_option
def create(name: str, rpm: int | None, concurrency: int | None, config: Path | None, as_json: bool) -> None:
    """Make a key. It is printed once and cannot be shown again."""
    made = ask(config, "POST", "/keys", {"name": name, "rpm": rpm, "concurrency": concurrency})
    if as_json:
        echo_json(made)
    else:
        click.echo(made["key"])
        click.echo(f"This is the only time the key of {name} is shown. Its id is {made['id']}.", err=True)


@keys_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List keys."""
    columns = (
        *("id", "name", "prefix", "last4", "limits.rpm", "limits.concurrency"),
        *("created_at", "last_used_at", "expires_at", "revoked_at"),
    )
    show(ask(config, "GET", "/keys"), as_json=as_json, columns=columns)


@keys_group.command()
@click.argument("key_id")
@config_option
@json_option
def revoke(key_id: str, config: Path | None, as_json: bool) -> None:
    """End a key at once."""
    if not _ID.fullmatch(key_id):
        raise exits.Failure(f"{key_id!r} is not the id of a key", exits.USAGE, "bluesminds keys list")
    ask(config, "DELETE", f"/keys/{key_id}")
    if as_json:
        echo_json({"id": key_id, "revoked": True})
    else:
        click.echo(f"revoked {key_id}")
