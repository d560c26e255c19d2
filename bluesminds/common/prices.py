"""Prices that the operator sets: lines of the configuration and of the database, and what they combine to.

A line has rates in USD. Lines with the same server, model and date are one price: the line without a service
tier and a number of tokens is its base, the others are its service tiers and long contexts.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from msgspec import Struct, json, structs

from bluesminds.common.money import Price, Rates, Steps, read_usd, write_usd

# Field of settings and of the API: unit, and the number of units in a million of what the field prices.
RATE_FIELDS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "input_usd": ("input", 1),
        "cached_input_usd": ("cached_input", 1),
        "cache_write_usd": ("cache_write", 1),
        "cache_write_hour_usd": ("cache_write_hour", 1),
        "output_usd": ("output", 1),
        "reasoning_usd": ("reasoning", 1),
        "audio_input_usd": ("audio_input", 1),
        "audio_output_usd": ("audio_output", 1),
        "image_input_usd": ("image_input", 1),
        "image_output_usd": ("image_output", 1),
        "image_usd": ("image", 10**6),
        "second_usd": ("second", 10**6),
        "character_usd": ("character", 1),
        "request_usd": ("request", 10**6),
    }
)


class PriceLine(Struct, frozen=True):
    """`server`: "" is every server. `since` and `until` (exclusive): milliseconds since the epoch.
    `service_tier`: "" is the standard one. `from_tokens`: the rates apply from this many input tokens on.
    """

    model: str
    rates: Rates
    server: str = ""
    since: int = 0
    service_tier: str = ""
    from_tokens: int = 0
    max_output: int | None = None
    until: int | None = None

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        return self.server, self.model, self.since, self.service_tier, self.from_tokens


SEVERAL_PRICES: Final = (
    "several"  # version in the usage record of a request with attempts at different prices
)


class NewCost(Struct, frozen=True):
    """Nano-USD, and the version of the price."""

    nano: int
    version: str


class OperatorPrice(Struct, frozen=True):
    """`server`: the name of the only server that it is for; "": all. `since`, `until`: milliseconds."""

    model: str
    price: Price
    server: str = ""
    since: int = 0
    until: int | None = None


def rates_from(fields: Mapping[str, object]) -> Rates:
    """Rates of fields like `input_usd`, whose values are amounts as text or None. Raises ValueError."""
    found = {}
    for name, (unit, scale) in RATE_FIELDS.items():
        if isinstance(text := fields.get(name), str):
            found[unit] = read_usd(text) * scale
    return Rates(**found)


def rate_texts(rates: Rates) -> dict[str, str | None]:
    """The fields of rates, the reverse of `rates_from`. Fractions of a nano-USD are left out."""
    values = structs.asdict(rates)
    return {
        name: None if (rate := values[unit]) is None else write_usd(rate // scale)
        for name, (unit, scale) in RATE_FIELDS.items()
    }


def read_day(text: str) -> int:
    """Milliseconds at the start of a day like 2026-02-28, in UTC. Raises ValueError."""
    return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000


def write_day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()


def combine(lines: Iterable[PriceLine]) -> list[OperatorPrice]:
    """One price for each server, model and date. It ends with the first of its lines that ends."""
    groups: dict[tuple[str, str, int], dict[tuple[str, int], PriceLine]] = {}
    for line in lines:
        group = groups.setdefault((line.server, line.model, line.since), {})
        group.setdefault((line.service_tier, line.from_tokens), line)
    return [
        OperatorPrice(
            model,
            _price(server, model, since, group),
            server,
            since,
            min((line.until for line in group.values() if line.until is not None), default=None),
        )
        for (server, model, since), group in groups.items()
    ]


def _price(server: str, model: str, since: int, group: Mapping[tuple[str, int], PriceLine]) -> Price:
    base = _steps(group, "", Rates())
    tiers = {tier: _steps(group, tier, base[0][1]) for tier, _ in group if tier}
    maximum = next((line.max_output for line in group.values() if line.max_output is not None), None)
    digest = sha256(json.encode((base, sorted(tiers.items()), maximum))).hexdigest()[:12]
    day = write_day(since) if since else ""
    return Price(
        version=f"{server or 'operator'}:{model}@{day}#{digest}",
        steps=base,
        source="server" if server else "operator",
        tiers=tiers,
        max_output=maximum,
    )


def _steps(group: Mapping[tuple[str, int], PriceLine], tier: str, rates: Rates) -> Steps:
    """Each step has the rates of the one before where it does not state its own."""
    steps = []
    lines: Sequence[PriceLine] = sorted(
        (line for (name, _), line in group.items() if name == tier), key=lambda line: line.from_tokens
    )
    if not lines or lines[0].from_tokens:
        steps.append((0, rates))
    for line in lines:
        own = {name: rate for name, rate in structs.asdict(line.rates).items() if rate is not None}
        rates = structs.replace(rates, **own)
        steps.append((line.from_tokens, rates))
    return tuple(steps)
