"""Translates `:name` parameters to the numbered form, which both drivers bind fastest. Cached by statement.

Recognises quoted strings, quoted identifiers, comments and `::casts`. Dollar quotes and escape strings are
not supported.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Literal

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | --[^\n]* | /\*.*?\*/ | :: | :([A-Za-z_][A-Za-z0-9_]*)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with `?1` or `$1` placeholders, and the parameter name for each number."""

    sql: str
    names: tuple[str, ...]
    row: Callable[[object], tuple[object, ...]]

    def bind(self, params: Mapping[str, object]) -> tuple[object, ...]:
        """The parameters in numeric order. Raises TypeError if one is missing or unknown."""
        if len(params) != len(self.names):
            raise TypeError(f"statement takes {self.names}, got {tuple(params)}")
        try:
            return tuple([params[name] for name in self.names])
        except KeyError:
            raise TypeError(f"statement takes {self.names}, got {tuple(params)}") from None

    def bind_rows(self, rows: Sequence[object]) -> list[tuple[object, ...]]:
        """The parameters of each row, from its attributes."""
        return [self.row(row) for row in rows]


@lru_cache(maxsize=1024)
def translate(sql: str, mark: Literal["?", "$"]) -> Statement:
    """Number the parameters of a statement. Equal names get the same number."""
    numbers: dict[str, int] = {}

    def numbered(token: re.Match[str]) -> str:
        name = token[1]
        if name is None:
            return token[0]
        return f"{mark}{numbers.setdefault(name, len(numbers) + 1)}"

    text = _TOKEN.sub(numbered, sql)
    names = tuple(numbers)
    return Statement(text, names, _row_reader(names))


def _row_reader(names: tuple[str, ...]) -> Callable[[object], tuple[object, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    # for a single name attrgetter does not return a tuple
    return lambda row: tuple([getattr(row, name) for name in names])
