"""Sixteen faults of servers, with one fallback model and otherwise default settings.

A client requests a streamed answer of 60 tokens. Each fault has the outcome of the public referee
failoverbench (catalogue v0.1): the complete answer, or an error that is clean and in time. Trio's clock is
moved on where a default timeout has to pass.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import (
    DONE,
    USAGE,
    Asked,
    Cut,
    ModelServer,
    Stall,
    chunk,
    drop_twice,
    error,
    hang,
    refusal,
    streamed,
    text_chunks,
)
from tests.fakes.raw_upstream import Peer
from tests.gateways import Gateway, entry, eventually

DEFAULTS = {"first_byte_timeout": 120.0, "chunk_timeout": 60.0, "total_timeout": 600.0}
WORDS = [f"word{number} " for number in range(60)]
TEXT = "".join(WORDS)
ROLE = chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
TOKENS = text_chunks(WORDS)
END = [chunk(finish="stop"), chunk(usage=USAGE)]
ANSWER = [ROLE, *TOKENS, *END, DONE]
PROMPT = {
    "model": "primary",
    "messages": [{"role": "user", "content": "Count to sixty."}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
Ask = Callable[[], Awaitable["Answer"]]


class Answer(msgspec.Struct):
    """What the client got. `ended`: [DONE] was the last event. `usage` is None if it was not reported."""

    status: int
    text: str
    error: dict[str, Any] | None
    ended: bool
    usage: dict[str, Any] | None
    headers: httpx.Headers

    @property
    def complete(self) -> bool:
        return self.text == TEXT and self.ended and self.error is None


def read_answer(response: httpx.Response) -> Answer:
    if response.status_code != 200:
        return Answer(response.status_code, "", response.json()["error"], False, None, response.headers)
    events = [one.removeprefix("data: ") for one in response.text.split("\n\n") if one.startswith("data: ")]
    bodies = [msgspec.json.decode(one) for one in events if one != "[DONE]"]
    text = "".join(
        choice["delta"].get("content") or "" for body in bodies for choice in body.get("choices") or ()
    )
    failed = [body["error"] for body in bodies if "error" in body]
    usage = [body["usage"] for body in bodies if body.get("usage")]
    return Answer(
        response.status_code,
        text,
        failed[0] if failed else None,
        events[-1] == "[DONE]",
        usage[0] if usage else None,
        response.headers,
    )


class Setup(msgspec.Struct):
    """`clock` is Trio's if the test has the fixture `mock_clock`; it runs, and can be moved on."""

    gateway: Gateway
    primary: ModelServer
    fallback: ModelServer
    clock: MockClock

    async def ask(self) -> Answer:
        async with self.gateway.client(timeout=None) as client:
            return read_answer(await client.post("/v1/chat/completions", json=PROMPT))

    async def ask_and_skip(
        self, seconds: float, ready: Callable[[], bool], then: Callable[[], object] = lambda: None
    ) -> Answer:
        """Ask, move the clock once `ready` is True, and call `then`."""
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await self.ask())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await eventually(ready, seconds=3600)
            await trio.testing.wait_all_tasks_blocked(0.05)
            self.clock.jump(seconds)
            then()
        return answers[0]


Start = Callable[..., Awaitable[Setup]]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path) -> Start:
    async def start(clock: MockClock | None = None, **route: Any) -> Setup:
        clock = clock or MockClock()
        clock.rate = 1.0
        primary: ModelServer = await nursery.start(model_server.serve, "primary")
        fallback: ModelServer = await nursery.start(model_server.serve, "backup")
        primary.default = fallback.default = streamed(*ANSWER)
        servers = [
            entry("one", primary.url, models=["primary"]),
            entry("two", fallback.url, models=["backup"]),
        ]
        routes = [{"model": "primary", "fallback": ["backup"]} | route]
        gateway = await gateways.start(nursery, home, servers=servers, routes=routes, upstream=DEFAULTS)
        return Setup(gateway, primary, fallback, clock)

    return start


@pytest.fixture
async def setup(start: Start) -> Setup:
    return await start()


async def test_s01_one_429_with_retry_after_gets_an_answer(setup: Setup) -> None:
    setup.primary.plan(refusal(429, None, b"Retry-After: 2"))
    answer = await setup.ask()
    assert answer.complete
    assert (len(setup.primary.asked), len(setup.fallback.asked)) == (1, 1)


async def test_s02_429_without_end_gets_an_answer_from_the_fallback(setup: Setup) -> None:
    setup.primary.default = refusal(429)
    answer = await setup.ask()
    assert answer.complete and answer.headers["x-bluesminds-model"] == "backup"
    assert len(setup.primary.asked) + len(setup.fallback.asked) <= 4


async def test_s03_one_500_is_tried_again_at_the_same_server(setup: Setup) -> None:
    setup.primary.plan(refusal(500))
    answer = await setup.ask()
    assert answer.complete
    assert (len(setup.primary.asked), len(setup.fallback.asked)) == (2, 0)


async def test_s04_503_without_end_gets_an_answer_from_the_fallback(setup: Setup) -> None:
    setup.primary.default = refusal(503)
    answer = await setup.ask()
    assert answer.complete
    assert len(setup.primary.asked) + len(setup.fallback.asked) <= 6


