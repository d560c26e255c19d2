"""Attempts beyond the first are bounded per route."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bluesminds.gateway.upstream.retry_budget import MAX_BUCKETS, MOST, RetryBudget
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer, drop_twice, hang, refusal
from tests.gateways import STREAM, Gateway, entry

TARGETS = [{"server": "first", "priority": 0}, {"server": "second", "priority": 1}]


def taken(budget: RetryBudget, name: str) -> int:
    count = 0
    while budget.take(name):
        count += 1
    return count


def test_requests_and_time_add_tokens() -> None:
    now = 0.0
    budget = RetryBudget(lambda: now)
    budget.add_request("m")
    assert taken(budget, "m") == MOST
    for _ in range(50):
        budget.add_request("m")
    assert taken(budget, "m") == 10
    now = 2.0
    assert taken(budget, "m") == 6
    now = 1000.0
    assert taken(budget, "m") == MOST
    assert not budget.take("other"), "no request was counted"


def test_number_of_buckets_is_bounded() -> None:
    budget = RetryBudget(lambda: 0.0)
    for number in range(MAX_BUCKETS + 10):
        budget.add_request(f"m{number}")
    assert not budget.take("m0")
    assert budget.take(f"m{MAX_BUCKETS + 9}")


@pytest.fixture
async def servers(nursery: trio.Nursery) -> list[ModelServer]:
    return [await nursery.start(model_server.serve) for _ in range(3)]


async def test_outage_of_all_servers_is_not_multiplied(
    nursery: trio.Nursery, home: Path, servers: list[ModelServer], mock_clock: MockClock
) -> None:
    """The clock stands still while requests are sent, so that time adds no tokens."""
    mock_clock.rate = 1.0
    rows = [entry(f"s{number}", server.url) for number, server in enumerate(servers)]
    gateway = await gateways.start(nursery, home, servers=rows)
    for server in servers:
        server.default = refusal(503)
    mock_clock.rate = 0.0
    requests = 100
    async with gateway.client(timeout=None) as client:
        for _ in range(requests):
            answer = await client.post("/v1/chat/completions", json=gateways.ASK)
            assert answer.status_code == 503
    mock_clock.rate = 1.0
    assert sum(len(server.asked) for server in servers) <= 1.2 * requests + MOST
    assert 0 < int(answer.headers["retry-after"]) <= 30, "the time until a server is tried again"


async def test_rate_limited_server_rests_for_the_time_it_names(
    nursery: trio.Nursery, home: Path, servers: list[ModelServer], mock_clock: MockClock
) -> None:
    mock_clock.rate = 1.0
    first, second, _ = servers
    rows = [entry("first", first.url, priority=0), entry("second", second.url, priority=1)]
    gateway = await gateways.start(nursery, home, servers=rows)
    first.plan(refusal(429, None, b"Retry-After: 40"))
    for _ in range(3):
        assert (await gateway.chat()).headers["x-bluesminds-server"] == "second"
    assert len(first.asked) == 1
    mock_clock.jump(41)
    assert (await gateway.chat()).headers["x-bluesminds-server"] == "first"
    assert (await gateway.get("/metrics")).text.count("bluesminds_server_ejected{") == 0


@pytest.mark.parametrize("status", [429, 402], ids=["limited", "without credit"])
async def test_rate_limit_without_a_time_does_not_use_up_the_retries(
    nursery: trio.Nursery, home: Path, servers: list[ModelServer], mock_clock: MockClock, status: int
) -> None:
    first, second, _ = servers
    rows = [entry("first", first.url, priority=0), entry("second", second.url, priority=1)]
    gateway = await gateways.start(nursery, home, servers=rows)
    first.default = refusal(status)
    mock_clock.rate = 0.0
    requests = MOST + 20
    async with gateway.client(timeout=None) as client:
        for _ in range(int(requests)):
            answer = await client.post("/v1/chat/completions", json=gateways.ASK)
            assert (answer.status_code, answer.headers["x-bluesminds-server"]) == (200, "second")
        assert len(first.asked) == 1
        async with gateway.operator() as operator:
            (circuit,) = (await operator.get("/api/admin/health")).json()["servers"][0]["circuits"]
        assert (circuit["state"], circuit["last_error"]) == ("resting", "rate limited")
    mock_clock.rate = 1.0


@pytest.mark.parametrize("failure", [drop_twice, hang], ids=["dropped", "silent"])
async def test_accepted_request_is_not_repeated_if_the_route_forbids_it(
    nursery: trio.Nursery, home: Path, servers: list[ModelServer], failure: model_server.Plan
) -> None:
    first, second, _ = servers
    gateway: Gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("first", first.url), entry("second", second.url)],
        routes=[{"model": "m", "targets": TARGETS, "repeat_accepted": False, "first_token_timeout": 1}],
    )
    first.plan(failure)
    assert (await gateway.chat(STREAM)).status_code in (502, 504)
    assert second.asked == []
    first.plan(refusal(503))
    answer = await gateway.chat(STREAM)
    assert (answer.status_code, len(second.asked)) == (200, 1), "a refused request costs nothing"
