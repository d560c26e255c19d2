"""Exit codes. Scripts depend on them, so a code never changes its meaning."""

from collections.abc import Iterable
from typing import IO, Any, Final

import click

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2  # the code that click uses
CONFIG_INVALID: Final = 3
NOT_FOUND: Final = 4
AUTH: Final = 5
CONFLICT: Final = 6
UNAVAILABLE: Final = 7  # cannot be reached, or timed out
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "success",
    FAILURE: "failure",
    USAGE: "invalid command line",
    CONFIG_INVALID: "invalid configuration",
    NOT_FOUND: "not found",
    AUTH: "not allowed",
    CONFLICT: "already exists or in use",
    UNAVAILABLE: "unavailable or timed out",
    INTERRUPTED: "interrupted",
}


class Failure(click.ClickException):
    """Ends a command with `error:` and `help:` lines on standard error and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILURE, remedy: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it off the instance
        self.lines = [("error", message, remedy)]

    def show(self, file: IO[Any] | None = None) -> None:
        print_diagnostics(self.lines, file)


def print_diagnostics(lines: Iterable[tuple[str, str, str]], file: IO[Any] | None = None) -> None:
    """Write (kind, message, remedy) triples to standard error."""
    for kind, message, remedy in lines:
        click.echo(f"{kind}: {printable(message)}", file=file, err=True)
        if remedy:
            click.echo(f"help: {printable(remedy)}", file=file, err=True)


def counted(number: int, noun: str) -> str:
    """ "1 model", "2 models"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Replace unprintable characters: the text may contain user input."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
