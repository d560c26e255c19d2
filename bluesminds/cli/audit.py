"""audit list, verify."""

from pathlib import Path
from urllib.parse import urlencode

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import ask, echo_json, json_option, show
from bluesminds.cli.options import config_option


@click.group("audit")
def audit_group() -> None:
    """Who changed what."""


@audit_group.command("list")
@click.option("--actor", help="Only changes by this user id, or by operator.")
@click.option("--action", help="Only changes of this kind, such as key.create.")
@click.option("--subject", help="Only changes of the thing with this id or name.")
@click.option("--since", help="Not before this time, like 2026-02-28T12:00:00Z.")
@click.option("--until", help="Before this time.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="At most so many.")
@click.option("--after", help="Go on from the next_cursor of the list before.")
@config_option
@json_option
def list_(config: Path | None, as_json: bool, **filters: str | int | None) -> None:
    """List changes, newest first."""
    query = urlencode({name: value for name, value in filters.items() if value is not None})
    columns = ("seq", "at", "actor", "action", "subject", "address", "detail")
    show(ask(config, "GET", f"/audit?{query}"), as_json=as_json, columns=columns)


@audit_group.command()
@click.option("--noted", metavar="SEQ:HASH", help="The end that this command told earlier.")
@config_option
@json_option
def verify(noted: str | None, config: Path | None, as_json: bool) -> None:
    """Check that no change was altered or removed. Exit code 1 when one was."""
    query = urlencode({"noted": noted}) if noted else ""
    found = ask(config, "GET", f"/audit/verify?{query}")
    if as_json:
        echo_json(found)
    else:
        click.echo(f"{found['rows']} good; the last is {found['end']}")
    if not found["ok"]:
        raise exits.Failure(
            f"the audit log is damaged: {found['message']}", remedy="compare it with your backups"
        )
