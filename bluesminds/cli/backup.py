"""backup and restore."""

import sys
from pathlib import Path

import click
from msgspec import structs

from bluesminds.app.restore import RestoredBackup, restore_backup
from bluesminds.cli import exits
from bluesminds.cli.api_client import echo_json, json_option, operator_settings, save_download
from bluesminds.cli.failures import run
from bluesminds.cli.options import config_option, load_settings
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Secret, Settings

_FILE = click.Path(path_type=Path, dir_okay=False)
_passphrase_option = click.option(
    "--passphrase-file",
    type=_FILE,
    help="File with the passphrase of the backup. Default: passphrase in [backup], else a prompt.",
)


@click.command()
@click.argument("file", type=_FILE)
@_passphrase_option
@click.option("--without-secrets", is_flag=True, help="Leave out the pepper and the master key.")
@config_option
def backup(file: Path, passphrase_file: Path | None, without_secrets: bool, config: Path | None) -> None:
    """Write a backup of the database to FILE. A running gateway continues to serve.

    The backup also contains the pepper and the master key, encrypted with a passphrase, but not the
    configuration file.
    """
    settings = operator_settings(config).settings
    if file.exists():
        raise exits.Failure(f"{file} exists already", exits.CONFLICT, "choose another name")
    passphrase = None if without_secrets else _passphrase(passphrase_file, settings, confirm=True)
    written = save_download(
        config, "/backup", {"passphrase": passphrase, "with_secrets": not without_secrets}, file
    )
    click.echo(f"wrote {file} ({written} bytes)")


@click.command()
@click.argument("file", type=_FILE)
@_passphrase_option
@click.option("--check", "check_only", is_flag=True, help="Only check the backup; change nothing.")
@click.option("--replace", is_flag=True, help="Replace a database that exists. Its file is kept.")
@config_option
@json_option
def restore(
    file: Path,
    passphrase_file: Path | None,
    check_only: bool,
    replace: bool,
    config: Path | None,
    as_json: bool,
) -> None:
    """Restore the backup FILE. Stop the gateway first.

    The backup is checked before anything is replaced: its checksum, the database, the secrets, the audit log
    and the ledger.
    """
    loaded = load_settings(config)
    passphrase = _passphrase(passphrase_file, loaded.settings, confirm=False)
    done = run(loaded, _restore, loaded.settings, file, passphrase, replace, check_only)
    if as_json:
        echo_json(structs.asdict(done))
        return
    verb = "checked" if check_only else "restored"
    click.echo(f"{verb} the backup of {done.created_at}, written by version {done.version}")
    click.echo(f"verified: {done.audit_entries} audit entries, {done.ledger_entries} ledger entries")
    for path in done.kept:
        click.echo(f"kept {path}")


def _passphrase(file: Path | None, settings: Settings, *, confirm: bool) -> str | None:
    """None: that of the settings is used, or there is none."""
    if file is not None:
        try:
            text = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise exits.Failure(f"cannot read {file}: {exc}", exits.USAGE) from None
        if not text:
            raise exits.Failure(f"{file} is empty", exits.USAGE, "write the passphrase into it")
        return text
    if settings.backup.passphrase is None and sys.stdin.isatty():
        return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    return None


async def _restore(
    settings: Settings, file: Path, passphrase: str | None, replace: bool, check_only: bool
) -> RestoredBackup:
    clock = SystemClock()
    given = passphrase or (settings.backup.passphrase or Secret("")).reveal()
    return await restore_backup(
        settings,
        file,
        given,
        replace=replace,
        check_only=check_only,
        clock=clock,
        log=Log(clock, level="warning", json=False),
    )
