"""Options that commands share, and loading of the configuration."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bluesminds.cli import exits
from bluesminds.config import ConfigError, Loaded, find_file, load

Command = TypeVar("Command", bound=Callable[..., Any])

COUNTS: Final = ("rpm", "tpm", "concurrency", "tokens_per_day", "tokens_per_month")
SUMS: Final = ("usd_per_day", "usd_per_month", "usd_total")
_AS_TIER: Final = "tier"
_LIMITS: Final = {
    "--rpm": "Requests per minute.",
    "--tpm": "Tokens per minute.",
    "--concurrency": "Concurrent requests.",
    "--tokens-per-day": "Tokens per calendar day.",
    "--tokens-per-month": "Tokens per calendar month.",
    "--usd-per-day": "USD per calendar day.",
    "--usd-per-month": "USD per calendar month.",
    "--usd-total": "Total USD.",
}
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


def config_option(command: Command) -> Command:
    """-c/--config FILE, passed to the command as `config: Path | None`."""
    return click.option(
        "-c",
        "--config",
        type=_FILE,
        help="Configuration file. Default: $BLUESMINDS_CONFIG, ./gateway.toml, /etc/bluesminds/gateway.toml.",
    )(command)


def limit_options(command: Command) -> Command:
    """An option for every limit, passed to the command as text: see `limit_values`."""
    for name, meaning in reversed(_LIMITS.items()):
        command = click.option(name, help=meaning)(command)
    return command


def limit_values(given: Mapping[str, str | None]) -> dict[str, int | str | None]:
    """The given limits as the API expects them. Raises exits.Failure."""
    return {name: _limit_value(name, text) for name, text in given.items() if text is not None}


def _limit_value(name: str, text: str) -> int | str | None:
    if text == _AS_TIER:
        return None
    if name in SUMS:
        return text
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        message = f"{name} must be a whole number, or {_AS_TIER}"
        raise exits.Failure(message, exits.USAGE, "for example --rpm 60")
    return int(text)


class InvalidConfig(exits.Failure):
    """Ends a command with every problem of the configuration."""

    def __init__(self, error: ConfigError, exit_code: int = exits.CONFIG_INVALID) -> None:
        super().__init__(str(error), exit_code)
        self.lines = [("error", str(problem), problem.help) for problem in error.problems]


def load_settings(
    config: Path | None, flags: Mapping[str, object] | None = None, *, defer_secrets: bool = False
) -> Loaded:
    """Load the settings; warnings go to standard error. Raises InvalidConfig."""
    environ = dict(os.environ)
    try:
        loaded = load(config or find_file(environ), environ, flags or {}, defer_secrets=defer_secrets)
    except ConfigError as error:
        raise InvalidConfig(error) from None
    exits.print_diagnostics(("warning", str(warning), warning.help) for warning in loaded.warnings)
    return loaded
