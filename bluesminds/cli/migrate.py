"""migrate and rollback: the schema of the database, while no gateway runs."""

from pathlib import Path
from typing import Any

import click

from bluesminds.app.database import database_url
from bluesminds.app.services import open_services
from bluesminds.app.state_dir import StateDir
from bluesminds.cli import exits
from bluesminds.cli.api_client import echo_json, json_option
from bluesminds.cli.failures import run
from bluesminds.cli.options import config_option, load_settings
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Settings
from storage import sqlite_path
from storage.migrate import SchemaPlan
from storage.sqlite import roll_back_sqlite
from storage.sqlite_schema import RolledBack
from storage.store import plan_schema


@click.command()
@click.option(
    "--plan", "plan_only", is_flag=True, help="Only print what would be done. The gateway can keep running."
)
@config_option
@json_option
def migrate(plan_only: bool, config: Path | None, as_json: bool) -> None:
    """Create the database, or upgrade its schema.

    `serve` does the same at its start. With SQLite, the migrations run on a copy, which is checked and then
    replaces the database; the earlier file is kept for `bluesminds rollback`. With PostgreSQL, they are one
    transaction.
    """
    loaded = load_settings(config)
    settings = loaded.settings
    plan: SchemaPlan = run(loaded, _plan, settings)
    if not plan_only:
        run(loaded, _migrate, settings)
    if as_json:
        echo_json(_plan_json(plan) | {"applied": not plan_only})
        return
    for migration in plan.pending:
        click.echo(f"{'would apply' if plan_only else 'applied'} {migration.version:04} {migration.name}")
    if plan.snapshot is not None:
        verb = "would keep" if plan_only else "kept"
        click.echo(f"{verb} the earlier database as {plan.snapshot} ({plan.bytes} bytes)")
    if not plan.pending:
        click.echo(f"the database has schema {plan.schema}; nothing to do")
    elif plan.engine == "postgres" and plan_only and plan.schema:
        click.echo("make a dump with pg_dump first: with PostgreSQL there is no snapshot", err=True)


@click.command()
@click.option("--discard", is_flag=True, help="Discard everything written since the upgrade.")
@config_option
@json_option
def rollback(discard: bool, config: Path | None, as_json: bool) -> None:
    """Restore the database from before the last upgrade. Stop the gateway first.

    Only SQLite has such snapshots. If requests, credit or changes were recorded since the upgrade, the
    command refuses, because they would be lost. The replaced file is kept. Install the earlier version before
    the next start: this version would upgrade the database again.
    """
    loaded = load_settings(config)
    done: RolledBack = run(loaded, _roll_back, loaded.settings, discard)
    if as_json:
        echo_json({"schema": done.schema, "kept": str(done.kept), "lost": done.lost})
        return
    click.echo(f"the database has schema {done.schema} again")
    for table, count in done.lost.items():
        click.echo(f"lost {count} rows of {table}")
    click.echo(f"kept {done.kept}")
    click.echo("install the earlier version before the next start", err=True)


async def _plan(settings: Settings) -> SchemaPlan:
    return await plan_schema(database_url(settings), seconds=settings.storage.settle_timeout)


async def _migrate(settings: Settings) -> None:
    clock = SystemClock()
    async with open_services(settings, clock=clock, log=Log(clock, level="warning", json=False)):
        pass


async def _roll_back(settings: Settings, discard: bool) -> RolledBack:
    path = sqlite_path(database_url(settings))
    if path is None:
        remedy = "restore the dump made before the upgrade: bluesminds restore FILE, or pg_restore"
        raise exits.Failure("with PostgreSQL there is no snapshot", exits.USAGE, remedy)
    if not path.exists():
        raise exits.Failure(f"there is no database in {path}", exits.NOT_FOUND)
    state = StateDir(settings.state_dir)
    state.check()  # a database that root has written could not be opened by the service
    with state.locked():
        return await roll_back_sqlite(path, discard=discard)


def _plan_json(plan: SchemaPlan) -> dict[str, Any]:
    return {
        "engine": plan.engine,
        "schema": plan.schema,
        "pending": [{"version": one.version, "name": one.name} for one in plan.pending],
        "snapshot": plan.snapshot,
        "bytes": plan.bytes,
    }
