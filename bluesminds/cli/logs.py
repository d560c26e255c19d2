"""logs: the events of the running gateway."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, follow, json_option
from bluesminds.cli.options import config_option
from bluesminds.common.log import LEVELS


@click.command("logs")
@click.option("--follow", "-f", "follows", is_flag=True, help="Continue with new events until Ctrl-C.")
@click.option(
    "--limit",
    type=click.IntRange(0, 1000),
    default=50,
    show_default=True,
    help="Number of earlier events; the gateway keeps 1000.",
)
@click.option("--level", type=click.Choice(tuple(LEVELS)), help="Only events of at least this level.")
@click.option("--event", help="Only events with this name, such as request.")
@click.option("--request-id", help="Only events of the request with this id.")
@click.option("--key", help="Only events of the key with this id.")
@click.option("--model", help="Only events of this model.")
@config_option
@json_option
def logs(config: Path | None, follows: bool, limit: int, as_json: bool, **filters: str | None) -> None:
    """Show what the running gateway logs.

    Events below `level` in [log] are missing, and so are requests if `requests` in [log] is false. For past
    requests, see `bluesminds usage logs`.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    if not follows:
        for row in call(config, "GET", f"/logs?{urlencode(given | {'recent': str(limit)})}")["data"]:
            _print(row, as_json=as_json)
        return

    def handle(name: str, data: Any) -> None:  # noqa: ANN401
        if name == "dropped":
            click.echo(f"{data['count']} events were dropped: the output is too slow.", err=True)
        else:
            _print(data, as_json=as_json)

    while True:  # the gateway ends a stream after ten minutes
        follow(config, f"/logs/stream?{urlencode(given | {'recent': str(limit)})}", handle)
        limit = 0


def _print(event: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        text = json.dumps(event)
    else:
        pairs = (
            f"{name}={json.dumps(value, ensure_ascii=False)}"
            for name, value in event.items()
            if name not in ("time", "level", "event") and value is not None
        )
        text = f"{event['time']} {event['level']:<7} {event['event']} {' '.join(pairs)}".rstrip()
    click.echo(exits.printable(text))
    sys.stdout.flush()
