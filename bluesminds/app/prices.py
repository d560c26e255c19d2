"""The price book: the configuration, the database, and the table that comes with the gateway."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from bluesminds.app.services import Services
from bluesminds.app.settings_map import configured_prices
from bluesminds.common.prices import PriceLine, combine
from bluesminds.gateway.prices.book import PriceBook
from bluesminds.gateway.prices.bundled import BundledPrices


@cache
def bundled_prices() -> BundledPrices:
    return BundledPrices(files("bluesminds.app").joinpath("prices.json.xz").read_bytes())


class PriceLoader:
    """Builds the price book. Lines of the configuration replace those of the database with the same server,
    model and date.
    """

    def __init__(self, services: Services) -> None:
        self._stored = services.accounts.prices
        self.configured: Sequence[PriceLine] = configured_prices(services.settings)
        """Those in force. A reload of the configuration replaces them."""

    async def load(self) -> PriceBook:
        """Raises StorageError."""
        stored = await self._stored.load()
        return _build(self.configured, stored)

    async def read(self, configured: Sequence[PriceLine]) -> PriceBook:
        """With other lines of the configuration. Raises StorageError."""
        return _build(configured, await self._stored.load())


def _build(configured: Sequence[PriceLine], stored: Sequence[PriceLine]) -> PriceBook:
    taken = {(line.server, line.model, line.since) for line in configured}
    more = [line for line in stored if (line.server, line.model, line.since) not in taken]
    return PriceBook(combine([*configured, *more]), bundled_prices())
