"""The time until the first content depends on whether another target is left."""

import math

from bluesminds.common.routes import ModelRoute
from bluesminds.gateway.upstream.timeouts import TimeoutTable
from bluesminds.http.client.pool import Timeouts

TABLE = TimeoutTable(Timeouts(first_byte=120, between_chunks=60), first_token=30)


def limits(route: ModelRoute | None, *, is_last: bool) -> tuple[float, float]:
    timeouts = TABLE.for_stream(route, is_last=is_last)
    return timeouts.first_byte, timeouts.between_chunks


def test_last_target_gets_more_time_for_its_first_content() -> None:
    for route in (None, ModelRoute("m")):
        assert limits(route, is_last=False) == (30, 60)
        assert limits(route, is_last=True) == (120, 60)
    assert TABLE.json.first_byte == TABLE.json.between_chunks == math.inf


def test_first_token_limit_above_the_last_one_is_lowered() -> None:
    table = TimeoutTable(Timeouts(first_byte=10), first_token=30)
    assert table.for_stream(None, is_last=False).first_byte == 10


def test_route_with_own_limits_overrides_the_settings() -> None:
    route = ModelRoute("m", first_token_timeout=15, chunk_timeout=20)
    assert limits(route, is_last=False) == (15, 20)
    assert limits(route, is_last=True) == (120, 20)
    assert limits(ModelRoute("m", first_token_timeout=300), is_last=True) == (300, 60)
    assert limits(ModelRoute("m", chunk_timeout=5), is_last=False) == (30, 5)
