"""A stream whose server fails continues at another server, or ends with an error."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes import anthropic_server
from tests.fakes.model_server import (
    DONE,
    USAGE,
    Cut,
    Fin,
    ModelServer,
    Plan,
    call_chunks,
    chunk,
    error,
    refusal,
    streamed,
    text_chunks,
)
from tests.gateway.cases import Since
from tests.gateways import STREAM, Gateway, entry

WORDS = ["One ", "two ", "three ", "four ", "five."]
TOKENS = text_chunks(WORDS)
END = [chunk(finish="stop"), chunk(usage=USAGE), DONE]
WHOLE = streamed(*TOKENS, *END)
FAILED = b"data: " + error("out of memory") + b"\n\n"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REASONING = chunk(choices=[{"index": 0, "delta": {"reasoning_content": "Hm."}, "finish_reason": None}])
Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Start:
    async def start(**route: Any) -> Gateway:
        targets = [{"server": "first", "priority": 0}, {"server": "second", "priority": 1}]
        servers = [entry("first", models.url), entry("second", second.url)]
        prices = [{"model": "m", "input_usd": 1, "output_usd": 1, "max_output_tokens": 100}]
        routes = [{"model": "m", "targets": targets} | route]
        return await gateways.start(nursery, home, servers=servers, routes=routes, prices=prices)

    return start


def text_of(body: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    chunks = [msgspec.json.decode(event) for event in events]
    return "".join(
        choice["delta"].get("content") or "" for one in chunks for choice in one.get("choices") or ()
    )


ENDINGS: dict[str, list[Any]] = {
    "reset": [Cut],
    "closed": [Fin],
    "ended": [],
    "error": [FAILED],
    "invalid": [b"data: {\n\n", b"data: {\n\n", TOKENS[3]],
}


async def test_failed_stream_goes_on_at_the_next_server(
    start: Start, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await start()
    for name, ending in ENDINGS.items():
        with subtests.test(name):
            since = Since(gateway)
            models.plan(streamed(*TOKENS[:3], *ending))
            second.plan(WHOLE)
            answer = await gateway.chat(STREAM)
            assert text_of(answer.content) == "".join(WORDS)
            assert answer.content.endswith(DONE) and answer.content.count(b'"role"') == 1
            assert b'"error"' not in answer.content
            assert second.asked.pop().body["messages"] == models.asked.pop().body["messages"]
            (row,) = since.rows()
            assert (row["outcome"], row["attempts"], row["server"]) == ("ok", 2, "second")
            cut = 4  # estimated from the length of the text
            charged = cut + USAGE["completion_tokens"]
            assert row["output_tokens"] == charged, "both servers charge for their answer"
            assert row["cost_nano"] == (row["input_tokens"] + row["output_tokens"]) * 1000
            assert len(since.events("stream_resumed")) == 1
            assert await gateway.metric("bluesminds_requests_running") == 0


async def test_different_answer_ends_the_stream_with_an_error(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start()
    models.plan(streamed(*TOKENS[:3], Cut))
    second.plan(streamed(*text_chunks(["One ", "two ", "and ", "more."]), *END))
    answer = await gateway.chat(STREAM)
    assert text_of(answer.content) == "One two three "
    assert b"upstream_cut" in answer.content and b"[DONE]" not in answer.content
    (row,) = gateway.rows()
    assert row["outcome"] == "cut"
    second.plan(streamed(chunk("One "), *END))
    models.plan(streamed(*TOKENS[:3], Cut))
    shorter = await gateway.chat(STREAM)
    assert b"upstream_cut" in shorter.content, "a shorter answer is another one"


UNSAFE = {
    "call": [*call_chunks([CALL])],
    "call after text": [*TOKENS[:2], *call_chunks([CALL])],
    "reasoning": [REASONING],
}


async def test_stream_within_a_call_or_reasoning_ends_with_an_error(
    start: Start, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await start()
    for name, sent in UNSAFE.items():
        with subtests.test(name):
            models.plan(streamed(*sent, Cut))
            answer = await gateway.chat(STREAM)
            assert b"upstream_cut" in answer.content and b"[DONE]" not in answer.content
            assert second.asked == []


async def test_recovery_error_ends_the_stream_with_an_error(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(recovery="error")
    models.plan(streamed(*TOKENS[:3], Cut))
    answer = await gateway.chat(STREAM)
    assert b"upstream_cut" in answer.content and b"[DONE]" not in answer.content
    assert second.asked == []
    (row,) = gateway.rows()
    assert (row["outcome"], row["output_tokens"]) == ("cut", 4)


FAILURES: list[Plan] = [refusal(400), refusal(503), streamed(Cut)]


async def test_failure_of_the_next_server_is_not_shown(
    start: Start, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await start()
    for number, failure in enumerate(FAILURES):
        with subtests.test(str(number)):
            since = Since(gateway)
            second.asked.clear()
            models.plan(streamed(*TOKENS[:3], Cut))
            second.default = failure
            answer = await gateway.chat(STREAM)
            assert second.asked
            assert answer.status_code == 200
            assert b"this is" not in answer.content
            assert b"upstream_cut" in answer.content and b"[DONE]" not in answer.content
            (row,) = since.rows()
            assert row["outcome"] == "cut"


async def test_stream_goes_on_at_an_ejected_server_if_no_other_is_left(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start()
    models.default, second.default = streamed(*TOKENS[:3], Cut), refusal(503)
    while not gateway.events("server_ejected"):
        assert b"upstream_cut" in (await gateway.chat(STREAM)).content
    assert {event["server"] for event in gateway.events("server_ejected")} == {"second"}
    second.default = WHOLE
    answer = await gateway.chat(STREAM)
    assert text_of(answer.content) == "".join(WORDS) and answer.content.endswith(DONE)


CONTINUE = {
    "recovery": "continue",
    "targets": [
        {"server": "first", "priority": 0},
        {"server": "second", "priority": 1, "prefill": "message"},
    ],
}


@pytest.mark.parametrize(
    ("kind", "fields", "mark"),
    [
        ("message", {}, {}),
        ("prefix", {}, {"prefix": True}),
        ("continue_final_message", {"continue_final_message": True, "add_generation_prompt": False}, {}),
    ],
)
async def test_prefilled_target_continues_the_text(
    start: Start,
    models: ModelServer,
    second: ModelServer,
    kind: str,
    fields: dict[str, Any],
    mark: dict[str, Any],
) -> None:
    targets = [{"server": "first", "priority": 0}, {"server": "second", "priority": 1, "prefill": kind}]
    gateway = await start(recovery="continue", targets=targets)
    models.plan(streamed(*TOKENS[:3], Cut))
    second.plan(streamed(*text_chunks(["four ", "and the rest."]), *END))
    answer = await gateway.chat(STREAM | {"max_tokens": 50})
    assert text_of(answer.content) == "One two three four and the rest."
    assert answer.content.endswith(DONE) and b'"error"' not in answer.content
    (asked,) = second.asked
    assert asked.body["messages"] == [
        *STREAM["messages"],
        {"role": "assistant", "content": "One two three"} | mark,
    ]
    assert asked.body.items() >= fields.items()
    assert asked.body["max_tokens"] == 46, "the text so far has about four tokens"
    (row,) = gateway.rows()
    assert (row["outcome"], row["attempts"], row["server"]) == ("ok", 2, "second")


@pytest.mark.parametrize(
    "pieces",
    [["One two", " three four five."], [" ", "four five."], ["four ", "five."]],
    ids=["echo", "white space", "neither"],
)
async def test_repeated_beginning_of_a_continued_answer_is_left_out(
    start: Start, models: ModelServer, second: ModelServer, pieces: list[str]
) -> None:
    kind = "prefix" if pieces[0].startswith("One") else "message"
    targets = [{"server": "first", "priority": 0}, {"server": "second", "priority": 1, "prefill": kind}]
    gateway = await start(recovery="continue", targets=targets)
    models.plan(streamed(*TOKENS[:3], Cut))
    second.plan(streamed(*text_chunks(pieces), *END))
    answer = await gateway.chat(STREAM)
    assert text_of(answer.content) == "One two three four five."


async def test_refused_beginning_of_an_answer_restarts_the_stream(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(**CONTINUE)
    models.plan(streamed(*TOKENS[:3], Cut))
    second.plan(refusal(400), WHOLE)
    answer = await gateway.chat(STREAM)
    assert text_of(answer.content) == "".join(WORDS) and answer.content.endswith(DONE)
    assert b"this is 400" not in answer.content
    refused, restarted = second.asked
    assert (len(refused.body["messages"]), len(restarted.body["messages"])) == (2, 1)
    (row,) = gateway.rows()
    assert (row["outcome"], row["attempts"]) == ("ok", 3)


async def test_target_without_prefill_restarts_the_stream(
    start: Start, models: ModelServer, second: ModelServer
) -> None:
    gateway = await start(recovery="continue")
    models.plan(streamed(*TOKENS[:3], Cut))
    second.plan(WHOLE)
    answer = await gateway.chat(STREAM)
    assert text_of(answer.content) == "".join(WORDS)
    assert second.asked[0].body["messages"] == models.asked[0].body["messages"]


NOT_CONTINUED = {"call": [*call_chunks([CALL])], "reasoning": [REASONING]}


async def test_call_and_reasoning_are_not_continued(
    start: Start, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await start(**CONTINUE)
    for name, sent in NOT_CONTINUED.items():
        with subtests.test(name):
            models.plan(streamed(*sent, Cut))
            answer = await gateway.chat(STREAM)
            assert b"upstream_cut" in answer.content and second.asked == []


async def test_continued_answer_that_is_complete_closes_the_block(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    claude: ModelServer = await nursery.start(anthropic_server.serve)
    servers = [entry("claude", claude.url, dialect="anthropic", models=["m"]), entry("chat", models.url)]
    targets = [{"server": "chat", "priority": 0}, {"server": "claude", "priority": 1, "prefill": "message"}]
    routes = [{"model": "m", "targets": targets, "recovery": "continue"}]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    models.plan(streamed(*text_chunks(["Hello."]), Cut))
    claude.plan(streamed(anthropic_server.start(), *anthropic_server.end()))
    body = {"model": "m", "max_tokens": 50, "stream": True, "messages": STREAM["messages"]}
    async with gateway.client() as client:
        answer = await client.post("/v1/messages", json=body)
    names = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert claude.asked[0].body["messages"][-1] == {"role": "assistant", "content": "Hello."}


async def test_stream_of_messages_goes_on_at_a_server_of_another_format(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    claude: ModelServer = await nursery.start(anthropic_server.serve)
    servers = [
        entry("claude", claude.url, dialect="anthropic", models=["m"]),
        entry("chat", models.url),
    ]
    targets = [{"server": "chat", "priority": 0}, {"server": "claude", "priority": 1}]
    gateway = await gateways.start(
        nursery, home, servers=servers, routes=[{"model": "m", "targets": targets}]
    )
    models.plan(streamed(*text_chunks(["Hello"]), Cut))
    body = {"model": "m", "max_tokens": 50, "stream": True, "messages": STREAM["messages"]}
    async with gateway.client() as client:
        answer = await client.post("/v1/messages", json=body)
    names = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names[:2] == ["message_start", "content_block_start"] and names[-1] == "message_stop"
    assert names.count("message_start") == names.count("content_block_start") == 1
    texts = [
        msgspec.json.decode(line[6:])["delta"]["text"]
        for line in answer.text.splitlines()
        if '"text_delta"' in line
    ]
    assert "".join(texts) == "Hello world"
    assert (len(models.asked), len(claude.asked)) == (1, 1)
