"""The reply cases of tests/wire/cases, played from the client's socket to the server's and back.

Prices: input 1, cached input 0.1, output 10 USD per million tokens, so 1000, 100 and 10,000 nano-USD a token.
"""

import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from bluesminds.wire.chat import CHAT
from bluesminds.wire.requests import read_body
from tests import gateways
from tests.fakes import scripted_upstream
from tests.fakes.scripted_upstream import ScriptedUpstream
from tests.gateway.cases import Since
from tests.gateways import Gateway, eventually
from tests.wire.replies import DONE, case, case_pieces, data_of

Alter = Callable[[dict[str, Any]], None]
Play = Callable[..., Awaitable[tuple[Gateway, ScriptedUpstream]]]
PlayAll = Callable[..., Awaitable[tuple[Gateway, dict[str, ScriptedUpstream]]]]
PRICE = {"input_usd": "1", "cached_input_usd": "0.1", "output_usd": "10"}


@pytest.fixture
def play(nursery: trio.Nursery, home: Path) -> Play:
    """Starts a gateway in front of the servers of a case. `eject_after`: failures that eject a server."""

    async def start(name: str, *, eject_after: int = 1, **more: Any) -> tuple[Gateway, ScriptedUpstream]:
        upstream, tables = await serve(nursery, name, **more)
        gateway = await gateways.start(
            nursery,
            home,
            servers=tables,
            prices=[PRICE | {"model": name}],
            upstream={"eject_after": eject_after},
        )
        return gateway, upstream

    return start


@pytest.fixture
def play_all(nursery: trio.Nursery, home: Path) -> PlayAll:
    """Starts one gateway in front of the servers of several cases. The name of a case is its model, and the
    beginning of the names of its servers.
    """

    async def start(
        names: Iterable[str], *, eject_after: int = 1, **more: Any
    ) -> tuple[Gateway, dict[str, ScriptedUpstream]]:
        upstreams, tables, prices = {}, [], []
        for name in names:
            upstreams[name], own = await serve(nursery, name, **more)
            tables += [table | {"name": f"{name}-{table['name']}"} for table in own]
            prices.append(PRICE | {"model": name})
        upstream = {"eject_after": eject_after}
        gateway = await gateways.start(nursery, home, servers=tables, prices=prices, upstream=upstream)
        return gateway, upstreams

    return start


async def serve(
    nursery: trio.Nursery, name: str, *, servers: tuple[str, ...] = ("only",), alter: Alter | None = None
) -> tuple[ScriptedUpstream, list[dict[str, Any]]]:
    """The upstream of a case, and the tables of its servers."""
    played = copy.deepcopy(case(name))
    if alter is not None:
        alter(played)
    upstream = await nursery.start(scripted_upstream.serve, played)
    models = [] if "models_answer" in played else [name]
    tables = [
        {"name": server, "url": upstream.url(server), "models": models, "priority": number}
        for number, server in enumerate(servers)
    ]
    return upstream, tables


async def ask(gateway: Gateway, name: str, **more: Any) -> httpx.Response:
    return await gateway.chat(case(name)["request"] | more)


