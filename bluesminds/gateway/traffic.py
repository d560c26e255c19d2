"""Rates of the last minutes, from samples of the counters. Requests cost nothing more."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

import trio
from msgspec import Struct

from bluesminds.gateway.metrics import Metrics

SAMPLE_SECONDS: Final = 5.0
KEPT_SECONDS: Final = 900.0
_SERVER_ERROR: Final = "5"


class TrafficSample(Struct, frozen=True):
    """Counters since the start, at a time on Trio's clock. `failed` are the responses with a status from 500.
    `seconds` is the sum of the durations of all requests.
    """

    time: float
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    seconds: float
    errors: Mapping[str, int]


class TrafficRates(Struct, frozen=True):
    """Figures of the last `seconds`, which are fewer than wanted just after the start. `errors` by code."""

    seconds: float
    requests: int
    failed: int
    input_tokens: int
    output_tokens: int
    duration: float
    errors: Mapping[str, int]


class TrafficMonitor:
    """Samples the counters while `run` runs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._samples = deque([self._sample()], maxlen=round(KEPT_SECONDS / SAMPLE_SECONDS) + 1)
        self._started = trio.current_time()

    @property
    def uptime(self) -> int:
        """Seconds since the start."""
        return int(trio.current_time() - self._started)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            self._samples.append(self._sample())

    def rates(self, seconds: float) -> TrafficRates:
        """Up to now, since the newest sample that is at least `seconds` old, or the oldest one."""
        now = self._sample()
        old = [sample for sample in self._samples if now.time - sample.time >= seconds]
        since = old[-1] if old else self._samples[0]
        requests = now.requests - since.requests
        return TrafficRates(
            seconds=now.time - since.time,
            requests=requests,
            failed=now.failed - since.failed,
            input_tokens=now.input_tokens - since.input_tokens,
            output_tokens=now.output_tokens - since.output_tokens,
            duration=(now.seconds - since.seconds) / requests if requests else 0.0,
            errors=dict(Counter(now.errors) - Counter(since.errors)),
        )

    def _sample(self) -> TrafficSample:
        metrics = self._metrics
        requests, tokens = metrics.requests.items(), metrics.tokens.items()
        return TrafficSample(
            time=trio.current_time(),
            requests=sum(metrics.requests.values()),
            failed=sum(count for (*_, status), count in requests if status.startswith(_SERVER_ERROR)),
            input_tokens=sum(count for (_, kind), count in tokens if kind == "input"),
            output_tokens=sum(count for (_, kind), count in tokens if kind == "output"),
            seconds=sum(histogram.total for histogram in metrics.seconds.values()),
            errors={code: count for (code,), count in metrics.errors.items()},
        )
