"""The time until the first content depends on whether another target is left."""

import math

from bluesminds.common.routes import DEFAULT_OPTIONS, RouteOptions
from bluesminds.common.values import ServerOptions
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


def server_limits(server: ServerOptions, route: RouteOptions, *, is_last: bool) -> tuple[float, float]:
    timeouts = TABLE.for_server(server, route, stream=True, is_last=is_last)
    return timeouts.first_byte, timeouts.between_chunks


def test_server_with_own_limits_overrides_the_settings() -> None:
    own = ServerOptions(connect_timeout=1, first_token_timeout=10, first_byte_timeout=200, chunk_timeout=7)
    assert server_limits(own, DEFAULT_OPTIONS, is_last=False) == (10, 7)
    assert server_limits(own, DEFAULT_OPTIONS, is_last=True) == (200, 7)
    assert TABLE.for_server(own, DEFAULT_OPTIONS, stream=True, is_last=True).connect == 1
    json = TABLE.for_server(own, DEFAULT_OPTIONS, stream=False, is_last=True)
    assert (json.connect, json.first_byte, json.between_chunks) == (1, math.inf, math.inf)


def test_first_byte_limit_of_a_server_also_bounds_its_first_token() -> None:
    assert server_limits(ServerOptions(first_byte_timeout=5), DEFAULT_OPTIONS, is_last=False) == (5, 60)


def test_limits_of_a_route_have_priority_over_those_of_a_server() -> None:
    own = ServerOptions(first_token_timeout=10, first_byte_timeout=12, chunk_timeout=7)
    route = RouteOptions(first_token_timeout=15, chunk_timeout=20)
    assert server_limits(own, route, is_last=False) == (15, 20)
    assert server_limits(own, route, is_last=True) == (15, 20)


def test_total_limit_of_a_server_is_for_streams_and_json() -> None:
    for stream in (True, False):
        own = ServerOptions(total_timeout=9)
        assert TABLE.for_server(own, DEFAULT_OPTIONS, stream=stream, is_last=True).total == 9


def test_timeouts_of_a_server_are_built_once() -> None:
    for stream in (True, False):
        first, second = (
            TABLE.for_server(ServerOptions(total_timeout=8), DEFAULT_OPTIONS, stream=stream, is_last=True)
            for _ in range(2)
        )
        assert first is second
