"""Prices for tests."""

from collections.abc import Mapping

from bluesminds.common.money import Price, Rates
from bluesminds.common.prices import OperatorPrice
from bluesminds.gateway.prices.book import PriceBook, PriceRegistry


def token_price(
    input_: int, output: int, cached: int | None = None, *, max_output: int | None = None
) -> Price:
    """Nano-USD for a million tokens."""
    rates = Rates(input=input_, output=output, cached_input=cached)
    return Price(version=f"{input_}/{output}", steps=((0, rates),), max_output=max_output)


def registry(prices: Mapping[str, Price]) -> PriceRegistry:
    """Prices by model, and no others."""
    return PriceRegistry(PriceBook([OperatorPrice(model, price) for model, price in prices.items()], None))
