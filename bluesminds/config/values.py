"""The small values of configuration: a secret that does not print, where a setting came from, what is wrong.

A Secret promises that str, repr, formatting, logging and serialisers see only the mask; the text leaves it
through reveal() alone, so every use of a secret can be found by that word.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

MASK: Final = "********"


class Secret:
    """Text that must not be shown."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who gave a setting its value; `where` is a file:line, a variable or a credential, never the value.

    `via` names what a secret in the file was read from: "env NAME", "file PATH" or "cred NAME".
    """

    kind: Literal["flag", "environment", "credential", "file", "default"]
    where: str = ""
    via: str = ""

    def __str__(self) -> str:
        return f"{self.place} ({self.via})" if self.via else self.place

    @property
    def place(self) -> str:
        """Where to go to change the value."""
        match self.kind:
            case "file":
                return self.where
            case "environment":
                return f"env {self.where}"
            case "credential":
                return f"credential {self.where}"
            case _:
                return self.kind


DEFAULT: Final = Origin("default")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to put right: what is wrong, where (may be empty), and a line that says how to fix it."""

    where: str
    message: str
    help: str

    def __str__(self) -> str:
        return f"{self.message} ({self.where})" if self.where else self.message


class ConfigError(Exception):
    """The configuration cannot be used. Carries every problem found, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = list(problems)
