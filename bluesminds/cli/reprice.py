"""reprice."""

from pathlib import Path
from typing import Any

import click

from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.users import user_names
from bluesminds.common.money import read_usd, write_usd

_SUMS = ("before_usd", "after_usd", "difference_usd", "credit_usd")


@click.command()
@click.option("--since", required=True, help="First day or time (UTC), such as 2026-11-01.")
@click.option("--until", help="Only before this day or time. Default: now.")
@click.option("--model", help="Only requests to this model.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@config_option
@json_option
def reprice(
    since: str, until: str | None, model: str | None, config: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Compute the costs of past requests again.

    Each request gets the price that is now in force for its time.

    Costs, statistics and prepaid credit change by the difference; usage records do not change. A second run
    changes nothing.
    """
    body: dict[str, Any] = {"since": _time(since), "dry_run": dry_run}
    if until is not None:
        body["until"] = _time(until)
    if model is not None:
        body["model"] = model
    found = call(config, "POST", "/reprice", body)
    total = found
    while found["next_cursor"] is not None:
        found = call(config, "POST", "/reprice", body | {"after": found["next_cursor"]})
        total = _added(total, found)
    if as_json:
        echo_json(total)
        return
    names = user_names(config)
    rows = [one | {"account": names.get(one["user"]) or one["user"] or "-"} for one in total["accounts"]]
    show({"data": rows}, as_json=False, columns=("account", "requests", *_SUMS))
    verb = "would change" if dry_run else "changed"
    click.echo(
        f"{verb} {total['changed']} of {total['requests']} requests; skipped {total['skipped']}", err=True
    )


def _time(text: str) -> str:
    return f"{text}T00:00:00Z" if len(text) == len("2026-11-01") else text


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    accounts = {row["user"]: row for row in one["accounts"]}
    for row in other["accounts"]:
        before = accounts.get(row["user"])
        accounts[row["user"]] = row if before is None else _added_account(before, row)
    counts = {name: one[name] + other[name] for name in ("requests", "changed", "skipped")}
    return other | counts | {"accounts": [accounts[user] for user in sorted(accounts)]}


def _added_account(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    sums = {name: write_usd(_nano(one[name]) + _nano(other[name])) for name in _SUMS}
    return one | sums | {"requests": one["requests"] + other["requests"]}


def _nano(text: str) -> int:
    nano = read_usd(text.removeprefix("-"))
    return -nano if text.startswith("-") else nano
