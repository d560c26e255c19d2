"""redeem-codes create, list, redeemed, revoke."""

from pathlib import Path

import click

from bluesminds.cli.api_client import call, call_paged, echo_json, json_option, show
from bluesminds.cli.options import config_option


@click.group("redeem-codes")
def redeem_codes_group() -> None:
    """Manage redeem codes, each of which gives credit once."""


@redeem_codes_group.command()
@click.argument("name")
@click.argument("amount")
@click.option("--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="Number of codes.")
@click.option("--expires-at", help="When the codes expire, such as 2026-12-31T00:00:00Z.")
@click.option("--ends-at", help="When unused credit expires.")
@config_option
@json_option
def create(name: str, amount: str, config: Path | None, as_json: bool, **given: str | int | None) -> None:
    """Create redeem codes of AMOUNT USD each. They are printed once and cannot be shown again.

    NAME is a label. It is the reference of the entries in the ledger.
    """
    body = {"name": name, "amount_usd": amount} | {key: value for key, value in given.items() if value}
    made = call(config, "POST", "/redeem-codes", body)
    if as_json:
        echo_json(made)
        return
    click.echo(f"created the batch {made['batch']['id']}", err=True)
    for code in made["codes"]:
        click.echo(code)


@redeem_codes_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the batches of redeem codes."""
    found = call_paged(config, "/redeem-codes")
    columns = ("id", "name", "amount_usd", "codes", "redeemed", "created_at", "expires_at", "revoked_at")
    show(found, as_json=as_json, columns=columns)


@redeem_codes_group.command()
@click.argument("batch")
@config_option
@json_option
def redeemed(batch: str, config: Path | None, as_json: bool) -> None:
    """List the redeemed codes of a batch."""
    found = call_paged(config, f"/redeem-codes/{batch}/redeemed")
    show(found, as_json=as_json, columns=("number", "last_four", "redeemed_at", "user_id"))


@redeem_codes_group.command()
@click.argument("batch")
@config_option
def revoke(batch: str, config: Path | None) -> None:
    """Revoke the unused codes of a batch. Redeemed credit stays."""
    call(config, "DELETE", f"/redeem-codes/{batch}")
    click.echo(f"revoked the codes of {batch}")
