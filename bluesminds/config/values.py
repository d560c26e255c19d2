"""Values of the configuration: secrets, origins and problems.

str, repr, formatting, logging and serialisers only see the mask of a Secret. Only reveal() returns the text,
so a search for that name finds every use.
"""

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

MASK: Final = "********"


class Secret:
    """Text that must not be printed."""

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
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")


class DeferredSecret(Secret):
    """A secret that is read when it is used. reveal() raises ConfigError if that fails."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def reveal(self) -> str:
        return self._read()


@dataclass(frozen=True, slots=True)
class SettingOrigin:
    """The source of a value. `where` is file:line, a variable or a credential, never the value.

    `via` is the reference a secret of the file was read from: "env NAME", "file PATH" or "cred NAME".
    """

    kind: Literal["flag", "environment", "credential", "file", "default"]
    where: str = ""
    via: str = ""

    def __str__(self) -> str:
        return f"{self.location} ({self.via})" if self.via else self.location

    @property
    def location(self) -> str:
        """Where to change the value."""
        match self.kind:
            case "file":
                return self.where
            case "environment":
                return f"env {self.where}"
            case "credential":
                return f"credential {self.where}"
            case _:
                return self.kind


DEFAULT: Final = SettingOrigin("default")


@dataclass(frozen=True, slots=True)
class Problem:
    """One error or warning: its location (may be empty), a message, and how to fix it."""

    where: str
    message: str
    help: str

    def __str__(self) -> str:
        return f"{self.message} ({self.where})" if self.where else self.message


class ConfigError(Exception):
    """The configuration is invalid. `problems` has every problem found, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = list(problems)
