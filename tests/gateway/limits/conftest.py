"""Stops the clock of rate limits, so that no minute passes during a test on a slow machine."""

from functools import partial

import pytest

from bluesminds.gateway.limits.reserve import RateLimiter


@pytest.fixture(autouse=True)
def stopped_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """For gateways that are started through `tests.gateways`."""
    limiter = partial(RateLimiter, monotonic=lambda: 1000.0)
    monkeypatch.setattr("bluesminds.app.data_plane.RateLimiter", limiter)
