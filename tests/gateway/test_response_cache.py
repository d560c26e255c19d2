"""Identical requests share a response of the server."""

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from bluesminds.gateway.response_cache import CachedResponse, ResponseCache
from tests import gateways
from tests.fakes import raw_upstream
from tests.fakes.model_server import (
    DONE,
    USAGE,
    Asked,
    Cut,
    ModelServer,
    Plan,
    chunk,
    completion,
    refusal,
    streamed,
    whole,
)
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

CACHE = "x-bluesminds-cache"
PRICE = {"model": "m", "input_usd": "1", "output_usd": "2"}


@pytest.fixture
async def cached(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    return await start(nursery, home, models)


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **cache: Any) -> Gateway:
    servers = [entry("one", models.url)]
    return await gateways.start(
        nursery, home, servers=servers, cache={"enabled": True} | cache, prices=[PRICE]
    )


def waiting(gate: trio.Event, begun: trio.Event, body: bytes) -> Plan:
    async def play(server: ModelServer, peer: raw_upstream.Peer, asked: Asked) -> None:
        begun.set()
        await gate.wait()
        await whole(body)(server, peer, asked)

    return play


async def test_identical_request_gets_the_stored_response_without_cost(
    cached: Gateway, models: ModelServer
) -> None:
    models.plan(whole(completion("one")), whole(completion("two")))
    first = await cached.chat()
    second = await cached.chat()
    assert (first.headers[CACHE], second.headers[CACHE]) == ("miss", "hit")
    assert second.content == first.content
    assert second.headers["content-type"] == "application/json"
    assert second.headers["x-cost-usd"] == "0"
    assert int(second.headers["age"]) >= 0
    assert "x-bluesminds-server" not in second.headers
    assert len(models.asked) == 1
    served, hit = await cached.settled(2)
    assert served["cost_nano"] > 0
    assert (hit["usage_source"], hit["cost_nano"], hit["attempts"]) == ("cache", 0, 0)
    assert (hit["input_tokens"], hit["output_tokens"], hit["status"]) == (0, 0, 200)
    assert await cached.metric("bluesminds_cache_requests_total", result="hit") == 1
    assert await cached.metric("bluesminds_cache_bytes") > len(first.content)


async def test_identical_stream_is_repeated_byte_for_byte(cached: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("Hel"), chunk("lo", finish="stop"), chunk(usage=USAGE), DONE))
    first = await cached.chat(STREAM)
    second = await cached.chat(STREAM)
    assert second.headers[CACHE] == "hit"
    assert second.content == first.content
    assert second.content.endswith(DONE)
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["x-accel-buffering"] == "no"
    assert len(models.asked) == 1


CHANGES: list[dict[str, Any]] = [
    {"temperature": 0.5},
    {"stream": True},
    {"messages": [{"role": "user", "content": "Say bye."}]},
    {"invented": 1},
]


