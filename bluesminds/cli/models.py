"""models."""

from pathlib import Path

import click

from bluesminds.cli.api_client import call, json_option, show
from bluesminds.cli.options import config_option


@click.command("models")
@config_option
@json_option
def models(config: Path | None, as_json: bool) -> None:
    """List all models, with their servers, prices and routes.

    Prices are USD per million tokens.
    """
    columns = ("id", "servers", "routes", "input_usd", "output_usd", "context_length", "max_output_tokens")
    found = call(config, "GET", "/models")
    if not as_json:
        for row in found["data"]:
            row |= {name: row[name] or None for name in ("servers", "routes")}
    show(found, as_json=as_json, columns=columns)
