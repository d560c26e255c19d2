"""Rates from samples of the counters."""

import pytest
import trio
from trio.testing import MockClock

from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.traffic import KEPT_SECONDS, TrafficMonitor


def count(metrics: Metrics, requests: int, status: str = "200") -> None:
    metrics.requests["chat.completions", "m", "s", status] += requests
    metrics.tokens["m", "input"] += 10 * requests
    metrics.tokens["m", "output"] += requests
    for _ in range(requests):
        metrics.seconds["chat.completions"].observe(0.5)


async def test_rates_cover_the_last_seconds(autojump_clock: MockClock) -> None:
    metrics = Metrics()
    count(metrics, 7)
    traffic = TrafficMonitor(metrics)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traffic.run)
        count(metrics, 3)
        metrics.errors["rate_limited",] += 2
        await trio.sleep(101)
        count(metrics, 2, "503")
        metrics.errors["server_down",] += 2
        early, recent = traffic.rates(300), traffic.rates(60)
        await trio.sleep(2 * KEPT_SECONDS)
        late = traffic.rates(60)
        assert traffic.uptime == 101 + 2 * KEPT_SECONDS
        nursery.cancel_scope.cancel()
    assert (early.seconds, early.requests, early.failed) == (101, 5, 2)
    assert (early.input_tokens, early.output_tokens, early.duration) == (50, 5, 0.5)
    assert early.errors == {"rate_limited": 2, "server_down": 2}
    assert recent.seconds == pytest.approx(61)
    assert (recent.requests, recent.failed, recent.errors) == (2, 2, {"server_down": 2})
    assert (late.requests, late.duration, late.errors) == (0, 0.0, {})
