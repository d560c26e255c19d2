"""restart: replaces the running gateway by the program on disk."""

import os
import signal
from http.client import HTTPException
from pathlib import Path
from typing import Final

import click
import trio

from bluesminds.app import preflight
from bluesminds.app.state_dir import StateBusy, StateDir
from bluesminds.cli import exits
from bluesminds.cli.api_client import operator_settings
from bluesminds.cli.health import ask_gateway
from bluesminds.cli.options import InvalidConfig, config_option
from bluesminds.config import ConfigError, Settings

START_SECONDS: Final = 120.0  # with a migration, and the check before the shutdown
PAUSE: Final = 0.1


@click.command()
@config_option
def restart(config: Path | None) -> None:
    """Restart the running gateway without refusing a connection.

    The gateway finishes running responses, and then runs the program on disk in the same process. New
    requests wait meanwhile. If the configuration is not valid, nothing happens, and the exit code is 3. Under
    systemd, use `systemctl restart` and enable bluesminds.socket.
    """
    loaded = operator_settings(config)
    if problems := list(preflight.static_checks(loaded)):
        raise InvalidConfig(ConfigError(problems))
    path = StateDir(loaded.settings.state_dir).socket_path
    before = _socket_version(path)
    if before is None or not _is_ready(path):
        raise exits.Failure(f"no gateway responds on {path}", exits.UNAVAILABLE, "start it: bluesminds serve")
    _send_signal(loaded.settings)
    trio.run(_wait, path, before, loaded.settings.server.drain_timeout + START_SECONDS)
    click.echo("restarted")


async def _wait(path: Path, before: tuple[int, int], seconds: float) -> None:
    """Wait until another socket responds. Raises exits.Failure."""
    with trio.move_on_after(seconds):
        while not await trio.to_thread.run_sync(_has_restarted, path, before):  # noqa: ASYNC110 - no event
            await trio.sleep(PAUSE)
        return
    raise exits.Failure("the gateway has not restarted", exits.UNAVAILABLE, "see its log")


def _send_signal(settings: Settings) -> None:
    """Raises exits.Failure."""
    try:
        with StateDir(settings.state_dir).locked():
            raise exits.Failure("the gateway has just stopped", exits.UNAVAILABLE, "bluesminds serve")
    except StateBusy as busy:
        try:
            os.kill(int(busy.pid), signal.SIGUSR2)
        except PermissionError:
            message = f"process {busy.pid} belongs to another user"
            raise exits.Failure(message, exits.AUTH, "run this as the user of the gateway") from None
        except (ProcessLookupError, ValueError):
            message = f"the gateway of {settings.state_dir} runs in another container"
            raise exits.Failure(message, exits.FAILURE, "send SIGUSR2 to it there") from None


def _socket_version(path: Path) -> tuple[int, int] | None:
    """What differs after a restart. None: there is no socket."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _has_restarted(path: Path, before: tuple[int, int]) -> bool:
    return _socket_version(path) not in (None, before) and _is_ready(path)


def _is_ready(path: Path) -> bool:
    try:
        return ask_gateway(path, "/health")[0] == 200
    except (OSError, HTTPException):
        return False
