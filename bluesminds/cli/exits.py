"""What a command's exit code means. Scripts branch on these, so a number never changes its meaning."""

from collections.abc import Iterable
from typing import IO, Any, Final

import click

OK: Final = 0
FAILURE: Final = 1
USAGE: Final = 2  # click's own code for a wrong command line
CONFIG_INVALID: Final = 3
NOT_FOUND: Final = 4
AUTH: Final = 5
CONFLICT: Final = 6
UNAVAILABLE: Final = 7  # cannot be reached, or took too long
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "done",
    FAILURE: "failed",
    USAGE: "the command line is wrong",
    CONFIG_INVALID: "the configuration is invalid",
    NOT_FOUND: "no such thing",
    AUTH: "not allowed",
    CONFLICT: "it exists already, or is in use",
    UNAVAILABLE: "cannot be reached, or took too long",
    INTERRUPTED: "interrupted",
}


class Failure(click.ClickException):
    """Ends a command: `error:` and `help:` lines on standard error, then the exit code."""

    def __init__(self, message: str, exit_code: int = FAILURE, remedy: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it off the instance
        self.lines = [("error", message, remedy)]

    def show(self, file: IO[Any] | None = None) -> None:
        say(self.lines, file)


def say(lines: Iterable[tuple[str, str, str]], file: IO[Any] | None = None) -> None:
    """Write (kind, message, remedy) triples to standard error, one message and its help after another."""
    for kind, message, remedy in lines:
        click.echo(f"{kind}: {plain(message)}", file=file, err=True)
        if remedy:
            click.echo(f"help: {plain(remedy)}", file=file, err=True)


def plain(text: str) -> str:
    """Text with nothing in it that moves a cursor: it may hold what people typed."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
