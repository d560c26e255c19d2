"""A server is tried again when no other is left and the failure is safe to repeat."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes.model_server import (
    DONE,
    Asked,
    ModelServer,
    Plan,
    chunk,
    completion,
    correct,
    drop,
    error,
    hang,
    refusal,
    streamed,
)
from tests.fakes.raw_upstream import Peer
from tests.gateway.cases import Since, own_servers
from tests.gateways import ASK, STREAM, Gateway, entry

REPEATABLE: list[Plan] = [
    refusal(500),
    refusal(502),
    refusal(503),
    refusal(529),
    refusal(429),
    refusal(429, None, b"Retry-After: 0"),
    streamed(),
    streamed(b"data: " + error("overloaded", code=503) + b"\n\n"),
]


async def test_lone_server_after_repeatable_failure_is_tried_again(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=own_servers(len(REPEATABLE), models.url))
    for number, plan in enumerate(REPEATABLE):
        with subtests.test(str(number)):
            since = Since(gateway)
            models.plan(plan)
            answer = await gateway.chat(STREAM | {"model": f"m{number}"})
            assert answer.status_code == 200 and answer.content.endswith(DONE)
            assert answer.headers["x-bluesminds-attempts"] == "2"
            (row,) = since.rows()
            assert (row["outcome"], row["attempts"], row["input_tokens"]) == ("ok", 2, 11)
            assert len(since.events("attempt_failed")) == 1


async def test_lone_server_after_a_closed_connection_is_tried_again(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(drop, drop)
    answer = await gateway.chat()
    assert (answer.status_code, answer.content) == (200, completion())
    assert len(models.asked) == 3
    (row,) = gateway.rows()
    assert (row["outcome"], row["input_tokens"]) == ("ok", 11)


FINAL: list[tuple[Plan, int]] = [
    (refusal(400, error("no", code="content_policy_violation")), 400),
    (refusal(401), 502),
    (refusal(404), 404),
    (refusal(504), 504),
    (refusal(429, None, b"Retry-After: 6"), 429),
    (refusal(429, None, b"x-should-retry: false"), 429),
    (refusal(500, None, b"Retry-After: 60"), 502),
]


async def test_lone_server_after_other_failure_is_not_tried_again(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=own_servers(len(FINAL), models.url))
    for number, (plan, status) in enumerate(FINAL):
        with subtests.test(f"{number}: {status}"):
            models.asked.clear()
            models.plan(plan)
            answer = await gateway.chat(ASK | {"model": f"m{number}"})
            assert answer.status_code == status
            assert len(models.asked) == 1


async def test_reason_of_a_content_filter_reaches_the_client(gateway: Gateway, models: ModelServer) -> None:
    models.plan(refusal(400, error("policy", code="content_policy_violation")))
    told = (await gateway.chat()).json()["error"]
    assert (told["message"], told["code"]) == ("policy", "content_policy_violation")


async def test_retry_waits_as_long_as_the_server_says(gateway: Gateway, models: ModelServer) -> None:
    times: list[float] = []

    def at(plan: Plan) -> Plan:
        async def play(server: ModelServer, peer: Peer, asked: Asked) -> None:
            times.append(trio.current_time())
            await plan(server, peer, asked)

        return play

    models.plan(at(refusal(429, None, b"Retry-After-Ms: 300")), at(correct))
    assert (await gateway.chat()).status_code == 200
    first, second = times
    assert second - first >= 0.3


async def test_each_server_waits_for_its_own_time(
    pair: Gateway, models: ModelServer, second: ModelServer
) -> None:
    """The first names a long pause, the second fails at once and is due first."""
    models.plan(refusal(429, None, b"Retry-After: 5"))
    second.plan(refusal(503))
    answer = await pair.chat()
    assert (answer.status_code, answer.headers["x-bluesminds-server"]) == (200, "second")
    assert (len(models.asked), len(second.asked)) == (1, 2)


BOUNDED = [(429, None), (500, "false"), (503, "false")]


async def test_attempts_are_bounded_over_all_servers(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(BOUNDED), models.url, second.url)
    gateway = await gateways.start(nursery, home, servers=servers)
    for number, (status, retry) in enumerate(BOUNDED):
        with subtests.test(str(status)):
            since = Since(gateway)
            models.asked.clear()
            second.asked.clear()
            models.default = second.default = refusal(status)
            answer = await gateway.chat(ASK | {"model": f"m{number}"})
            assert answer.status_code == (502 if status == 500 else status)
            assert answer.headers["x-bluesminds-attempts"] == "3"
            assert (len(models.asked), len(second.asked)) == (2, 1)
            assert answer.headers.get("x-should-retry") == retry
            (row,) = since.rows()
            assert (row["attempts"], row["outcome"], row["input_tokens"]) == (3, "upstream_error", None)


async def test_next_server_is_tried_before_the_same_one(
    pair: Gateway, models: ModelServer, second: ModelServer
) -> None:
    models.plan(refusal(503))
    answer = await pair.chat()
    assert (answer.headers["x-bluesminds-server"], answer.content) == ("second", completion())
    assert (len(models.asked), len(second.asked)) == (1, 1)
    (row,) = pair.rows()
    assert (row["server"], row["attempts"], row["output_tokens"]) == ("second", 2, 2)


@pytest.fixture
async def hasty(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    """Waits a second for a server's first event."""
    return await gateways.start(
        nursery, home, servers=[entry("one", models.url)], upstream={"first_byte_timeout": 1.0}
    )


async def test_silent_server_is_not_asked_twice(hasty: Gateway, models: ModelServer) -> None:
    models.plan(hang)
    answer = await hasty.chat(STREAM)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert len(models.asked) == 1


async def test_stream_that_has_begun_is_not_repeated(gateway: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("one")))
    answer = await gateway.chat(STREAM)
    assert b"upstream_cut" in answer.content
    assert len(models.asked) == 1


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["plain", "streamed"])
async def test_one_attempt_is_no_retry(
    nursery: trio.Nursery, home: Path, models: ModelServer, body: dict[str, Any]
) -> None:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, upstream={"attempts": 1})
    models.plan(refusal(503))
    answer = await gateway.chat(body)
    assert answer.status_code == 503
    assert "x-should-retry" not in answer.headers, "the client may repeat what the gateway did not"
    assert len(models.asked) == 1
