"""What a stream may cost: its reservation grows while it runs, and it ends when no more can be reserved.

A stream reserves what recent responses of the same API key and model suggest. The maximum of the request
would lock a small budget, because clients request far more than they use.
"""

from typing import Final

from bluesminds.common.money import Price
from bluesminds.gateway.limits.reserve import Reservation

STEP: Final = 256  # tokens by which a reservation grows
LEAST_OUTPUT: Final = 16  # tokens; a response with fewer is of no use
MAX_FORECASTS: Final = 10_000
QUANTILE: Final = 0.9
RATE: Final = 1 / 4  # how far one response moves the forecast, relative to it
LEAST_STEP: Final = 16  # tokens


class OutputForecast:
    """The decayed 90 % quantile of output tokens, by API key and model.

    Each response moves it up or down by the gradient of the quantile loss (Koenker and Bassett, "Regression
    quantiles", 1978), so that recent responses count more.
    """

    def __init__(self) -> None:
        self._forecasts: dict[tuple[str, str], float] = {}

    def expect(self, key_id: str, model: str) -> int | None:
        """None before the first response."""
        found = self._forecasts.get((key_id, model))
        return None if found is None else int(found) + 1

    def learn(self, key_id: str, model: str, output: int) -> None:
        key = (key_id, model)
        found = self._forecasts.get(key)
        if found is None:
            if len(self._forecasts) >= MAX_FORECASTS:
                del self._forecasts[next(iter(self._forecasts))]
            self._forecasts[key] = float(output)
            return
        step = max(LEAST_STEP, found * RATE)
        found += step * (QUANTILE if output > found else QUANTILE - 1)
        self._forecasts[key] = max(0.0, found)


class StreamBudget:
    """What one stream may cost. `input_`: estimated tokens; `output`: tokens that are reserved."""

    __slots__ = ("_covered", "_input", "_markup", "_price", "_reservation")

    def __init__(self, reservation: Reservation, price: Price, input_: int, output: int, markup: int) -> None:
        self._reservation = reservation
        self._price = price
        self._input = input_
        self._covered = output
        self._markup = markup

    def allows(self, output: int) -> bool:
        """Whether the stream may have written so many tokens. Extends the reservation if it must."""
        if output <= self._covered:
            return True
        for tokens in (output + STEP, output):
            cost = self._price.max_cost(self._input, tokens, self._markup)
            if self._reservation.extend(cost):
                self._covered = tokens
                return True
        return False


def affordable_output(price: Price, input_: int, room: int, markup: int) -> int:
    """The largest number of output tokens whose cost is at most `room` nano-USD."""
    low, high = 0, 10_000_000
    if price.max_cost(input_, high, markup) <= room:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if price.max_cost(input_, middle, markup) <= room:
            low = middle
        else:
            high = middle - 1
    return low
