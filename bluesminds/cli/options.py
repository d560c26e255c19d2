"""Options that commands share, and loading of the configuration."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bluesminds.cli import exits
from bluesminds.common.durations import read_duration
from bluesminds.config import ConfigError, Loaded, find_file, load

Command = TypeVar("Command", bound=Callable[..., Any])

COUNTS: Final = ("rpm", "tpm", "concurrency", "tokens_per_day", "tokens_per_month")
SUMS: Final = ("usd_per_day", "usd_per_month", "usd_total")
_AS_TIER: Final = "tier"
_NO_LIMIT: Final = "`tier` removes the limit, so that only the limit of the tier applies"
_AMOUNT: Final = re.compile(r"(?=[0-9.]*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT: Final = re.compile(r"[1-9][0-9]{0,14}")
_LIMITS: Final = {
    "--rpm": "Requests per minute.",
    "--tpm": "Tokens per minute.",
    "--concurrency": "Concurrent requests.",
    "--tokens-per-day": "Tokens per calendar day.",
    "--tokens-per-month": "Tokens per calendar month.",
    "--usd-per-day": "USD per calendar day.",
    "--usd-per-month": "USD per calendar month.",
    "--usd-total": "USD in total.",
}
_FILE: Final = click.Path(path_type=Path, readable=False)  # reading it says more


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
    flag = f"--{name.replace('_', '-')}"
    if name in SUMS:
        if not _AMOUNT.fullmatch(text):
            message = f"{flag} must be an amount of USD above 0 such as 12.5, or `{_AS_TIER}`"
            raise exits.Failure(message, exits.USAGE, _NO_LIMIT)
        return text
    if not _COUNT.fullmatch(text):
        message = f"{flag} must be a whole number of 1 or more, or `{_AS_TIER}`"
        raise exits.Failure(message, exits.USAGE, _NO_LIMIT)
    return int(text)


class DurationType(click.ParamType[int]):
    """A duration such as 30s, 12h or 7d, or a number of seconds; converted to seconds, at most `maximum`."""

    name = "DURATION"

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401
        text = str(value)
        try:
            seconds = int(text) if text.isascii() and text.isdecimal() else read_duration(text)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)
        if seconds > self._maximum:
            self.fail(f"the duration must be at most {self._maximum // 86_400}d.", param, ctx)
        return seconds


class InvalidConfig(exits.Failure):
    """Ends a command with every problem of the configuration."""

    def __init__(self, error: ConfigError, exit_code: int = exits.CONFIG_INVALID) -> None:
        super().__init__(str(error), exit_code)
        self.lines = [("error", str(problem), problem.help) for problem in error.problems]


def load_settings(
    config: Path | None, flags: Mapping[str, object] | None = None, *, defer_secrets: bool = False
) -> Loaded:
    """Load the settings. Raises InvalidConfig.

    Warnings go to standard error, but not with `defer_secrets`: commands beside a gateway do not repeat them.
    """
    environ = dict(os.environ)
    try:
        loaded = load(config or find_file(environ), environ, flags or {}, defer_secrets=defer_secrets)
    except ConfigError as error:
        raise InvalidConfig(error) from None
    if not defer_secrets:
        exits.print_diagnostics(("warning", str(warning), warning.help) for warning in loaded.warnings)
    return loaded
