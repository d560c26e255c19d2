"""reload."""

from pathlib import Path

import click

from bluesminds.cli import exits
from bluesminds.cli.api_client import call, echo_json, json_option
from bluesminds.cli.options import config_option


class RejectedConfig(exits.Failure):
    """Ends the command with every problem of the rejected configuration."""

    def __init__(self, lines: list[tuple[str, str, str]]) -> None:
        super().__init__("the configuration was rejected", exits.CONFIG_INVALID)
        self.lines = lines


@click.command()
@config_option
@json_option
def reload(config: Path | None, as_json: bool) -> None:
    """Reload the configuration of the running gateway.

    The gateway uses the new servers, routes, prices, limits of tiers and log level. Running requests
    continue. Other changed settings are listed: they need a restart. If the configuration is not valid, the
    earlier one stays in force, and the exit code is 3.
    """
    report = call(config, "POST", "/reload")
    if as_json:
        echo_json(report)
    if not report["accepted"]:
        lines = []
        for one in report["problems"]:
            where = f" ({one['where']})" if one["where"] else ""
            lines.append(("error", one["message"] + where, one["help"]))
        raise RejectedConfig(lines)
    if as_json:
        return
    counts = [exits.counted(report[name], name[:-1]) for name in ("servers", "routes", "prices")]
    click.echo(f"reloaded: {', '.join(counts)}")
    if report["restart"]:
        click.echo(f"a restart is needed for: {', '.join(report['restart'])}")
