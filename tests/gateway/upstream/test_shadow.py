"""Copies of requests are sent to a shadow target, and their responses are dropped."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.gateway.upstream import shadow
from tests import gateways
from tests.fakes import anthropic_server
from tests.fakes.model_server import (
    USAGE,
    Cut,
    ModelServer,
    completion,
    hang,
    refusal,
    streamed,
    text_chunks,
    whole,
)
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

PRICES = [{"model": name, "input_usd": "10", "output_usd": "10", "max_output_tokens": 100} for name in "mn"]
Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Start:
    """`models` is the target of the route, `second` the shadow."""

    async def start(second_server: dict[str, Any] | None = None, *, key: str = "", **route: Any) -> Gateway:
        copied = {"shadow": "two", "shadow_model": "n", "shadow_share": 1.0, "shadow_daily_usd": "5"}
        routes = [{"model": "m", "targets": ["one"]} | copied | route]
        servers = [
            entry("one", models.url, tags=["zdr"]),
            entry("two", second.url, models=["n"]) | (second_server or {}),
        ]
        return await gateways.start(nursery, home, servers=servers, routes=routes, prices=PRICES, key=key)

    return start


async def copies(gateway: Gateway, outcome: str) -> float:
    return await gateway.metric("bluesminds_shadow_requests_total", outcome=outcome, server="two")


async def attempts(gateway: Gateway, answer: httpx.Response) -> list[dict[str, Any]]:
    await gateway.settled(1)
    async with gateway.operator() as client:
        shown = await client.get(f"/api/admin/requests/{answer.headers['x-request-id']}")
    found: list[dict[str, Any]] = shown.json()["receipt"]["attempts"]
    return found


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["json", "stream"])
async def test_copy_is_sent_and_charged_to_no_account(
    start: Start, models: ModelServer, second: ModelServer, body: dict[str, Any]
) -> None:
    gateway = await start()
    answer = await gateway.chat(body)
    assert answer.status_code == 200 and answer.headers["x-bluesminds-server"] == "one"

    async def is_answered() -> bool:
        return await copies(gateway, "answered") == 1

    await eventually(is_answered)
    (original,), (copy,) = models.asked, second.asked
    assert copy.body == original.body | {"model": "n"}
    request_id = original.header(b"x-request-id") or b""
    assert copy.header(b"x-request-id") == request_id + b"-shadow"
    (row,) = await gateway.settled(1)
    tokens = USAGE["total_tokens"]
    assert (row["server"], row["attempts"], row["cost_nano"]) == ("one", 1, tokens * 10_000)
    labels = {"class": "shadow", "server": "two"}
    assert await gateway.metric("bluesminds_uncharged_usd_total", **labels) == pytest.approx(tokens / 1e5)
    first, copied = await attempts(gateway, answer)
    assert (first["server"], first["cost_class"]) == ("one", None)
    assert (copied["server"], copied["reason"], copied["cost_class"]) == ("two", "shadow", "shadow")
    assert float(copied["uncharged_usd"]) > 0


async def test_failing_shadow_changes_nothing_for_the_client(start: Start, second: ModelServer) -> None:
    gateway = await start()
    second.default = refusal(503)
    for _ in range(8):
        assert (await gateway.chat(STREAM)).status_code == 200

    async def is_done() -> bool:
        return await copies(gateway, "failed") == 8

    await eventually(is_done)
    assert len(second.asked) == 8, "copies are not repeated"
    labels = {"class": "shadow", "server": "two"}
    assert await gateway.metric("bluesminds_uncharged_usd_total", **labels) == 0
    assert gateway.events("server_ejected") == []
    rows = await gateway.settled(8)
    assert {row["outcome"] for row in rows} == {"ok"}


async def test_copy_without_a_connection_costs_nothing(start: Start) -> None:
    gateway = await start({"url": "http://127.0.0.1:9"})  # the port of a service that nothing offers
    assert (await gateway.chat()).status_code == 200

    async def is_done() -> bool:
        return await copies(gateway, "failed") == 1

    await eventually(is_done)
    labels = {"class": "shadow", "server": "two"}
    assert await gateway.metric("bluesminds_uncharged_usd_total", **labels) == 0


async def test_cut_copy_costs_the_prompt_and_the_text_so_far(start: Start, second: ModelServer) -> None:
    gateway = await start()
    text = "word " * 400
    second.plan(streamed(*text_chunks([text]), Cut))
    assert (await gateway.chat(STREAM)).status_code == 200

    async def is_done() -> bool:
        return await copies(gateway, "failed") == 1

    await eventually(is_done)
    labels = {"class": "shadow", "server": "two"}
    cost = await gateway.metric("bluesminds_uncharged_usd_total", **labels)
    assert cost > len(text) / 8 * 1e-5


async def test_request_that_a_server_stores_is_not_copied(start: Start, second: ModelServer) -> None:
    gateway = await start()
    answer = await gateway.chat(ASK | {"store": True})
    assert answer.status_code == 200
    assert len(await attempts(gateway, answer)) == 1
    assert second.asked == []


async def test_bug_in_one_copy_does_not_end_the_others(
    start: Start, second: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("a bug")

    gateway = await start()
    with monkeypatch.context() as patch:
        patch.setattr(shadow, "_read_usage", fail)
        assert (await gateway.chat()).status_code == 200
        await eventually(lambda: len(gateway.events("shadow_failed")) == 1)
    assert (await gateway.chat()).status_code == 200

    async def is_answered() -> bool:
        return await copies(gateway, "answered") == await copies(gateway, "failed") == 1

    await eventually(is_answered)
    assert gateway.events("background_task_failed") == []


async def test_copies_without_room_are_dropped(
    start: Start, second: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "MAX_WAITING", 1)
    monkeypatch.setattr(shadow, "MAX_RUNNING", 1)
    gateway = await start()
    second.default = hang
    assert (await gateway.chat()).status_code == 200
    await eventually(lambda: len(second.asked) == 1)
    for _ in range(5):
        assert (await gateway.chat()).status_code == 200
    assert await copies(gateway, "dropped") == 4
    assert len(second.asked) == 1


async def test_large_copies_without_room_are_dropped(
    start: Start, second: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "MAX_WAITING_BYTES", 10)
    gateway = await start()
    assert (await gateway.chat()).status_code == 200
    assert await copies(gateway, "dropped") == 1
    assert second.asked == []


@pytest.mark.parametrize("route", [{"shadow_daily_usd": "0"}, {"shadow_share": 0.0}], ids=["amount", "share"])
async def test_copies_beyond_the_bounds_are_not_sent(
    start: Start, second: ModelServer, route: dict[str, Any]
) -> None:
    gateway = await start(**route)
    answer = await gateway.chat()
    assert answer.status_code == 200
    assert len(await attempts(gateway, answer)) == 1
    assert second.asked == []


async def test_amount_of_the_day_outlasts_a_restart(start: Start, second: ModelServer) -> None:
    second.plan(whole(completion(usage=USAGE | {"prompt_tokens": 1_000_000})))  # 10 USD
    gateway = await start()
    assert (await gateway.chat()).status_code == 200

    async def is_answered() -> bool:
        return await copies(gateway, "answered") == 1

    await eventually(is_answered)
    await gateway.stop()
    gateway = await start(key=gateway.key)
    for _ in range(3):
        assert (await gateway.chat()).status_code == 200
    await gateway.settled(4)
    assert len(second.asked) == 1


async def test_share_of_requests_is_copied(start: Start, second: ModelServer) -> None:
    gateway = await start(shadow_share=0.25)
    for _ in range(12):
        assert (await gateway.chat()).status_code == 200

    async def is_done() -> bool:
        return await copies(gateway, "answered") == len(second.asked) >= 3

    await eventually(is_done)
    assert len(second.asked) in (3, 4)


async def test_required_tags_keep_requests_from_other_servers(start: Start, second: ModelServer) -> None:
    gateway = await start()
    answer = await gateway.chat(headers={"x-bluesminds-tags": "zdr"})
    assert answer.status_code == 200
    assert len(await attempts(gateway, answer)) == 1
    assert second.asked == []


async def test_shadow_in_another_format_gets_no_copies(
    start: Start, nursery: trio.Nursery, second: ModelServer
) -> None:
    anthropic: ModelServer = await nursery.start(anthropic_server.serve)
    gateway = await start({"url": anthropic.url, "dialect": "anthropic"})
    answer = await gateway.chat()
    assert answer.status_code == 200
    assert len(await attempts(gateway, answer)) == 1
    assert anthropic.asked == []
