"""alerts list, add, change, remove, test."""

from pathlib import Path
from typing import Any, Final, get_args

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option, show
from bluesminds.cli.options import DurationType, config_option
from bluesminds.common.alerts import AlertKind

_COLUMNS: Final = ("name", "kind", "above", "state", "value", "channels", "origin")
_WEEK: Final = 604_800
_FIGURES: Final = (
    click.option("--window", type=DurationType(_WEEK), help="Time over which the figure is measured."),
    click.option("--hold", type=DurationType(_WEEK), help="How long the figure must be too high."),
    click.option("--quiet", type=DurationType(_WEEK), help="Minimum time between two messages."),
    click.option(
        "--channel", "channels", multiple=True, help="mail, or the name of a channel in [alerts]. Repeatable."
    ),
    click.option("--server", help='Only this server. Empty ("") for all.'),
)


@click.group("alerts")
def alerts_group() -> None:
    """Manage alerts about figures of the gateway.

    Alerts of the configuration can be listed and tested here. Change them in the file.
    """


@alerts_group.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the alerts with their states and last figures."""
    show(call(config, "GET", "/alerts"), as_json=as_json, columns=_COLUMNS)


@alerts_group.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(get_args(AlertKind)), required=True, help="The figure.")
@click.option("--above", type=float, required=True, help="The alert fires if the figure is above this.")
@config_option
@json_option
def add(name: str, config: Path | None, as_json: bool, **given: Any) -> None:  # noqa: ANN401
    """Add the alert NAME. Defaults: window 5m, hold 1m, quiet 1h, channel mail."""
    made = call(config, "POST", "/alerts", {"name": name, **_sent(given)})
    _print(made, f"added {name}", as_json=as_json)


@alerts_group.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(get_args(AlertKind)), help="The figure.")
@click.option("--above", type=float, help="The alert fires if the figure is above this.")
@config_option
@json_option
def change(name: str, config: Path | None, as_json: bool, **given: Any) -> None:  # noqa: ANN401
    """Change the alert NAME. Only the given options change."""
    body = _sent(given)
    if not body:
        raise exits.Failure("nothing to change", exits.USAGE, "bluesminds alerts change --help")
    _print(call(config, "PATCH", f"/alerts/{name}", body), f"changed {name}", as_json=as_json)


@alerts_group.command()
@click.argument("name")
@config_option
def remove(name: str, config: Path | None) -> None:
    """Delete the alert NAME."""
    call(config, "DELETE", f"/alerts/{name}")
    click.echo(f"removed {name}")


@alerts_group.command()
@click.argument("name")
@config_option
@json_option
def test(name: str, config: Path | None, as_json: bool) -> None:
    """Send a test message to the channels of the alert NAME."""
    results = call(config, "POST", f"/alerts/{name}/test")
    if as_json:
        echo_json(results)
    for channel, problem in results["channels"].items():
        if not as_json:
            click.echo(exits.printable(f"{channel}: {problem or 'sent'}"))
    if any(results["channels"].values()):
        raise exits.Failure("a channel did not accept the message", exits.UNAVAILABLE)


for command in (add, change):
    for option in reversed(_FIGURES):
        option(command)


def _sent(given: dict[str, Any]) -> dict[str, Any]:
    """The body of a request: options that were given."""
    body = {name: value for name, value in given.items() if value is not None and value != ()}
    return body | ({"channels": list(body["channels"])} if "channels" in body else {})


def _print(rule: Any, done: str, *, as_json: bool) -> None:  # noqa: ANN401
    if as_json:
        echo_json(rule)
    else:
        click.echo(done)
