"""limits show, set, tiers."""

from pathlib import Path
from typing import Any, Final

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.keys import key_path
from bluesminds.cli.options import (
    COUNTS,
    SUMS,
    config_option,
    limit_options,
    limit_values,
)
from bluesminds.cli.users import find_user

_SHARED: Final = ("shared_usd_per_day", "shared_usd_per_month")


@click.group("limits")
def limits_group() -> None:
    """Show and set limits of accounts and keys."""


@limits_group.command("show")
@click.argument("user", required=False)
@click.option("--key", "key_id", help="Show the limits of the key with this id.")
@config_option
@json_option
def show_(user: str | None, key_id: str | None, config: Path | None, as_json: bool) -> None:
    """Show the limits of an account or a key, and what is used.

    USER is an e-mail address or an id.
    """
    if user is not None and key_id is None:
        path = f"/users/{find_user(config, user)['id']}/limits"
    elif key_id is not None and user is None:
        path = f"{key_path(key_id)}/limits"
    else:
        raise exits.Failure("give either USER or --key", exits.USAGE, "bluesminds limits show --help")
    _show(call(config, "GET", path), as_json=as_json)


@limits_group.command("set")
@click.argument("user")
@limit_options
@config_option
@json_option
def set_(user: str, config: Path | None, as_json: bool, **given: str | None) -> None:
    """Set limits of an account.

    USER is an e-mail address or an id. Only the given limits change. The value `tier` removes a limit, so
    that the limit of the tier applies again.
    """
    body = limit_values(given)
    if not body:
        raise exits.Failure("no option was given", exits.USAGE, "bluesminds limits set --help")
    path = f"/users/{find_user(config, user)['id']}/limits"
    _show(call(config, "PATCH", path, body), as_json=as_json)


@limits_group.command()
@config_option
@json_option
def tiers(config: Path | None, as_json: bool) -> None:
    """List the tiers with their limits and shared budgets."""
    columns = ("name", *(f"limits.{name}" for name in (*COUNTS, *SUMS)), *_SHARED)
    found = call(config, "GET", "/tiers")
    if not as_json:
        found = found | {"data": [row | _shared(row["shared"] or {}) for row in found["data"]]}
    show(found, as_json=as_json, columns=columns)


def _shared(budgets: dict[str, Any]) -> dict[str, str | None]:
    """By column; None without a limit."""
    amounts = [budgets.get(name.removeprefix("shared_")) for name in _SHARED]
    return {
        name: f"{amount['used']} of {amount['limit']}" if amount and amount["limit"] else None
        for name, amount in zip(_SHARED, amounts, strict=True)
    }


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo_json(found)
        return
    rows = [
        {
            "name": name,
            "limit": found[name]["limit"],
            "used": found[name]["used"],
            "from": found[name]["origin"],
        }
        for name in (*COUNTS, *SUMS)
    ]
    show({"data": rows}, as_json=False, columns=("name", "limit", "used", "from"))
