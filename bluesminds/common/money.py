"""Money as whole nano-USD (10**-9 USD). Outside the code it is a decimal string of USD, never a float."""

import re
from typing import Final

from msgspec import Struct

NANO: Final = 10**9
MAX_USD: Final = 10**9  # any amount or price above it is a mistake
USD_PATTERN: Final = r"^[0-9]{1,9}(\.[0-9]{1,9})?\Z"
_AMOUNT: Final = re.compile(USD_PATTERN)
_TOKENS_PRICED: Final = 1_000_000  # prices are for so many tokens


def read_usd(text: str) -> int:
    """ "12.5" in nano-USD. Raises ValueError for anything but up to nine digits on each side of a point."""
    if not _AMOUNT.match(text):
        raise ValueError("an amount of USD is written like 12.5")
    whole, _, fraction = text.partition(".")
    return int(whole) * NANO + int(fraction.ljust(9, "0"))


def write_usd(nano: int) -> str:
    """The shortest decimal that is exactly this amount."""
    whole, fraction = divmod(abs(nano), NANO)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{fraction:09}".rstrip("0") if fraction else f"{sign}{whole}"


class Price(Struct, frozen=True, gc=False):
    """What a model costs: nano-USD for a million tokens. `max_output`: the most tokens of one answer."""

    input: int
    cached_input: int
    output: int
    max_output: int | None = None

    def cost(self, prompt: int, cached: int, completion: int) -> int:
        """nano-USD, rounded up once; `cached` of the prompt's tokens cost `cached_input`."""
        cached = min(cached, prompt)
        parts = (prompt - cached) * self.input + cached * self.cached_input + completion * self.output
        return -(-parts // _TOKENS_PRICED)

    def most(self, prompt: int, completion: int) -> int:
        """The most that so many tokens can cost."""
        return -(-(prompt * max(self.input, self.cached_input) + completion * self.output) // _TOKENS_PRICED)
