"""prices list, set, remove."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import config_option

_RATES: Final = (
    ("input", "USD per million input tokens."),
    ("cached-input", "USD per million input tokens read from a cache."),
    ("cache-write", "USD per million input tokens written to a cache."),
    ("cache-write-hour", "USD per million input tokens written to a cache for an hour."),
    ("output", "USD per million output tokens."),
    ("reasoning", "USD per million output tokens of reasoning."),
    ("audio-input", "USD per million input tokens of audio."),
    ("audio-output", "USD per million output tokens of audio."),
    ("image-input", "USD per million input tokens of images."),
    ("image-output", "USD per million output tokens of images."),
    ("image", "USD per generated image."),
    ("second", "USD per second of input audio."),
    ("character", "USD per million characters of text converted to speech."),
    ("request", "USD per request."),
)


@click.group("prices")
def prices_group() -> None:
    """Manage the prices of models."""


def _rate_options(command: Any) -> Any:  # noqa: ANN401 - a decorator of click
    for name, text in reversed(_RATES):
        command = click.option(f"--{name}", f"{name.replace('-', '_')}_usd", metavar="USD", help=text)(
            command
        )
    return command


def _line_options(command: Any) -> Any:  # noqa: ANN401
    for option in (
        click.option(
            "--from-tokens",
            type=click.IntRange(0),
            default=0,
            help="Only for requests with at least this many input tokens.",
        ),
        click.option("--service-tier", help="Only for this service tier, such as flex."),
        click.option("--since", metavar="DAY", help="First day (UTC), such as 2026-02-28."),
        click.option("--server", help="Only for this server."),
    ):
        command = option(command)
    return command


@prices_group.command("list")
@click.argument("model", required=False)
@click.option("--server", help="With MODEL: the price at this server.")
@config_option
@json_option
def list_(model: str | None, server: str | None, config: Path | None, as_json: bool) -> None:
    """List your own prices, or show the price that is in force for MODEL."""
    if server and model is None:
        raise exits.Failure("--server needs a MODEL", exits.USAGE, "bluesminds prices list --help")
    params = {name: value for name, value in (("model", model), ("server", server)) if value}
    query = f"?{urlencode(params)}" if params else ""
    columns = (
        *(
            "model",
            "server",
            "since",
            "until",
            "service_tier",
            "from_tokens",
            "input_usd",
            "cached_input_usd",
        ),
        *("output_usd", "source"),
    )
    show(call(config, "GET", f"/prices{query}"), as_json=as_json, columns=columns)


@prices_group.command("set")
@click.argument("model")
@_line_options
@_rate_options
@click.option("--until", metavar="DAY", help="Only before this day (UTC), such as 2026-12-31.")
@click.option("--max-output-tokens", type=click.IntRange(1), help="Maximum output tokens of the model.")
@config_option
@json_option
def set_(model: str, config: Path | None, as_json: bool, **given: str | int | None) -> None:
    """Set a price of MODEL.

    Several commands can set one price: for long contexts with --from-tokens, and for service tiers.
    """
    body = {name: value for name, value in given.items() if value is not None}
    changed = call(config, "PUT", "/prices", {"model": model, **body})
    if as_json:
        echo_json(changed)
    else:
        click.echo(f"set the price of {model}")


@prices_group.command()
@click.argument("model")
@_line_options
@config_option
@json_option
def remove(model: str, config: Path | None, as_json: bool, **given: str | int | None) -> None:
    """Remove a price of MODEL from the database."""
    params = {name: str(value) for name, value in given.items() if value is not None}
    call(config, "DELETE", f"/prices?{urlencode({'model': model, **params})}")
    if as_json:
        echo_json({"model": model, "removed": True})
    else:
        click.echo(f"removed the price of {model}")
