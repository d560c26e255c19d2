"""master-key rotate."""

from pathlib import Path

import click
from msgspec import structs

from bluesminds.app.database import require_database
from bluesminds.app.master_key import RotatedMasterKey, rotate_master_key
from bluesminds.cli import exits
from bluesminds.cli.api_client import echo_json, json_option, operator_settings
from bluesminds.cli.failures import run
from bluesminds.cli.options import config_option
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Settings


@click.group("master-key")
def master_key_group() -> None:
    """Manage the key that encrypts secrets in the database."""


@master_key_group.command()
@config_option
@json_option
def rotate(config: Path | None, as_json: bool) -> None:
    """Encrypt all secrets of the database with a new master key.

    Stop the gateway first. If the command is interrupted, run it again.
    """
    loaded = operator_settings(config)
    done = run(loaded, _rotate, loaded.settings)
    if as_json:
        echo_json(structs.asdict(done))
        return
    click.echo(f"encrypted {exits.counted(done.changed, 'value')} with the new master key")
    if done.unreadable:
        message = f"{exits.counted(done.unreadable, 'value')} could not be decrypted with the old key"
        remedy = "they were not changed; bluesminds servers list shows the affected servers"
        exits.print_diagnostics([("warning", message, remedy)])


async def _rotate(settings: Settings) -> RotatedMasterKey:
    require_database(settings)
    clock = SystemClock()
    return await rotate_master_key(settings, clock=clock, log=Log(clock, level="warning", json=False))