async def test_request_with_another_value_is_not_answered_from_the_cache(
    cached: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    await cached.chat()
    assert (await cached.chat()).headers[CACHE] == "hit"
    for change in CHANGES:
        with subtests.test(str(change)):
            models.asked.clear()
            assert (await cached.chat(ASK | change)).headers[CACHE] == "miss"
            assert len(models.asked) == 1


async def test_order_and_space_of_fields_do_not_matter(cached: Gateway, models: ModelServer) -> None:
    await cached.chat(b'{"model":"m","messages":[{"role":"user","content":"a"}]}')
    other = await cached.chat(b'{ "messages" : [{"role":"user","content":"a"}], "model":"m" }')
    assert other.headers[CACHE] == "hit"
    assert len(models.asked) == 1


NOT_STORED: list[tuple[Plan, int]] = [
    (refusal(400), 400),
    (streamed(chunk("Hel"), Cut), 200),
    (streamed(chunk("Hel"), chunk("lo")), 200),
]


async def test_failed_or_incomplete_response_is_not_stored(
    cached: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for number, (plan, status) in enumerate(NOT_STORED):
        with subtests.test(str(number)):
            models.asked.clear()
            body = STREAM | {"messages": [{"role": "user", "content": f"Say {number}."}]}
            models.plan(plan)
            assert (await cached.chat(body)).status_code == status
            again = await cached.chat(body)
            assert again.headers[CACHE] == "miss"
            assert again.content.endswith(DONE)
            assert len(models.asked) == 2


async def test_identical_requests_at_once_share_one_upstream_request(
    cached: Gateway, models: ModelServer
) -> None:
    gate, begun = trio.Event(), trio.Event()
    models.plan(waiting(gate, begun, completion("one")))
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await cached.chat())

    async with trio.open_nursery() as clients:
        for _ in range(8):
            clients.start_soon(ask)
        await begun.wait()
        await eventually(lambda: running(cached, 8))
        gate.set()
    assert len(models.asked) == 1
    assert sorted(answer.headers[CACHE] for answer in answers) == ["hit"] * 7 + ["miss"]
    assert len({answer.content for answer in answers}) == 1
    assert sum(row["cost_nano"] > 0 for row in await cached.settled(8)) == 1


async def running(gateway: Gateway, count: int) -> bool:
    return await gateway.metric("bluesminds_requests_running") == count


async def test_first_of_identical_requests_leaves_others_are_served(
    cached: Gateway, models: ModelServer
) -> None:
    gate, begun = trio.Event(), trio.Event()
    models.plan(waiting(gate, begun, completion("one")), whole(completion("two")))
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await cached.chat())

    async with trio.open_nursery() as clients:
        with trio.CancelScope() as first:
            async with trio.open_nursery() as leader:
                leader.start_soon(ask)
                await begun.wait()
                clients.start_soon(ask)
                await eventually(lambda: running(cached, 2))
                first.cancel()
    assert [answer.headers[CACHE] for answer in answers] == ["miss"]
    assert answers[0].json()["choices"][0]["message"]["content"] == "two"
    gate.set()


DIRECTIVES = [
    ("no-cache", "miss", "hit"),
    ("no-store", "bypass", "hit"),
    ("max-age=0", "miss", "hit"),
    ("max-age=600", "hit", "hit"),
    ("Max-Age = 600, private", "hit", "hit"),
]


