"""Money as integers of nano-USD (10**-9 USD). In settings and the API it is a decimal string of USD."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from msgspec import Struct, structs

from bluesminds.common.values import Usage

NANO: Final = 10**9
MAX_USD: Final = 10**9  # the maximum of any amount or price
USD_PATTERN: Final = r"^[0-9]{1,9}(\.[0-9]{1,9})?\Z"
_AMOUNT: Final = re.compile(USD_PATTERN)
_UNITS_PRICED: Final = 1_000_000  # rates are for a million units


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


def write_unit_price(nano: int) -> str:
    """The exact price of one unit in USD, from a rate in nano-USD for a million units."""
    whole, fraction = divmod(nano, NANO * _UNITS_PRICED)
    return f"{whole}.{fraction:015}".rstrip("0").rstrip(".")


class Rates(Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Nano-USD for a million units: tokens, generated images, seconds of audio that is read, characters of
    text that is spoken, requests. None: not sold by this unit. A kind of tokens without a rate has that of
    `input` or `output`, and cache writes for an hour that of `cache_write`.
    """

    input: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_hour: int | None = None
    output: int | None = None
    reasoning: int | None = None
    audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    image: int | None = None
    second: int | None = None
    character: int | None = None
    request: int | None = None


Parts = tuple[tuple[str, str], ...]
Steps = tuple[tuple[int, Rates], ...]  # from this many input tokens on, ascending; the first one is 0
PriceSource = Literal["server", "operator", "bundled", "own"]


class CostItem(Struct, frozen=True, gc=False):
    """One line of a cost. `unit` is a field of Rates, or "second" with a quantity of milliseconds. `rate` is
    nano-USD for a million units. `fallback`: the unit has no rate.
    """

    unit: str
    quantity: int
    rate: int
    fallback: bool = False


class Price(Struct, frozen=True, gc=False):
    """The price of a model. `version` identifies it in usage records. `tiers`: the rates of service tiers, by
    the name in the response; a tier without an entry has those of `steps`. `max_output`: the maximum number
    of output tokens.
    """

    version: str
    steps: Steps
    source: PriceSource = "operator"
    tiers: Mapping[str, Steps] = MappingProxyType({})
    max_output: int | None = None

    @property
    def rates(self) -> Rates:
        """Those of a short request in the standard tier."""
        return self.steps[0][1]

    @property
    def is_free(self) -> bool:
        """Whether every rate is 0 or missing."""
        every = (rates for steps in (self.steps, *self.tiers.values()) for _, rates in steps)
        return not any(any(structs.astuple(rates)) for rates in every)

    def cost(self, usage: Usage, markup: int = 0) -> int | None:
        """Nano-USD with a markup in hundredths of a percent; None if the price has no rate for this usage."""
        items = self.items(usage)
        return None if items is None else total(items, markup)

    def max_cost(self, prompt: int, completion: int, markup: int = 0) -> int:
        """The maximum for tokens in nano-USD: as if each of them had the highest rate."""
        rates = _rates_at(self.steps, prompt)
        amount = prompt * _highest(rates.input, rates.cached_input, rates.cache_write, rates.cache_write_hour)
        amount += completion * _highest(rates.output, rates.reasoning)
        return _rounded((amount + (rates.request or 0)) * 1000, markup)

    def items(self, usage: Usage) -> list[CostItem] | None:
        """The lines of the cost; None if the price has no rate for this usage."""
        steps = self.tiers.get(usage.service_tier, self.steps) if usage.service_tier else self.steps
        rates = steps[0][1] if len(steps) == 1 else _rates_at(steps, usage.input_tokens or 0)
        items: list[CostItem] = []
        if usage.usage_source in _FREE:
            return items
        others = _other_items(rates, usage)
        if usage.output_tokens is None and rates.output is not None and not others:
            return None
        if usage.input_tokens and rates.input is not None:
            parts: Parts = _INPUTS
            if usage.cache_write_hour_tokens and rates.cache_write_hour is not None:
                parts, usage = _INPUTS_WITH_HOUR, _without_hour(usage)
            _split(items, usage.input_tokens or 0, rates, rates.input, parts, "input", usage)
        if usage.output_tokens and rates.output is not None:
            _split(items, usage.output_tokens, rates, rates.output, _OUTPUTS, "output", usage)
        items += others
        if rates.request is not None:
            items.append(CostItem("request", 1, rates.request))
        return items if items or not _used(usage) else None


