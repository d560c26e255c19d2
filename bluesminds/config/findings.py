"""Findings of the checks of the settings."""

from dataclasses import dataclass

Source = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with the settings at `about`; the first is the one to fix. A source may lead into a list."""

    about: tuple[Source, ...]
    message: str
    help: str
    warning: bool = False