async def test_client_directives_are_honoured(
    cached: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for directive, second, third in DIRECTIVES:
        with subtests.test(directive):
            body = ASK | {"messages": [{"role": "user", "content": directive}]}
            texts = ("one",) if second == "hit" else ("one", "two")
            models.plan(*(whole(completion(text)) for text in texts))
            assert (await cached.chat(body)).headers[CACHE] == "miss"
            answer = await cached.chat(body, headers={"cache-control": directive})
            assert answer.headers[CACHE] == second
            last = await cached.chat(body)
            assert last.headers[CACHE] == third
            newest = "two" if directive in ("no-cache", "max-age=0") else "one"
            assert last.json()["choices"][0]["message"]["content"] == newest


@pytest.mark.parametrize(
    ("share", "same_account", "other_account"),
    [("key", "miss", "miss"), ("account", "hit", "miss"), ("all", "hit", "hit")],
)
async def test_responses_are_shared_as_configured(
    nursery: trio.Nursery,
    home: Path,
    models: ModelServer,
    share: str,
    same_account: str,
    other_account: str,
) -> None:
    gateway = await start(nursery, home, models, share=share)
    async with gateway.operator() as operator:
        users = [
            (
                await operator.post(
                    "/api/admin/users",
                    json={"email": f"{name}@example.com", "password": "a long pass phrase"},
                )
            ).json()
            for name in ("a", "b")
        ]
    first, same, other = [(await gateway.new_key(user_id=users[index]["id"]))[1] for index in (0, 0, 1)]
    assert (await gateway.chat(key=first)).headers[CACHE] == "miss"
    assert (await gateway.chat(key=same)).headers[CACHE] == same_account
    assert (await gateway.chat(key=other)).headers[CACHE] == other_account


async def test_key_without_the_model_gets_no_cached_response(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models, share="all")
    await gateway.chat()
    _, narrow = await gateway.new_key(allowed_models=["other"])
    assert (await gateway.chat(key=narrow)).status_code in (403, 404)


async def test_response_of_another_region_is_not_used(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [
        entry("us", models.url, region="us"),
        entry("eu", models.url, region="eu", tags=["zdr"], priority=1),
    ]
    gateway = await gateways.start(nursery, home, servers=servers, cache={"enabled": True})
    asked = [{}, {"x-bluesminds-region": "eu"}, {"x-bluesminds-tags": "zdr"}, {"x-bluesminds-region": "EU"}]
    answers = [await gateway.chat(headers=headers) for headers in asked]
    assert [answer.headers[CACHE] for answer in answers] == ["miss", "miss", "miss", "hit"]
    assert [answer.headers.get("x-bluesminds-server") for answer in answers] == ["us", "eu", "eu", None]


async def test_large_response_is_not_stored(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await start(nursery, home, models, max_response_bytes=1000)
    models.plan(whole(completion("a" * 2000)))
    assert len((await gateway.chat()).content) > 2000
    assert (await gateway.chat()).headers[CACHE] == "miss"


async def test_cache_is_off_by_default(gateway: Gateway, models: ModelServer) -> None:
    assert CACHE not in (await gateway.chat()).headers
    assert CACHE not in (await gateway.chat()).headers
    assert len(models.asked) == 2


async def test_limits_count_cached_responses_as_requests_without_tokens(
    cached: Gateway, models: ModelServer
) -> None:
    _, key = await cached.new_key(limits={"rpm": 2, "tpm": 1000})
    await cached.chat(key=key)
    hit = await cached.chat(key=key)
    assert (hit.status_code, hit.headers[CACHE]) == (200, "hit")
    assert (await cached.chat(key=key)).status_code == 429


async def test_translated_response_is_cached_in_the_clients_format(
    cached: Gateway, models: ModelServer
) -> None:
    body = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    async with cached.client() as client:
        answers = [await client.post("/v1/messages", json=body) for _ in range(2)]
    assert [answer.headers[CACHE] for answer in answers] == ["miss", "hit"]
    assert answers[0].content == answers[1].content
    assert msgspec.json.decode(answers[1].content)["type"] == "message"
    assert len(models.asked) == 1


def response(size: int) -> CachedResponse:
    return CachedResponse(200, (), b"a" * size, False, trio.current_time())


async def test_response_is_used_for_its_time_only(mock_clock: trio.testing.MockClock) -> None:
    cache = ResponseCache(
        seconds=10, max_bytes=10_000, max_response_bytes=5_000, scope="all", count=lambda _: None
    )
    cache.store(b"1", response(10))
    mock_clock.jump(9.9)
    assert cache.find(b"1", 100) is not None
    assert cache.find(b"1", 5) is None, "it is older than the client accepts"
    mock_clock.jump(0.2)
    assert cache.find(b"1", 100) is None
    assert cache.held == 0


async def test_full_cache_removes_what_was_not_used_for_the_longest_time() -> None:
    cache = ResponseCache(
        seconds=10, max_bytes=5_000, max_response_bytes=5_000, scope="all", count=lambda _: None
    )
    for digest in (b"1", b"2", b"3"):
        cache.store(digest, response(1000))
    assert cache.find(b"1", 100) is not None
    cache.store(b"4", response(1000))
    assert [digest for digest in (b"1", b"2", b"3", b"4") if cache.find(digest, 100)] == [b"1", b"3", b"4"]
    cache.store(b"4", response(10))
    assert cache.held <= 5_000
