"""`:name` parameters, translated once per statement to the numbered form that the drivers bind fastest.

Knows quoted strings, quoted identifiers, comments and `::casts`. It refuses nothing else: dollar quotes
and escape strings do not occur in our SQL, which is literal.
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
    """SQL with `?1` or `$1` placeholders, and which name each number stands for."""

    sql: str
    names: tuple[str, ...]
    row: Callable[[object], tuple[object, ...]]

    def bind(self, params: Mapping[str, object]) -> tuple[object, ...]:
        """The parameters in numeric order. Raises TypeError unless exactly the named ones are given."""
        if len(params) != len(self.names):
            raise TypeError(f"statement takes {self.names}, got {tuple(params)}")
        try:
            return tuple([params[name] for name in self.names])
        except KeyError:
            raise TypeError(f"statement takes {self.names}, got {tuple(params)}") from None

    def bind_rows(self, rows: Sequence[object]) -> list[tuple[object, ...]]:
        """The same from the attributes of each row."""
        return [self.row(row) for row in rows]


@lru_cache(maxsize=1024)
def translate(sql: str, mark: Literal["?", "$"]) -> Statement:
    """Number the parameters of a statement, equal names sharing one number."""
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
    # attrgetter gives a bare value for one name
    return lambda row: tuple([getattr(row, name) for name in names])
