"""ledger topup, grant, refund, adjust, show, list, export, statement, verify."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, call_paged, download, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.users import find_user

_MEANINGS: Final = {
    "topup": "Add credit that the user has paid for.",
    "grant": "Grant credit to a user. Granted credit is used before other credit.",
    "refund": "Refund a charge to a user.",
    "adjustment": "Correct the credit of a user. AMOUNT may be negative; write it after `--`.",
}


@click.group("ledger")
def ledger_group() -> None:
    """Manage prepaid credit.

    Users with a ledger entry pay for requests. The requests of other users are counted but not charged.
    """


def _post_command(kind: str) -> click.Command:
    def post(user: str, amount: str, config: Path | None, as_json: bool, **given: str | None) -> None:
        body: dict[str, Any] = {name: value for name, value in given.items() if value}
        user_id = find_user(config, user)["id"]
        posted = call(
            config, "POST", f"/users/{user_id}/credit", {"kind": kind, "amount_usd": amount, **body}
        )
        if as_json:
            echo_json(posted)
        else:
            click.echo(f"posted {posted['id']}: {posted['amount_usd']} USD")

    command = click.Command(
        "adjust" if kind == "adjustment" else kind,
        callback=post,
        help=_MEANINGS[kind],
        params=[
            click.Argument(["user"]),
            click.Argument(["amount"]),
            click.Option(["--reference"], help="Reference of the entry, such as the number of an invoice."),
            click.Option(
                ["--key"], help="Idempotency key. A repeated command with the same key adds no entry."
            ),
        ],
    )
    if kind == "grant":
        ends = "When unused credit expires, such as 2026-12-31T00:00:00Z."
        command.params.append(click.Option(["--ends-at"], help=ends))
    return json_option(config_option(command))


for _kind in _MEANINGS:
    ledger_group.add_command(_post_command(_kind))


@ledger_group.command("show")
@click.argument("user")
@config_option
@json_option
def show_(user: str, config: Path | None, as_json: bool) -> None:
    """Show the prepaid credit of USER."""
    found = call(config, "GET", f"/users/{find_user(config, user)['id']}/balance")
    if as_json:
        echo_json(found)
    elif not found["prepaid"]:
        click.echo(f"{exits.printable(user)} has no prepaid credit")
    else:
        click.echo(f"{found['balance_usd']} USD")


def _filters(command: click.Command) -> click.Command:
    kinds = (
        *("topup", "grant", "charge", "refund", "adjustment", "expiry"),
        *("subscription", "payment_refund"),
    )
    command.params += [
        click.Option(["--kind"], type=click.Choice(kinds), help="Only entries of this kind."),
        click.Option(
            ["--since"], metavar="TIME", help="Only at or after this time, such as 2026-02-28T12:00:00Z."
        ),
        click.Option(["--until"], metavar="TIME", help="Only before this time."),
    ]
    return command


def _given(config: Path | None, user: str | None, filters: dict[str, str | None]) -> dict[str, str]:
    given = {name: value for name, value in filters.items() if value}
    return given if user is None else given | {"user": find_user(config, user)["id"]}


@_filters
@ledger_group.command("list")
@click.argument("user", required=False)
@config_option
@json_option
def list_(user: str | None, config: Path | None, as_json: bool, **filters: str | None) -> None:
    """List the entries of USER, or of all users, newest first."""
    found = call_paged(config, "/ledger", _given(config, user, filters))
    show(found, as_json=as_json, columns=("at", "user_id", "kind", "amount_usd", "id", "reference"))


@_filters
@ledger_group.command("export")
@click.argument("user", required=False)
@config_option
def export(user: str | None, config: Path | None, **filters: str | None) -> None:
    """Write the entries of USER, or of all users, as CSV, newest first."""
    given = urlencode(_given(config, user, filters))
    download(config, f"/ledger/export?{given}" if given else "/ledger/export")


@ledger_group.command()
@click.argument("user")
@click.option("--month", help="A month in UTC, such as 2026-11. Default: the current month.")
@click.option("--csv", "as_csv", is_flag=True, help="Write all entries of the month as CSV.")
@config_option
@json_option
def statement(user: str, month: str | None, config: Path | None, as_csv: bool, as_json: bool) -> None:
    """Show the changes of the credit of USER in a month."""
    path = f"/users/{find_user(config, user)['id']}/statement"
    query = f"?{urlencode({'month': month})}" if month else ""
    if as_csv:
        download(config, f"{path}/export{query}")
        return
    found = call(config, "GET", path + query)
    if as_json:
        echo_json(found)
        return
    lines = [{"line": "opening balance", "amount_usd": found["opening_usd"], "entries": None}]
    lines += [one | {"line": one["kind"]} for one in found["sums"]]
    lines.append({"line": "closing balance", "amount_usd": found["closing_usd"], "entries": None})
    click.echo(f"{found['month']}: {'prepaid' if found['prepaid'] else 'not charged'}")
    if found["prepaid"]:
        show({"data": lines}, as_json=False, columns=("line", "entries", "amount_usd"))
    columns = ("model", "requests", "input_tokens", "output_tokens", "cost_usd", "unpriced")
    show({"data": found["models"]}, as_json=False, columns=columns)


@ledger_group.command()
@click.option(
    "--noted",
    metavar="SEQ:HASH",
    help="Also check that the ledger still contains this entry: the end that an earlier run printed.",
)
@config_option
@json_option
def verify(noted: str | None, config: Path | None, as_json: bool) -> None:
    """Verify the ledger. The exit code is 1 if something is wrong.

    This checks the hash chain, that each balance is the sum of its entries, and that charges and usage
    records agree.
    """
    found = call(config, "GET", f"/ledger/verify?{urlencode({'noted': noted}) if noted else ''}")
    if as_json:
        echo_json(found)
    else:
        click.echo(f"{found['entries']} entries, {found['wallets']} wallets; end: {found['end']}")
        for account, amount in found["sums"].items():
            click.echo(f"{account}\t{amount}")
    if not found["ok"]:
        raise exits.Failure(f"the ledger is wrong: {found['message']}", remedy="compare it with your backups")