def prompt_of(name: str) -> int:
    """The estimate of a prompt whose count the server does not say."""
    facts = CHAT.read_request(read_body(msgspec.json.encode(case(name)["request"])))
    return -(-facts.text_bytes // 4)


def counts(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens", "usage_source")
    return tuple(row[name] for name in names)


# name -> (input, output, cache_read, reasoning, source, nano-USD); None as input: estimated
STREAMS: dict[str, tuple[int | None, int, int | None, int | None, str]] = {
    "acc-big-chunks-nousage": (None, 5400, None, None, "estimated"),
    "acc-tool-args-nousage": (None, 2703, None, None, "estimated"),
    "acc-continuous": (20, 30, None, None, "upstream"),
    "acc-early-zero": (50, 11, None, None, "upstream"),
    "acc-zero-late": (50, 11, None, None, "upstream"),
    "acc-zero-usage-stream": (None, 15, None, None, "estimated"),
    "acc-grok-reasoning-stream": (1000, 103, None, 94, "upstream"),
    "acc-usage-choices-null": (50, 11, None, None, "upstream"),
    "acc-usage-no-choices-key": (50, 11, None, None, "upstream"),
    "mlx-usage-nonempty-choices": (65, 251, 64, None, "upstream"),
    "gone-big-8k": (20, 32_000, None, None, "upstream"),
    "json-for-stream": (50, 11, None, None, "upstream"),
    "sse-comments": (50, 11, None, None, "upstream"),
    "sse-crlf": (50, 11, None, None, "upstream"),
    "sse-ct-json": (50, 11, None, None, "upstream"),
    "sse-ct-none": (50, 11, None, None, "upstream"),
    "sse-ct-plain": (50, 11, None, None, "upstream"),
    "end-finish-no-done": (None, 15, None, None, "estimated"),
    "force-stream-options": (None, 15, None, None, "estimated"),
}


async def test_stream_case_is_delivered_and_charged(play_all: PlayAll, subtests: pytest.Subtests) -> None:
    gateway, _ = await play_all(STREAMS)
    for name, (input_, output, cached, reasoning, source) in STREAMS.items():
        with subtests.test(name):
            since = Since(gateway)
            answer = await ask(gateway, name)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
            *events, done = data_of(answer.content)
            assert done == "[DONE]"
            assert all(one["choices"] and "usage" not in one for one in events), "nothing asked for usage"
            assert any(one["choices"][0].get("finish_reason") for one in events)
            (row,) = since.rows()
            prompt = prompt_of(name) if input_ is None else input_
            assert counts(row) == (prompt, output, cached, reasoning, source)
            fresh = prompt - (cached or 0)
            assert row["cost_nano"] == fresh * 1000 + (cached or 0) * 100 + output * 10_000
            assert (row["status"], row["outcome"], row["attempts"], row["streamed"]) == (200, "ok", 1, 1)
            assert bool(since.events("usage_implausible")) == name.startswith("acc-zero-usage")
            assert await gateway.metric("bluesminds_server_ejected", server=f"{name}-only") == 0


WHOLE: dict[str, tuple[int | None, int, int | None, int | None, str]] = {
    "acc-deepseek-cache": (10_000, 10, 9_000, None, "upstream"),
    "acc-grok-reasoning": (1_000, 103, 0, 94, "upstream"),
    "acc-zero-usage-plain": (None, 120, None, None, "estimated"),
    "odd-n2-usage": (50, 400, None, None, "upstream"),
}


async def test_whole_case_is_delivered_and_charged(play_all: PlayAll, subtests: pytest.Subtests) -> None:
    gateway, _ = await play_all(WHOLE)
    for name, (input_, output, cached, reasoning, source) in WHOLE.items():
        with subtests.test(name):
            since = Since(gateway)
            answer = await ask(gateway, name)
            assert (answer.status_code, answer.content) == (200, b"".join(case_pieces(name)))
            (row,) = since.rows()
            prompt = prompt_of(name) if input_ is None else input_
            if name != "acc-zero-usage-plain":
                assert counts(row) == (prompt, output, cached, reasoning, source)
                nano = (prompt - (cached or 0)) * 1000 + (cached or 0) * 100 + output * 10_000
                assert row["cost_nano"] == nano == round(float(answer.headers["x-cost-usd"]) * 10**9)
            else:
                assert row["usage_source"] == "estimated" and row["output_tokens"] > 50
            assert (row["outcome"], row["attempts"]) == ("ok", 1)
            assert bool(since.events("usage_implausible")) == (source == "estimated")


async def test_usage_of_zeros_uses_up_a_budget(play: Play) -> None:
    name = "acc-zero-usage-stream"
    gateway, _ = await play(name)
    _, key = await gateway.new_key(limits={"usd_per_day": "0.001"})
    for _ in range(10):
        answer = await gateway.chat(case(name)["request"] | {"max_tokens": 20}, key=key)
        if answer.status_code != 200:
            break
    assert answer.json()["error"]["code"] == "daily_budget_exceeded"


@asynccontextmanager
async def reading(gateway: Gateway, key: str, name: str) -> AsyncIterator[httpx.Response]:
    async with (
        gateway.client(key) as client,
        client.stream("POST", "/v1/chat/completions", json=case(name)["request"]) as answer,
    ):
        yield answer


async def test_client_that_always_leaves_uses_up_its_quota(play: Play) -> None:
    name = "gone-big-8k"
    gateway, upstream = await play(name)
    upstream.hold_before = 10
    _, key = await gateway.new_key(limits={"tokens_per_day": 20_000})
    for number in range(1, 5):
        async with reading(gateway, key, name) as answer:
            if answer.status_code != 200:
                break
            seen = b""
            async with aclosing(answer.aiter_raw()) as pieces:
                while seen.count(b"\n\n") < 10:
                    seen += await anext(pieces)
        rows = await gateway.settled(number)
        assert counts(rows[-1]) == (prompt_of(name), 8000, None, None, "estimated"), "as far as max_tokens"
        assert rows[-1]["outcome"] == "client_gone"
    assert (answer.status_code, number) == (429, 3)


async def test_large_deltas_without_usage_use_up_a_quota(play: Play) -> None:
    name = "acc-big-chunks-nousage"
    gateway, _ = await play(name)
    _, key = await gateway.new_key(limits={"tokens_per_day": 20_000})
    statuses = [(await gateway.chat(case(name)["request"], key=key)).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 200, 429]


CUTS = ["end-eof-no-finish-close", "end-eof-no-finish-chunked", "end-half-event", "end-tool-mid"]


async def test_stream_that_ends_in_mid_answer_is_a_cut(play_all: PlayAll, subtests: pytest.Subtests) -> None:
    gateway, upstreams = await play_all(CUTS)
    for name in CUTS:
        with subtests.test(name):
            since = Since(gateway)
            answer = await ask(gateway, name)
            assert answer.status_code == 200
            *events, last = data_of(answer.content)
            assert events and all(one["choices"] for one in events)
            assert last["error"]["code"] == "upstream_cut"
            (row,) = since.rows()
            assert (row["outcome"], row["attempts"], row["usage_source"]) == ("cut", 1, "estimated")
            assert row["output_tokens"] > 0
            assert len(upstreams[name].asked) == 1, "what the client has seen cannot be taken back"
            labels = {"server": f"{name}-only", "outcome": "UpstreamCut"}
            assert await gateway.metric("bluesminds_upstream_attempts_total", **labels) == 1
            assert await gateway.metric("bluesminds_server_ejected", server=f"{name}-only") == 1


NO_ANSWER = ["end-only-done", "end-empty-body", "sse-comments-only"]


async def test_stream_without_answer_goes_to_the_next_server(
    play_all: PlayAll, subtests: pytest.Subtests
) -> None:
    def add_second(played: dict[str, Any]) -> None:
        played["upstreams"] = {"second": case("sse-ct-plain")["upstream"]}

    gateway, _ = await play_all(NO_ANSWER, servers=("only", "second"), alter=add_second)
    for name in NO_ANSWER:
        with subtests.test(name):
            since = Since(gateway)
            answer = await ask(gateway, name)
            assert (answer.status_code, answer.headers["x-bluesminds-server"]) == (200, f"{name}-second")
            assert answer.content.endswith(DONE)
            (row,) = since.rows()
            assert (row["server"], row["attempts"], row["outcome"]) == (f"{name}-second", 2, "ok")
            assert since.events("attempt_failed")[0]["reason"] == "UpstreamCut"


async def test_stream_without_answer_of_every_server_is_an_error(
    play_all: PlayAll, subtests: pytest.Subtests
) -> None:
    gateway, upstreams = await play_all(NO_ANSWER, eject_after=5)
    for name in NO_ANSWER:
        with subtests.test(name):
            since = Since(gateway)
            answer = await ask(gateway, name)
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
            assert answer.headers["x-should-retry"] == "false"
            (row,) = since.rows()
            assert (row["outcome"], row["attempts"], row["output_tokens"]) == ("upstream_error", 3, None)
            assert len(upstreams[name].asked) == 3


ERRORS = [
    ("err-first-400-int", 400, None),
    ("err-first-named", 400, None),
    ("err-first-strcode", "context_length_exceeded", "messages"),
    ("err-plain-400", 400, None),
    ("fo-400-in-200", 400, None),
]


async def test_error_in_a_success_keeps_its_own_status(play_all: PlayAll, subtests: pytest.Subtests) -> None:
    gateway, upstreams = await play_all([name for name, _, _ in ERRORS], servers=("fo1", "fo2", "fo3"))
    for name, code, param in ERRORS:
        with subtests.test(name):
            since = Since(gateway)
            answer = await ask(gateway, name)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
            assert error["message"]
            assert len(upstreams[name].asked) == 1
            (row,) = since.rows()
            assert (row["status"], row["outcome"], row["attempts"]) == (400, "client_error", 1)
            assert row["input_tokens"] is None and not row["cost_nano"]
            ejected = await gateway.metric("bluesminds_server_ejected", server=f"{name}-fo1")
            assert ejected == 0, "the request was wrong, and not the server"


async def test_server_that_refuses_forced_usage_is_asked_without_it(play: Play) -> None:
    name = "force-stream-options"
    gateway, upstream = await play(name)
    for _ in range(2):
        assert (await ask(gateway, name)).status_code == 200
    assert [b"stream_options" in received.body for _, received in upstream.asked] == [True, False, False]
    assert [row["attempts"] for row in gateway.rows()] == [1, 1]
    answer = await ask(gateway, name, stream_options={"include_usage": True})
    assert answer.status_code == 422, "the client's own field is its own affair"
    assert len(upstream.asked) == 4


async def test_refusal_of_forced_usage_is_remembered_only_if_the_stream_came(play: Play) -> None:
    name = "force-stream-options"

    def always_refuse(played: dict[str, Any]) -> None:
        del played["upstream"]["when"]

    gateway, upstream = await play(name, alter=always_refuse)
    for _ in range(2):
        assert (await ask(gateway, name)).status_code == 422
    assert [b"stream_options" in received.body for _, received in upstream.asked] == [True, False] * 2


async def test_odd_row_in_a_list_of_models_hides_no_other(play_all: PlayAll) -> None:
    gateway, _ = await play_all(["ml-float", "ml-str", "ml-null", "ml-noid", "ml-extra"])
    rows = (await gateway.get("/v1/models")).json()["data"]
    assert sorted(row["id"] for row in rows) == [
        "ml-extra-a",
        "ml-float-a",
        "ml-float-b",
        "ml-noid-a",
        "ml-null-a",
        "ml-null-b",
        "ml-str-a",
        "ml-str-b",
    ]
    assert all(isinstance(row["created"], int) and isinstance(row["owned_by"], str) for row in rows)


BOUNDS = [
    ("max_tokens", -1, 200),
    ("max_completion_tokens", -1, 200),
    ("max_tokens", 0, 400),
    ("max_tokens", -2, 400),
    ("top_logprobs", 50, 200),
]


async def test_bounds_that_other_servers_take_pass(play: Play, subtests: pytest.Subtests) -> None:
    name = "odd-n2-usage"
    gateway, upstream = await play(name)
    for field, value, status in BOUNDS:
        with subtests.test(f"{field} {value}"):
            upstream.asked.clear()
            assert (await ask(gateway, name, **{field: value})).status_code == status
            assert len(upstream.asked) == (status == 200)


async def test_rate_limit_of_a_server_keeps_its_retry_after(play: Play) -> None:
    name = "err-429-retry-after"
    gateway, upstream = await play(name)
    answer = await ask(gateway, name)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "17")
    assert "slow down" in answer.json()["error"]["message"]
    assert "x-should-retry" not in answer.headers
    assert len(upstream.asked) == 1, "17 seconds are too long to wait for"
    assert await gateway.is_ready()


async def test_rate_limit_of_one_server_is_no_failure_of_the_request(play: Play) -> None:
    name = "fo-429-then-ok"
    gateway, upstream = await play(name, servers=("fo1", "fo2"))
    answer = await ask(gateway, name)
    assert (answer.status_code, answer.headers["x-bluesminds-attempts"]) == (200, "2")
    assert [server for server, _ in upstream.asked] == ["fo1", "fo2"]
    (row,) = gateway.rows()
    assert (row["server"], row["input_tokens"], row["output_tokens"], row["attempts"]) == ("fo2", 5, 5, 2)


async def test_server_is_left_when_the_client_leaves(play: Play) -> None:
    name = "sse-comments"

    def hang(played: dict[str, Any]) -> None:
        played["upstream"]["end"] = "hang"
        played["upstream"]["pieces"] = played["upstream"]["pieces"][:5]

    gateway, upstream = await play(name, alter=hang)
    async with (
        reading(gateway, gateway.key, name) as answer,
        aclosing(answer.aiter_raw()) as pieces,
    ):
        await anext(pieces)
    await eventually(lambda: upstream.left == 1)
    (row,) = await gateway.settled(1)
    assert row["outcome"] == "client_gone"
