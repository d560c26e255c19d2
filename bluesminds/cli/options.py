"""What every command that needs the configuration shares: the -c option and the loading of settings."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bluesminds.cli import exits
from bluesminds.config import ConfigError, Loaded, find_file, load

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


def config_option(command: Command) -> Command:
    """-c/--config FILE, handed to the command as `config: Path | None`."""
    return click.option(
        "-c",
        "--config",
        type=_FILE,
        help="Configuration file. Default: $BLUESMINDS_CONFIG, ./gateway.toml, /etc/bluesminds/gateway.toml.",
    )(command)


class InvalidConfig(exits.Failure):
    """Ends a command with every problem of its configuration."""

    def __init__(self, error: ConfigError, exit_code: int = exits.CONFIG_INVALID) -> None:
        super().__init__(str(error), exit_code)
        self.lines = [("error", str(problem), problem.help) for problem in error.problems]


def load_settings(config: Path | None, flags: Mapping[str, object] | None = None) -> Loaded:
    """The settings a command works with; warnings go to standard error. Raises InvalidConfig."""
    environ = dict(os.environ)
    try:
        loaded = load(config or find_file(environ), environ, flags or {})
    except ConfigError as error:
        raise InvalidConfig(error) from None
    exits.say(("warning", str(warning), warning.help) for warning in loaded.warnings)
    return loaded
