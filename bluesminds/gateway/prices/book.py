"""Finds the price of a model at a server.

In this order: a price of this server, a price of the operator, the table that comes with the gateway by the
vendor of the server, the same table by the name of the model alone. Of several prices with dates, the last
one that has begun and has not ended counts.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from bluesminds.common.clock import Clock
from bluesminds.common.money import Price
from bluesminds.common.prices import OperatorPrice
from bluesminds.common.values import Server
from bluesminds.gateway.prices.bundled import MINUTE_MS, BundledPrices, DatedPrice
from bluesminds.providers.profiles import profile_of

MAX_CACHED: Final = 5000  # found prices; their keys have names from clients
_ALWAYS: Final = 2**63
# Servers of these vendors serve models of many others. Models on the operator's own machines have no price.
_ANY_MODEL: Final = frozenset(("litellm", "portkey", "github", "nvidia", "chutes", "featherless"))

Found = tuple[int, int, Price | None]  # from, to (exclusive, milliseconds), the price


class PriceBook:
    """An immutable snapshot of all prices."""

    def __init__(self, rows: Iterable[OperatorPrice], bundled: BundledPrices | None) -> None:
        self.rows = tuple(rows)
        self.bundled = bundled
        self._own: dict[tuple[str, str], list[DatedPrice]] = {}
        for row in sorted(self.rows, key=lambda row: row.since):
            dated = DatedPrice(row.since, row.price, until=row.until)
            self._own.setdefault((row.server, row.model), []).append(dated)
        self._found: dict[tuple[tuple[str, str, str], str, str], Found] = {}

    def find(self, server: Server | None, model: str, at_ms: int, served: str = "") -> Price | None:
        """`model`: the name that the server gets. `served`: the name for clients, if it differs; it has a
        price if the other name has none. None: there is no price.
        """
        # A server may get another URL while the book is in use.
        place = ("", "", "") if server is None else (server.name, server.url, server.vendor)
        key = (place, model, served)
        found = self._found.get(key)
        if found is None or not found[0] <= at_ms < found[1]:
            found = self._search(server, [model, served] if served else [model], at_ms)
            if len(self._found) >= MAX_CACHED:
                self._found.clear()
            self._found[key] = found
        return found[2]

    def _search(self, server: Server | None, names: Sequence[str], at_ms: int) -> Found:
        start, end = 0, _ALWAYS
        for prices in self._candidates(server, names):
            for one in prices:
                if one.hours is not None:
                    minute = at_ms - at_ms % MINUTE_MS
                    start, end = max(start, minute), min(end, minute + MINUTE_MS)
                for change in (one.since, one.until) if one.until is not None else (one.since,):
                    if change <= at_ms:
                        start = max(start, change)
                    else:
                        end = min(end, change)
            for one in reversed(prices):
                if one.applies(at_ms):
                    return start, end, one.price
        return start, end, None

    def _candidates(self, server: Server | None, names: Sequence[str]) -> Iterable[Sequence[DatedPrice]]:
        """Lists of prices, the one that has priority first."""
        for place in (server.name, "") if server is not None else ("",):
            for name in names:
                yield self._own.get((place, name), ())
        if self.bundled is None:
            return
        vendor = None if server is None else profile_of(server).vendor
        if vendor is not None:
            for name in names:
                yield self.bundled.of_vendor(vendor.name, name)
        if server is None or (server.dialect != "demo" and (vendor is None or vendor.name in _ANY_MODEL)):
            for name in names:
                yield self.bundled.of_name(name)


class PriceRegistry:
    """The current price book, which is replaced as a whole."""

    def __init__(self, book: PriceBook) -> None:
        self.book = book

    def find_now(self, clock: Clock, server: Server | None, model: str, served: str) -> Price | None:
        """As PriceBook.find, for requests that arrive now."""
        return self.book.find(server, model, clock.now_ms(), served)
