"""The table of prices that comes with the gateway. packaging/prices.py builds its file.

Format: JSON, compressed with xz. {"date", "sources", "vendors": {vendor: {model: rows, or the name of a model
with the same rows}}}. Rows are from the oldest to the newest; the last one that applies counts. `since` is a
day, and `hours` are minutes of the day, both in UTC. Names are in lower case.
"""

import lzma
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.money import Price, Steps

MINUTE_MS: Final = 60_000
DAY_MINUTES: Final = 24 * 60
# "-2026-02-28", "-20260228" and "-latest" name a version of a model.
_VERSION: Final = re.compile(r"-(20\d\d-\d\d-\d\d|20\d{6}|latest)\Z")
# What comes before the slash in names of LiteLLM and OpenRouter, if it is not the vendor's name.
_PREFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "google": "gemini",
        "x-ai": "xai",
        "mistralai": "mistral",
        "together_ai": "together",
        "fireworks_ai": "fireworks",
        "moonshot": "moonshotai",
        "z-ai": "zai",
        "azure_ai": "azure",
    }
)
_OTHER_TABLE: Final[Mapping[str, str]] = MappingProxyType({"azure": "openai", "gemini-openai": "gemini"})


class PriceOrigin(Struct, frozen=True):
    """A package with prices."""

    name: str
    version: str
    licence: str
    url: str


class _Row(Struct, frozen=True, forbid_unknown_fields=True):
    steps: Steps
    since: str = ""
    hours: tuple[int, int] | None = None
    tiers: dict[str, Steps] = {}
    max_output: int | None = None


class _Table(Struct):
    date: str
    sources: tuple[PriceOrigin, ...]
    vendors: dict[str, dict[str, Raw]]


class DatedPrice(Struct, frozen=True):
    """`since`, `until`: milliseconds. `hours`: minutes of the day (UTC). Ends are excluded."""

    since: int
    price: Price
    hours: tuple[int, int] | None = None
    until: int | None = None

    def applies(self, at_ms: int) -> bool:
        if at_ms < self.since or (self.until is not None and at_ms >= self.until):
            return False
        if self.hours is None:
            return True
        start, end = self.hours
        minute = at_ms // MINUTE_MS % DAY_MINUTES
        return start <= minute < end if start <= end else minute >= start or minute < end


_table: Final = msgspec.json.Decoder(_Table)
_rows: Final = msgspec.json.Decoder(list[_Row] | str)


class BundledPrices:
    """`data`: the file."""

    def __init__(self, data: bytes) -> None:
        table = _table.decode(lzma.decompress(data))
        self.date = table.date
        self.sources = table.sources
        self._vendors = table.vendors

    def __iter__(self) -> Iterator[tuple[str, str, Sequence[DatedPrice]]]:
        """Vendor, model, and prices from the oldest to the newest."""
        for vendor, models in self._vendors.items():
            for model in models:
                yield vendor, model, self._read(vendor, model)

    def of_vendor(self, vendor: str, model: str) -> Sequence[DatedPrice]:
        """The prices of a vendor's model, from the oldest to the newest; empty if there are none."""
        vendor = vendor if vendor in self._vendors else _OTHER_TABLE.get(vendor, vendor)
        for table in (vendor, _OTHER_TABLE.get(vendor, "")):
            models = self._vendors.get(table)
            for name in _spellings(model) if models else ():
                if models and name in models:
                    return self._read(table, name)
        return ()

    def of_name(self, model: str) -> Sequence[DatedPrice]:
        """The prices of the first vendor with this model; makers of models come first."""
        prefix, slash, rest = model.lower().partition("/")
        vendor = _PREFIXES.get(prefix, prefix)
        if slash and vendor in self._vendors and (found := self.of_vendor(vendor, rest)):
            return found
        for name in _spellings(model):
            for table, models in self._vendors.items():
                if name in models:
                    return self._read(table, name)
        return ()

    def _read(self, vendor: str, model: str) -> Sequence[DatedPrice]:
        models = self._vendors[vendor]
        rows = _rows.decode(models[model])
        if isinstance(rows, str):
            rows = _rows.decode(models[rows])
        return [self._dated(f"{vendor}/{model}", row) for row in rows if not isinstance(row, str)]

    def _dated(self, name: str, row: _Row) -> DatedPrice:
        since = (
            int(datetime.fromisoformat(row.since).replace(tzinfo=UTC).timestamp() * 1000) if row.since else 0
        )
        price = Price(
            version=f"bundled:{name}@{row.since or self.date}",
            steps=row.steps,
            source="bundled",
            tiers=row.tiers,
            max_output=row.max_output,
        )
        return DatedPrice(since, price, row.hours)


def _spellings(model: str) -> Sequence[str]:
    """The name, and the one without the version of the model."""
    name = model.lower()
    short = _VERSION.sub("", name)
    return (name,) if short == name else (name, short)
