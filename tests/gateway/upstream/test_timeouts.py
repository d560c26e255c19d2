"""The time until the first content depends on whether another target is left."""

import math

from bluesminds.common.routes import DEFAULT_OPTIONS, RouteOptions
from bluesminds.gateway.upstream.timeouts import TimeoutTable
from bluesminds.http.client.pool import Timeouts

TABLE = TimeoutTable(Timeouts(first_byte=120, between_chunks=60), first_token=30)


def limits(options: RouteOptions, *, is_last: bool) -> tuple[float, float]:
    timeouts = TABLE.for_stream(options, is_last=is_last)
    return timeouts.first_byte, timeouts.between_chunks


def test_last_target_gets_more_time_for_its_first_content() -> None:
    for options in (DEFAULT_OPTIONS, RouteOptions()):
        assert limits(options, is_last=False) == (30, 60)
        assert limits(options, is_last=True) == (120, 60)
    assert TABLE.json.first_byte == TABLE.json.between_chunks == math.inf


def test_first_token_limit_above_the_last_one_is_lowered() -> None:
    table = TimeoutTable(Timeouts(first_byte=10), first_token=30)
    assert table.for_stream(DEFAULT_OPTIONS, is_last=False).first_byte == 10


def test_route_with_own_limits_overrides_the_settings() -> None:
    options = RouteOptions(first_token_timeout=15, chunk_timeout=20)
    assert limits(options, is_last=False) == (15, 20)
    assert limits(options, is_last=True) == (120, 20)
    assert limits(RouteOptions(first_token_timeout=300), is_last=True) == (300, 60)
    assert limits(RouteOptions(chunk_timeout=5), is_last=False) == (30, 5)
