"""What a request may come to cost, before anybody knows.

The prompt's tokens follow from its bytes by a ratio learned for each model from what servers report; the
completion's are the most the client asked for, else the most the model writes, for every choice asked for.
Money follows by the model's price; a model without one costs an unknown amount, which is None and never 0.
"""

from collections.abc import Mapping

from bluesminds.common.money import Price
from bluesminds.common.values import Call, Usage
from bluesminds.gateway.limits.counters import Estimate

FIRST_RATIO = 1 / 4  # tokens per byte: the usual rule of thumb for English text
LEAST_RATIO, MOST_RATIO = 1 / 16, 1 / 2  # pictures count as tokens but not as bytes; one must not spoil all
WEIGHT = 1 / 16  # of the newest report
MAX_MODELS = 1000


class Estimator:
    """`default_completion`: tokens of an answer of a model whose price does not say."""

    def __init__(self, prices: Mapping[str, Price], *, default_completion: int) -> None:
        self.prices = prices
        self._default = default_completion
        self._ratios: dict[str, float] = {}

    def demand(self, call: Call, size: int) -> Estimate:
        """`size`: bytes of the request that may be text."""
        price = self.prices.get(call.model)
        completion = call.max_completion or (price and price.max_output) or self._default
        completion *= call.choices
        prompt = int(size * self._ratios.get(call.model, FIRST_RATIO)) + 1
        return Estimate(prompt + completion, None if price is None else price.most(prompt, completion))

    def cost(self, model: str, usage: Usage) -> int | None:
        """nano-USD; None when the model has no price."""
        price = self.prices.get(model)
        if price is None:
            return None
        return price.cost(usage.input or 0, usage.cache_read or 0, usage.output or 0)

    def learn(self, model: str, size: int, usage: Usage) -> None:
        """Take in what a server reported for a prompt of `size` bytes."""
        if usage.source != "upstream" or not usage.input or not size:
            return
        seen = min(max(usage.input / size, LEAST_RATIO), MOST_RATIO)
        known = self._ratios.get(model)
        if known is not None:
            self._ratios[model] = known + (seen - known) * WEIGHT
            return
        if len(self._ratios) >= MAX_MODELS:
            del self._ratios[next(iter(self._ratios))]
        self._ratios[model] = FIRST_RATIO + (seen - FIRST_RATIO) * WEIGHT
