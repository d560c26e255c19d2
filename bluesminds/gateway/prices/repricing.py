"""The cost of a settled request with the prices now in force."""

from collections.abc import Mapping
from typing import Final

from bluesminds.common.money import total
from bluesminds.common.prices import SEVERAL_PRICES, NewCost
from bluesminds.common.values import Server, Usage
from bluesminds.gateway.prices.book import PriceBook
from storage.usage import UsageRow

# Fields of a usage that its row has by the same names. What the server says that it costs sets no price.
_KEPT: Final = tuple(name for name in Usage.__struct_fields__ if name != "cost")


def new_cost(book: PriceBook, servers: Mapping[str, Server], row: UsageRow) -> NewCost | None:
    """`servers` by name. None: there is no price, the request has used several, or its server was
    removed.
    """
    if row.price_version == SEVERAL_PRICES or (row.server and row.server not in servers):
        return None
    if not row.price_version and row.cost_nano is not None:  # its cost does not follow from a price
        return None
    served = row.served_model or row.model
    sent = row.sent_model or row.model
    server = servers.get(row.server)
    if server is None:
        price = book.find(None, row.model, row.at)
    else:
        price = book.find(server, sent, row.at, "" if sent == served else served)
    items = None if price is None else price.items(usage_of(row))
    if price is None or items is None:
        return None
    return NewCost(total(items, row.markup), price.version)


def usage_of(row: UsageRow) -> Usage:
    return Usage(**{name: getattr(row, name) for name in _KEPT})
