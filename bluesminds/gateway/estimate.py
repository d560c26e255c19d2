"""Estimates the tokens and cost of a request before it runs.

Prompt tokens follow from the size of the body, by a ratio learned for each model from the usage that servers
report. Completion tokens are the client's limit, else the model's, times the number of choices. The cost is
None, never 0, for a model without a price.
"""

from collections.abc import Iterable, Mapping

from bluesminds.common.money import Price
from bluesminds.common.values import Usage
from bluesminds.gateway.call import Call
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.routing.plans import Target
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.conversation import TokenForecast

INITIAL_RATIO = 1 / 4  # tokens per byte: the usual rule of thumb for English text
MIN_RATIO, MAX_RATIO = 1 / 16, 1 / 2  # bounds the effect of images, which count as tokens but not as bytes
LEARNING_RATE = 1 / 16  # weight of the newest report
MAX_MODELS = 1000


class Estimator:
    """`default_completion`: tokens of one choice if neither the request nor the price limits them."""

    def __init__(self, prices: Mapping[str, Price], *, default_completion: int) -> None:
        self.prices = prices
        self._default_completion = default_completion
        self._ratios: dict[str, float] = {}

    def estimate(self, call: Call, priced_as: str = "") -> Estimate:
        """The maximum that the request is expected to use. `priced_as`: the name of the price, if it is not
        the client's name of the model.
        """
        facts = call.facts
        price = self.prices.get(priced_as or facts.model)
        output = facts.max_output
        if output is None:
            output = self._default_output(price)
        output *= facts.choices
        input_ = self._input(facts)
        return Estimate(input_ + output, None if price is None else price.max_cost(input_, output))

    def dearest(self, call: Call, targets: Iterable[Target]) -> Estimate:
        """The maximum over all targets. Without a cost if one of them has no price."""
        names = {target.priced_as for target in targets} or {""}
        estimates = [self.estimate(call, name) for name in names]
        costs = [one.nano for one in estimates if one.nano is not None]
        return Estimate(
            max(one.tokens for one in estimates), max(costs) if len(costs) == len(estimates) else None
        )

    def estimate_tokens(self, model: str, input_: int, output: int) -> Estimate:
        """For a request whose tokens are known or bounded."""
        price = self.prices.get(model)
        return Estimate(input_ + output, None if price is None else price.max_cost(input_, output))

    def forecast(self, call: Call, priced_as: str = "") -> TokenForecast:
        price = self.prices.get(priced_as or call.facts.model)
        return TokenForecast(
            input=self._input(call.facts),
            default_output=self._default_output(price),
            max_output=None if price is None else price.max_output,
        )

    def max_output(self, model: str) -> int:
        """Tokens of one choice, if the client sets no limit."""
        return self._default_output(self.prices.get(model))

    def _input(self, facts: RequestFacts) -> int:
        return int(facts.text_bytes * self._ratios.get(facts.model, INITIAL_RATIO)) + 1 + facts.media_tokens

    def _default_output(self, price: Price | None) -> int:
        return (price and price.max_output) or self._default_completion

    def cost(self, model: str, usage: Usage) -> int | None:
        """nano-USD; None when the model has no price, or none for the units of this usage."""
        if usage.source == "cache":
            return 0
        price = self.prices.get(model)
        if price is None or (usage.output is None and usage.source != "none"):
            return None
        return price.cost(usage.input or 0, usage.cache_read or 0, usage.output or 0)

    def learn(self, model: str, size: int, usage: Usage) -> None:
        """Update the ratio with what a server reported for a prompt of `size` bytes."""
        if usage.source != "upstream" or not usage.input or not size:
            return
        observed = min(max(usage.input / size, MIN_RATIO), MAX_RATIO)
        ratio = self._ratios.get(model)
        if ratio is None:
            if len(self._ratios) >= MAX_MODELS:
                del self._ratios[next(iter(self._ratios))]
            ratio = INITIAL_RATIO
        self._ratios[model] = ratio + (observed - ratio) * LEARNING_RATE