OWN_PRICE: Final = Price(
    "own", ((0, Rates(input=0, output=0, image=0, second=0, character=0, request=0)),), source="own"
)
"""Of a request with a user's own key for a vendor: the user pays the vendor."""
_FREE: Final = ("none", "cache")  # a response from the gateway's own cache costs nothing
# Of a main count, the parts with separate rates: field of the usage, unit.
_INPUTS: Final = (
    ("cache_read_tokens", "cached_input"),
    ("cache_write_tokens", "cache_write"),
    ("audio_input_tokens", "audio_input"),
    ("image_input_tokens", "image_input"),
)
_INPUTS_WITH_HOUR: Final = (("cache_write_hour_tokens", "cache_write_hour"), *_INPUTS)
_OUTPUTS: Final = (
    ("audio_output_tokens", "audio_output"),
    ("image_output_tokens", "image_output"),
    ("reasoning_tokens", "reasoning"),
)
# Amounts are summed in thousandths, because audio is counted in milliseconds.
_SCALES: Final = {"second": 1}
_DIVISOR: Final = 1000 * _UNITS_PRICED


def total(items: Sequence[CostItem], markup: int = 0) -> int:
    """The sum in nano-USD."""
    return _rounded(sum([one.quantity * one.rate * _SCALES.get(one.unit, 1000) for one in items]), markup)


def _without_hour(usage: Usage) -> Usage:
    """Cache writes without those that are kept for an hour."""
    short = (usage.cache_write_tokens or 0) - (usage.cache_write_hour_tokens or 0)
    return structs.replace(usage, cache_write_tokens=max(0, short))


def _split(
    items: list[CostItem],
    count: int,
    rates: Rates,
    rate: int,
    parts: Parts,
    unit: str,
    usage: Usage,
) -> None:
    """Add the parts of a main count, and the rest. Parts cannot be more than the count."""
    rest = count
    for field, name in parts:
        part = getattr(usage, field)
        if part:
            part = min(part, rest)
            rest -= part
            own = getattr(rates, name)
            if part:
                items.append(CostItem(name, part, rate if own is None else own, own is None))
    if rest:
        items.append(CostItem(unit, rest, rate))


def _other_items(rates: Rates, usage: Usage) -> list[CostItem]:
    items = []
    if usage.images and rates.image is not None:
        items.append(CostItem("image", usage.images, rates.image))
    if usage.audio_ms and rates.second is not None:
        items.append(CostItem("second", usage.audio_ms, rates.second))
    if usage.characters and rates.character is not None:
        items.append(CostItem("character", usage.characters, rates.character))
    return items


def _used(usage: Usage) -> bool:
    return bool(
        usage.input_tokens or usage.output_tokens or usage.images or usage.audio_ms or usage.characters
    )


def _rates_at(steps: Steps, tokens: int) -> Rates:
    rates = steps[0][1]
    for start, more in steps:
        if tokens >= start:
            rates = more
    return rates


def _highest(*rates: int | None) -> int:
    return max([rate or 0 for rate in rates])


def _rounded(amount: int, markup: int) -> int:
    """The only place that rounds money: up, to a whole nano-USD. `amount` is in thousandths of what a million
    units cost.
    """
    if markup:
        return -(-amount * (10_000 + markup) // (_DIVISOR * 10_000))
    return -(-amount // _DIVISOR)
