"""What a request costs: the lines of all of its attempts, each at the price of its own target."""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from bluesminds.common.money import CostItem, total
from bluesminds.common.prices import SEVERAL_PRICES
from bluesminds.common.values import Usage
from bluesminds.gateway.call import Call
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.routing.plans import Target
from bluesminds.wire.usage import add_usage

Attempt = tuple[Target | None, Usage]
"""A target, and its usage."""


class Bill(Struct, frozen=True):
    """`usage`: of all attempts. `cost`: nano-USD. Cost and items are None if a price is missing.
    `price_version`: "" without a price.
    """

    usage: Usage
    items: Sequence[CostItem] | None
    cost: int | None
    price_version: str


def bill_request(
    estimator: Estimator, call: Call, target: Target | None, usage: Usage, earlier: Iterable[Attempt]
) -> Bill:
    """`usage`: of the target that has answered. `earlier`: attempts whose stream another one resumed."""
    model, at_ms = call.model, call.context.at_ms
    price = estimator.price(target, model, at_ms)
    items: Sequence[CostItem] | None
    if price is None:
        items, version = () if usage.usage_source == "cache" else None, ""
    else:
        items, version = price.items(usage), price.version
    for failed, used in earlier:
        price = estimator.price(failed, model, at_ms)
        more = None if price is None else price.items(used)
        if price is None or price.version != version:
            version = SEVERAL_PRICES
        items = None if items is None or more is None else (*items, *more)
        usage = add_usage(usage, used)
    return Bill(usage, items, None if items is None else total(items, call.markup), version)
