"""usage show."""

from pathlib import Path

import click

from bluesminds.cli.api_client import call, json_option, show
from bluesminds.cli.options import config_option

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
        group,
        "requests",
        "errors",
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "average_ms",
        "cost_usd",
        "unpriced",
    )
    show(call(config, "GET", f"/usage?days={days}&group={group}"), as_json=as_json, columns=columns)
