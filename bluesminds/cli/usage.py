"""usage show."""

from pathlib import Path

import click

from bluesminds.cli.api_client import call, call_paged, json_option, show
from bluesminds.cli.options import config_option
from bluesminds.cli.users import user_names

_GROUPS = ("day", "model", "key", "user", "server")


@click.group("usage")
def usage_group() -> None:
    """Show requests, tokens and costs."""


@usage_group.command("show")
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=7,
    show_default=True,
    help="Number of calendar days in UTC.",
)
@click.option(
    "--by",
    "group",
    type=click.Choice(_GROUPS),
    default="model",
    show_default=True,
    help="Group the totals by this.",
)
@config_option
@json_option
def show_(days: int, group: str, config: Path | None, as_json: bool) -> None:
    """Show usage totals of the last days, today included."""
    columns = (
        *((group, "name") if group in ("key", "user") else (group,)),
        "requests",
        "errors",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "average_ms",
        "cost_usd",
        "unpriced",
    )
    found = call(config, "GET", f"/usage?days={days}&group={group}")
    if "name" in columns and not as_json:
        names = user_names(config) if group == "user" else _key_names(config)
        found = found | {"data": [row | {"name": names.get(row[group])} for row in found["data"]]}
    show(found, as_json=as_json, columns=columns)


def _key_names(config: Path | None) -> dict[str, str]:
    return {row["id"]: row["name"] for row in call_paged(config, "/keys")["data"]}
