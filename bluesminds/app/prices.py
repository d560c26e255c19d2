"""The price book: the configuration, the database, and the table that comes with the gateway."""

from functools import cache
from importlib.resources import files

from bluesminds.app.services import Services
from bluesminds.app.settings_map import configured_prices
from bluesminds.common.prices import combine
from bluesminds.gateway.prices.book import PriceBook
from bluesminds.gateway.prices.bundled import BundledPrices


@cache
def bundled_prices() -> BundledPrices:
    return BundledPrices(files("bluesminds.app").joinpath("prices.json.xz").read_bytes())


async def load_price_book(services: Services) -> PriceBook:
    """The current prices. Lines of the configuration replace those of the database with the same server,
    model and date. Raises StorageError.
    """
    configured = configured_prices(services.settings)
    taken = {(line.server, line.model, line.since) for line in configured}
    stored = await services.accounts.prices.load()
    more = [line for line in stored if (line.server, line.model, line.since) not in taken]
    return PriceBook(combine([*configured, *more]), bundled_prices())
