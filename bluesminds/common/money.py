"""Money as integers of nano-USD (10**-9 USD). In settings and the API it is a decimal string of USD."""

import re
from typing import Final

from msgspec import Struct

NANO: Final = 10**9
MAX_USD: Final = 10**9  # the maximum of any amount or price
USD_PATTERN: Final = r"^[0-9]{1,9}(\.[0-9]{1,9})?\Z"
_AMOUNT: Final = re.compile(USD_PATTERN)
_TOKENS_PRICED: Final = 1_000_000  # prices are per million tokens


def read_usd(text: str) -> int:
    """Nano-USD of a text like "12.5": up to nine digits on each side of the point. Raises ValueError."""
    if not _AMOUNT.match(text):
        raise ValueError("an amount of USD is written like 12.5")
    whole, _, fraction = text.partition(".")
    return int(whole) * NANO + int(fraction.ljust(9, "0"))


def write_usd(nano: int) -> str:
    """The shortest decimal text of exactly this amount."""
    whole, fraction = divmod(abs(nano), NANO)
    sign = "-" if nano < 0 else ""
    return f"{sign}{whole}.{fraction:09}".rstrip("0") if fraction else f"{sign}{whole}"


def write_token_price(nano: int) -> str:
    """The exact price of one token in USD, from a price in nano-USD per million tokens."""
    whole, fraction = divmod(nano, NANO * _TOKENS_PRICED)
    return f"{whole}.{fraction:015}".rstrip("0").rstrip(".")


class Price(Struct, frozen=True, gc=False):
    """The price of a model, in nano-USD per million tokens. `max_output`: the maximum number of
    completion tokens.
    """

    input: int
    cached_input: int
    output: int
    max_output: int | None = None

    def cost(self, prompt: int, cached: int, completion: int) -> int:
        """Nano-USD, rounded up; `cached` is the part of `prompt` that costs `cached_input`."""
        cached = min(cached, prompt)
        parts = (prompt - cached) * self.input + cached * self.cached_input + completion * self.output
        return -(-parts // _TOKENS_PRICED)

    def max_cost(self, prompt: int, completion: int) -> int:
        """The maximum cost, in nano-USD: as if all prompt tokens had the higher input price."""
        return -(-(prompt * max(self.input, self.cached_input) + completion * self.output) // _TOKENS_PRICED)
