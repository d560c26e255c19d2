"""A stream whose first content is late is also requested from the next target."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import trio
from msgspec import Raw
from trio.testing import MockClock

from bluesminds.common.values import NO_USAGE
from bluesminds.gateway.bodies import Body
from bluesminds.gateway.json_body import JsonBody
from bluesminds.gateway.routing.plans import Plan
from bluesminds.gateway.upstream.extra_budget import MAX_ROUTES, ExtraBudget
from bluesminds.gateway.upstream.progress import AttemptProgress
from bluesminds.wire.base import FormatName, RequestFacts
from bluesminds.wire.formats import FORMATS
from bluesminds.wire.support import Support
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import (
    DONE,
    USAGE,
    Asked,
    ModelServer,
    chunk,
    hang,
    refusal,
    streamed,
    text_chunks,
)
from tests.fakes.raw_upstream import Peer
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

AFTER = 1000.0  # seconds; nothing is so slow that it is reached without a jump of the clock
LONG = {"first_byte_timeout": 9000.0, "chunk_timeout": 9000.0, "total_timeout": 9000.0}
PRICES = [{"model": "m", "input_usd": "1000", "output_usd": "1000", "max_output_tokens": 100}]
DAY = 86_400_000
Start = Callable[..., Awaitable["Pair"]]


class Pair:
    """A gateway with two servers, of which the first one is preferred."""

    def __init__(self, gateway: Gateway, first: ModelServer, second: ModelServer, clock: MockClock) -> None:
        self.gateway = gateway
        self.first = first
        self.second = second
        self.clock = clock

    async def ask(self, body: dict[str, Any] = STREAM) -> httpx.Response:
        async with self.gateway.client(timeout=None) as client:
            return await client.post("/v1/chat/completions", json=body)

    async def ask_late(
        self, second_is_asked: bool = True, then: Callable[[], object] = lambda: None
    ) -> httpx.Response:
        """Ask, move the clock when the first server has the request, and call `then` after the second has."""
        answers: list[httpx.Response] = []
        before = len(self.first.asked), len(self.second.asked)

        async def ask() -> None:
            answers.append(await self.ask())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(lambda: len(self.first.asked) > before[0])
            self.clock.jump(AFTER + 1)
            if second_is_asked:
                await eventually(lambda: len(self.second.asked) > before[1])
            then()
        return answers[0]

    async def attempts(self, answer: httpx.Response) -> list[tuple[str, str | None, str | None]]:
        """Server, reason and class of the cost of each attempt, from the receipt."""
        found: list[dict[str, Any]] = []

        async def is_there() -> bool:
            async with self.gateway.operator() as client:
                shown = await client.get(f"/api/admin/requests/{answer.headers['x-request-id']}")
            if shown.status_code == 200:
                found.extend(shown.json()["receipt"]["attempts"])
            return shown.status_code == 200

        await eventually(is_there)
        return [(one["server"], one["reason"], one["cost_class"]) for one in found]

    async def running(self) -> Sequence[int]:
        async with self.gateway.operator() as client:
            servers = (await client.get("/api/admin/health")).json()["servers"]
        return [server["running"] for server in servers]


def late(go_on: trio.Event) -> model_server.Plan:
    """A stream whose content comes after the event."""
    return streamed(go_on, *text_chunks(), chunk(finish="stop"), chunk(usage=USAGE), DONE)


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Start:
    async def start(clock: MockClock, upstream: dict[str, Any] | None = None, **route: Any) -> Pair:
        clock.rate = 1
        targets = [{"server": "one", "priority": 0}, {"server": "two", "priority": 1}]
        routes = [{"model": "m", "targets": targets, "hedge_after": AFTER, "hedge_share": 1.0} | route]
        servers = [entry("one", models.url, max_concurrency=9), entry("two", second.url)]
        gateway = await gateways.start(
            nursery, home, servers=servers, routes=routes, prices=PRICES, upstream=LONG | (upstream or {})
        )
        return Pair(gateway, models, second, clock)

    return start


async def test_second_server_answers_for_one_that_is_late(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    pair.first.plan(hang)
    answer = await pair.ask_late()
    assert answer.status_code == 200 and answer.content.endswith(DONE)
    assert (answer.headers["x-bluesminds-server"], answer.headers["x-bluesminds-attempts"]) == ("two", "2")
    assert await pair.attempts(answer) == [("one", "hedge_lost", "hedged"), ("two", None, None)]
    await eventually(lambda: pair.first.left == 1)
    (row,) = await pair.gateway.settled(1)
    assert (row["server"], row["attempts"], row["input_tokens"]) == ("two", 2, USAGE["prompt_tokens"])
    labels = {"class": "hedged", "server": "one"}
    assert await pair.gateway.metric("bluesminds_uncharged_usd_total", **labels) > 0
    assert await pair.running() == [0, 0]


async def test_client_that_leaves_both_servers_leaves_a_cost_of_each(
    start: Start, mock_clock: MockClock
) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    pair.first.plan(hang)
    pair.second.plan(hang)
    async with trio.open_nursery() as asking:
        asking.start_soon(pair.ask)
        await eventually(lambda: len(pair.first.asked) == 1)
        mock_clock.jump(AFTER + 1)
        await eventually(lambda: len(pair.second.asked) == 1)
        asking.cancel_scope.cancel()
    (row,) = await pair.gateway.settled(1)
    assert (row["outcome"], row["server"]) == ("client_gone", "two")
    async with pair.gateway.operator() as client:
        shown = (await client.get(f"/api/admin/requests/{row['id']}")).json()
    attempts = [(one["server"], one["cost_class"]) for one in shown["receipt"]["attempts"]]
    assert attempts == [("one", "hedged"), ("two", None)]
    assert await pair.running() == [0, 0]


async def test_first_server_wins_if_its_content_comes_first(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    go_on = trio.Event()
    pair.first.plan(late(go_on))
    pair.second.plan(hang)
    answer = await pair.ask_late(then=go_on.set)
    assert answer.status_code == 200 and answer.content.endswith(DONE)
    assert answer.headers["x-bluesminds-server"] == "one"
    assert await pair.attempts(answer) == [("one", None, None), ("two", "hedge_lost", "hedged")]
    (row,) = await pair.gateway.settled(1)
    assert (row["server"], row["outcome"]) == ("one", "ok")
    await eventually(lambda: pair.second.left == 1)
    assert await pair.running() == [0, 0]


@pytest.mark.parametrize("body", [STREAM, ASK], ids=["stream", "json"])
async def test_request_in_time_is_sent_once(
    start: Start, mock_clock: MockClock, body: dict[str, Any]
) -> None:
    pair = await start(mock_clock)
    answer = await pair.ask(body)
    assert answer.status_code == 200
    assert pair.second.asked == []


@pytest.mark.parametrize("failure", [400, 503])
async def test_failure_of_the_second_server_does_not_harm(
    start: Start, mock_clock: MockClock, failure: int
) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    go_on = trio.Event()
    pair.first.plan(late(go_on))
    pair.second.plan(refusal(failure))
    answer = await pair.ask_late(then=go_on.set)
    assert answer.status_code == 200 and answer.content.endswith(DONE)
    first, second = await pair.attempts(answer)
    assert first == ("one", None, None)
    assert second[1] in ("503" if failure == 503 else "refused", "hedge_lost")


def refused_after(go_on: trio.Event, status: int) -> model_server.Plan:
    async def play(server: ModelServer, peer: Peer, asked: Asked) -> None:
        await go_on.wait()
        await refusal(status)(server, peer, asked)

    return play


async def test_client_gets_the_refusal_of_the_server_that_has_judged_the_request(
    start: Start, mock_clock: MockClock
) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    go_on = trio.Event()
    pair.first.plan(refused_after(go_on, 503))
    pair.second.plan(refusal(400))
    answer = await pair.ask_late(then=go_on.set)
    assert answer.status_code == 400 and "this is 400" in answer.text
    assert len(pair.first.asked) == len(pair.second.asked) == 1
    assert await pair.running() == [0, 0]


async def test_lost_attempt_costs_what_its_server_reported(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    reported = {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}
    began = trio.Event()

    async def report_and_stall(server: ModelServer, peer: Peer, asked: Asked) -> None:
        await peer.begin_chunked(b"Content-Type: text/event-stream")
        await peer.chunk(chunk(usage=reported))
        began.set()
        await hang(server, peer, asked)

    async def answer_then(server: ModelServer, peer: Peer, asked: Asked) -> None:
        await began.wait()
        await model_server.correct(server, peer, asked)

    pair.first.plan(report_and_stall)
    pair.second.plan(answer_then)
    answer = await pair.ask_late()
    assert answer.headers["x-bluesminds-server"] == "two"
    labels = {"class": "hedged", "server": "one"}
    cost = await pair.gateway.metric("bluesminds_uncharged_usd_total", **labels)
    assert cost == pytest.approx(7 * 0.001)


async def test_request_that_a_server_stores_is_not_hedged(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    go_on, answers = trio.Event(), []
    pair.first.plan(late(go_on))

    async def ask() -> None:
        answers.append(await pair.ask(STREAM | {"store": True}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: len(pair.first.asked) == 1)
        pair.clock.jump(AFTER + 1)
        go_on.set()
    assert answers[0].status_code == 200
    assert pair.second.asked == []


@pytest.mark.parametrize(
    ("format_", "store", "stores"),
    [
        ("chat", None, False),
        ("chat", b"true", True),
        ("responses", None, True),
        ("responses", b"false", False),
        ("responses", b"true", True),
        ("messages", None, False),
    ],
)
def test_body_says_whether_a_server_stores_the_answer(
    format_: FormatName, store: bytes | None, stores: bool
) -> None:
    fields = {"model": Raw(b'"m"')} | ({} if store is None else {"store": Raw(store)})
    body = JsonBody(FORMATS[format_], fields, cast(Body, SimpleNamespace(data=b"")))
    assert body.stores is stores
    plan = Plan(format_, "/x")
    body.content(plan, "m", Support())
    assert body.stores is stores, "also when it was written for a server"


def test_attempt_that_was_not_sent_costs_nothing() -> None:
    assert AttemptProgress().usage(RequestFacts("m", text_bytes=1000)) is NO_USAGE


async def test_failure_of_both_is_retried(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, first_token_timeout=AFTER + 500)
    pair.first.plan(hang)
    pair.second.plan(refusal(503))
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await pair.ask())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: len(pair.first.asked) == 1)
        pair.clock.jump(AFTER + 1)
        await eventually(lambda: len(pair.second.asked) == 1)
        pair.clock.jump(500)
    assert answers[0].status_code == 200
    reasons = [(server, reason) for server, reason, _ in await pair.attempts(answers[0])]
    assert reasons == [("one", "FirstByteTimeout"), ("two", "503"), ("two", None)]
    assert await pair.running() == [0, 0]


async def test_amount_of_the_day_bounds_hedged_requests(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0, hedge_daily_usd="0.001")
    go_on = trio.Event()
    pair.first.plan(late(go_on))
    answer = await pair.ask_late(second_is_asked=False, then=go_on.set)
    assert answer.headers["x-bluesminds-server"] == "one"
    assert pair.second.asked == []


async def test_trial_of_an_ejected_server_ends_when_it_loses(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, {"eject_after": 1, "eject_seconds": 5.0}, hedge_after=20.0)
    pair.first.plan(refusal(503))
    assert (await pair.ask()).headers["x-bluesminds-server"] == "two"
    pair.clock.jump(6)
    pair.first.plan(hang)
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await pair.ask())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: len(pair.first.asked) == 2)
        pair.clock.jump(21)  # less than the seconds for which a trial keeps others away
    assert answers[0].headers["x-bluesminds-server"] == "two"
    assert (await pair.ask()).headers["x-bluesminds-server"] == "one"


async def test_client_that_leaves_ends_both_attempts(start: Start, mock_clock: MockClock) -> None:
    pair = await start(mock_clock, first_token_timeout=5000.0)
    pair.first.plan(hang)
    pair.second.plan(hang)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ask)
        await eventually(lambda: len(pair.first.asked) == 1)
        pair.clock.jump(AFTER + 1)
        await eventually(lambda: len(pair.second.asked) == 1)
        nursery.cancel_scope.cancel()
    await eventually(lambda: pair.first.left == pair.second.left == 1)
    (row,) = await pair.gateway.settled(1)
    assert (row["outcome"], row["attempts"]) == ("client_gone", 2)
    assert await pair.running() == [0, 0]


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_share_of_extra_requests_is_bounded(share: float) -> None:
    budget, taken = ExtraBudget(), 0
    for _ in range(1000):
        budget.add_request("m", share)
        taken += budget.take("m", 0, 0, 0)
    assert 1000 * share <= taken + 1 <= 1000 * share + 2


def test_cost_of_extra_requests_is_bounded_for_each_day_and_route() -> None:
    budget = ExtraBudget()

    def take(route: str, at_ms: int) -> int:
        for _ in range(10):
            budget.add_request(route, 1.0)
        return sum(budget.take(route, at_ms, 30, 100) for _ in range(10))

    assert take("m", DAY - 1) == 3
    assert take("m", DAY - 1) == 0
    assert take("other", DAY - 1) == 3
    assert take("m", DAY) == 3
    assert take("m", DAY - 1) == 0, "a request that began before midnight does not bring the day back"
    assert take("m", DAY) == 0


def test_budgets_of_extra_requests_are_bounded() -> None:
    budget = ExtraBudget()
    for number in range(MAX_ROUTES + 1):
        budget.add_request(f"m{number}", 1.0)
    assert not budget.take("m0", 0, 0, 0)
    assert budget.take(f"m{MAX_ROUTES}", 0, 0, 0)