async def test_s05_reset_before_any_byte_gets_an_answer(setup: Setup) -> None:
    setup.primary.plan(drop_twice)
    assert (await setup.ask()).complete


async def test_s06_silent_server_is_left_after_one_timeout(start: Start, mock_clock: MockClock) -> None:
    setup = await start(mock_clock)
    setup.primary.default = hang
    answer = await setup.ask_and_skip(30.5, lambda: bool(setup.primary.asked))
    assert answer.complete
    assert (len(setup.primary.asked), len(setup.fallback.asked)) == (1, 1)


async def test_s07_late_first_token_is_left_at_the_limit_of_the_route(
    start: Start, mock_clock: MockClock
) -> None:
    setup = await start(mock_clock, first_token_timeout=10)
    setup.primary.default = streamed(ROLE, Stall)
    answer = await setup.ask_and_skip(10.5, lambda: bool(setup.primary.asked))
    assert answer.complete
    assert len(setup.primary.asked) == 1


async def test_s08_cut_after_forty_tokens_goes_on_at_the_fallback(setup: Setup) -> None:
    setup.primary.default = streamed(ROLE, *TOKENS[:40], Cut)
    answer = await setup.ask()
    assert answer.complete
    assert (len(setup.primary.asked), len(setup.fallback.asked)) == (1, 1)


async def test_s09_silence_after_twenty_tokens_goes_on_at_the_fallback(
    start: Start, mock_clock: MockClock
) -> None:
    setup = await start(mock_clock)
    silent = trio.Event()
    setup.primary.default = streamed(ROLE, *TOKENS[:20], silent, Cut)
    answer = await setup.ask_and_skip(30, lambda: bool(setup.primary.asked), silent.set)
    assert answer.complete
    setup.primary.default = streamed(*ANSWER)
    assert (await setup.ask()).complete


async def test_s10_one_event_that_is_not_json_is_left_out(setup: Setup) -> None:
    bad = b'data: {"choices": [{"delta": {"conte\n\n'
    setup.primary.default = streamed(ROLE, *TOKENS[:9], bad, *TOKENS[9:], *END, DONE)
    assert (await setup.ask()).complete


async def test_s10_two_events_that_are_not_json_are_a_failure_of_the_server(setup: Setup) -> None:
    bad = b'data: {"choices": [{"delta": {"conte\n\n'
    setup.primary.default = streamed(ROLE, *TOKENS[:9], bad, bad, *TOKENS[9:], *END, DONE)
    answer = await setup.ask()
    assert answer.complete and len(setup.fallback.asked) == 1


async def test_s11_answer_without_done_is_complete(start: Start, mock_clock: MockClock) -> None:
    setup = await start(mock_clock)
    setup.primary.default = streamed(ROLE, *TOKENS, *END, Stall)
    answer = await setup.ask_and_skip(5.5, lambda: bool(setup.primary.asked))
    assert answer.complete and answer.usage is not None


async def test_s12_too_long_prompt_goes_to_the_fallback_at_once(setup: Setup) -> None:
    setup.primary.default = refusal(400, error("Too long.", code="context_length_exceeded"))
    answer = await setup.ask()
    assert answer.complete
    assert len(setup.primary.asked) == 1


async def test_s13_reason_of_a_content_filter_reaches_the_client(setup: Setup) -> None:
    setup.primary.default = refusal(400, error("Our policy.", code="content_policy_violation"))
    answer = await setup.ask()
    assert (answer.status, answer.error and answer.error["message"]) == (400, "Our policy.")
    assert (len(setup.primary.asked), len(setup.fallback.asked)) == (1, 0)


async def test_s14_fallback_that_takes_no_prefill_gets_the_original_request(setup: Setup) -> None:
    setup.primary.default = streamed(ROLE, *TOKENS[:40], Cut)
    setup.fallback.default = refuse_prefill
    assert (await setup.ask()).complete


async def refuse_prefill(server: ModelServer, peer: Peer, asked: Asked) -> None:
    if asked.body["messages"][-1]["role"] == "assistant":
        await refusal(400, error("prefill is not supported"))(server, peer, asked)
    else:
        await streamed(*ANSWER)(server, peer, asked)


async def test_s16_answer_of_the_fallback_names_its_model_and_has_usage(setup: Setup) -> None:
    setup.primary.default = refusal(503)
    answer = await setup.ask()
    assert answer.complete
    assert (answer.headers["x-bluesminds-model"], answer.usage) == ("backup", USAGE)
    (row,) = setup.gateway.rows()
    assert (row["server"], row["attempts"], row["output_tokens"]) == ("two", 3, USAGE["completion_tokens"])


async def test_s15_recovered_server_is_used_again_within_30_seconds(
    start: Start, mock_clock: MockClock
) -> None:
    setup = await start(mock_clock)
    setup.primary.default = refusal(503)
    mock_clock.rate = 1e-6  # only the test moves the time
    started = trio.current_time()
    for second in range(0, 80, 4):
        if second == 60:
            setup.primary.default = streamed(*ANSWER)
        answer = await setup.ask()
        assert answer.complete
        setup.clock.jump(started + second + 4 - trio.current_time())
    mock_clock.rate = 1.0
    assert "x-bluesminds-model" not in answer.headers, "the last answer is from the primary model"
