"""Estimates the tokens and cost of a request before it runs.

Prompt tokens follow from the size of the body, by a ratio learned for each model from the usage that servers
report. Completion tokens are the client's limit, else the model's, times the number of choices. The cost is
None, never 0, for a model without a price.
"""

from collections.abc import Sequence

from msgspec import structs

from bluesminds.common.money import OWN_PRICE, Price
from bluesminds.common.values import OWN, Usage
from bluesminds.gateway.call import Call
from bluesminds.gateway.limits.budget import OutputForecast
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.prices.book import PriceRegistry
from bluesminds.gateway.routing.plans import Target
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.conversation import TokenForecast

INITIAL_RATIO = 1 / 4  # tokens per byte: the usual rule of thumb for English text
MIN_RATIO, MAX_RATIO = 1 / 16, 1 / 2  # bounds the effect of images, which count as tokens but not as bytes
LEARNING_RATE = 1 / 16  # weight of the newest report
MAX_MODELS = 1000


class Estimator:
    """`default_completion`: tokens of one choice if neither the request nor the price limits them."""

    def __init__(self, prices: PriceRegistry, *, default_completion: int) -> None:
        self.prices = prices
        self._default_completion = default_completion
        self._ratios: dict[str, float] = {}
        self.outputs = OutputForecast()

    def price(self, target: Target | None, model: str, at_ms: int) -> Price | None:
        """The price at a target of what the client calls `model`."""
        if target is None:
            return self.prices.book.find(None, model, at_ms)
        if target.server.origin == OWN:
            return OWN_PRICE
        served = target.serves or model
        sent = target.model or model
        return self.prices.book.find(target.server, sent, at_ms, "" if sent == served else served)

    def estimate(self, call: Call, target: Target | None = None) -> Estimate:
        """The maximum that the request is expected to use at a target."""
        return self._estimate(call, self.price(target, call.model, call.context.at_ms))

    def _estimate(self, call: Call, price: Price | None) -> Estimate:
        facts = call.facts
        output = facts.max_output
        if output is None:
            output = self._default_output(price)
        output *= facts.choices
        input_ = self._input(facts)
        if price is None:
            return Estimate(input_ + output, None, input_)
        held = self._held_output(call, price, output)
        return Estimate(input_ + output, _reserved(price, input_, held, call.markup), input_, held, price)

    def _held_output(self, call: Call, price: Price, output: int) -> int:
        """The output tokens to reserve money for: for a stream, what recent responses suggest, because its
        reservation can grow; otherwise the maximum.
        """
        facts = call.facts
        if facts.max_output is None and price.max_output is not None:
            output = price.max_output * facts.choices
        if facts.stream:
            expected = self.outputs.expect(call.key_id, call.model) or self._default_completion
            return min(output, expected)
        return output

    def dearest(self, call: Call, targets: Sequence[Target]) -> Estimate:
        """The maximum over all targets. Without a cost if one of them has no price."""
        if len(targets) < 2:
            return self.estimate(call, targets[0] if targets else None)
        prices = [self.price(target, call.model, call.context.at_ms) for target in targets]
        distinct = {None if price is None else price.version: price for price in prices}
        estimates = [self._estimate(call, price) for price in distinct.values()]
        if any(one.nano is None for one in estimates):
            return Estimate(max(one.tokens for one in estimates), None, estimates[0].input)
        dearest = max(estimates, key=lambda one: one.nano or 0)
        return structs.replace(dearest, tokens=max(one.tokens for one in estimates))

    def estimate_tokens(self, price: Price | None, input_: int, output: int, markup: int = 0) -> Estimate:
        return Estimate(input_ + output, None if price is None else _reserved(price, input_, output, markup))

    def forecast(self, call: Call, target: Target) -> TokenForecast:
        price = self.price(target, call.model, call.context.at_ms)
        return TokenForecast(
            input=self._input(call.facts),
            default_output=self._default_output(price),
            max_output=_stated_maximum(price),
        )

    def input_tokens(self, call: Call) -> int:
        return self._input(call.facts)

    def max_output(self, price: Price | None) -> int:
        """Tokens of one choice, if the client sets no limit."""
        return self._default_output(price)

    def _input(self, facts: RequestFacts) -> int:
        return int(facts.text_bytes * self._ratios.get(facts.model, INITIAL_RATIO)) + 1 + facts.media_tokens

    def _default_output(self, price: Price | None) -> int:
        return _stated_maximum(price) or self._default_completion

    def learn(self, model: str, size: int, usage: Usage) -> None:
        """Update the ratio with what a server reported for a prompt of `size` bytes."""
        if usage.usage_source != "upstream" or not usage.input_tokens or not size:
            return
        observed = min(max(usage.input_tokens / size, MIN_RATIO), MAX_RATIO)
        ratio = self._ratios.get(model)
        if ratio is None:
            if len(self._ratios) >= MAX_MODELS:
                del self._ratios[next(iter(self._ratios))]
            ratio = INITIAL_RATIO
        self._ratios[model] = ratio + (observed - ratio) * LEARNING_RATE


def _reserved(price: Price, input_: int, output: int, markup: int) -> int:
    """Nano-USD. 0 means that the request is free, which no budget blocks. So it is 1 for a price of images,
    seconds or characters alone, of which nothing is known yet.
    """
    return price.max_cost(input_, output, markup) or (0 if price.is_free else 1)


def _stated_maximum(price: Price | None) -> int | None:
    """The maximum that the operator has set. That of a bundled price is what the model could write, not what
    requests are expected to use.
    """
    return None if price is None or price.source == "bundled" else price.max_output
