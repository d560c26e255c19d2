"""audit list, verify."""

from pathlib import Path
from urllib.parse import urlencode

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.users import user_names


@click.group("audit")
def audit_group() -> None:
    """Show and verify the audit log."""


@audit_group.command("list")
@click.option("--actor", help='Only changes by this user id, or by "operator".')
@click.option("--action", help="Only this action, such as key.create.")
@click.option("--subject", help="Only changes of the object with this id or name.")
@click.option("--since", help="Only changes at or after this time, such as 2026-02-28T12:00:00Z.")
@click.option("--until", help="Only changes before this time.")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Maximum number of entries."
)
@click.option("--after", help="Continue after the entry with this seq, the last one of the previous page.")
@config_option
@json_option
def list_(config: Path | None, as_json: bool, **filters: str | int | None) -> None:
    """List changes, newest first."""
    query = urlencode({name: value for name, value in filters.items() if value is not None})
    columns = ("seq", "at", "actor", "action", "subject", "address", "detail")
    found = call(config, "GET", f"/audit?{query}")
    if not as_json:
        names = user_names(config)
        named = [
            row | {name: names.get(row[name], row[name]) for name in ("actor", "subject")}
            for row in found["data"]
        ]
        found = found | {"data": named}
    show(found, as_json=as_json, columns=columns)


@audit_group.command()
@click.option(
    "--noted",
    metavar="SEQ:HASH",
    help="Also check that the log still contains this entry: the end that an earlier run printed.",
)
@config_option
@json_option
def verify(noted: str | None, config: Path | None, as_json: bool) -> None:
    """Verify the audit log. The exit code is 1 if an entry was altered or removed."""
    query = urlencode({"noted": noted}) if noted else ""
    found = call(config, "GET", f"/audit/verify?{query}")
    if as_json:
        echo_json(found)
    else:
        click.echo(f"{found['rows']} entries verified; end: {found['end']}")
    if not found["ok"]:
        raise exits.Failure(
            f"the audit log is damaged: {found['message']}", remedy="compare it with your backups"
        )
