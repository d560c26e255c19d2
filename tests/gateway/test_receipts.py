"""Receipts: what a request did, in few bytes, for those who may see it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from bluesminds.gateway.receipts import MAX_BYTES, Receipt, ReceiptAttempt, ReceiptTarget, write_receipt
from bluesminds.gateway.routing.selection import Dropped
from bluesminds.http.sse import MAX_EVENT
from storage.receipts import select_receipt
from tests import gateways
from tests.deployment import Callers, anonymous_client, code_of, create_callers
from tests.fakes import anthropic_server
from tests.fakes.model_server import (
    Cut,
    ModelServer,
    Plan,
    drop_twice,
    error,
    hang,
    refusal,
    streamed,
    text_chunks,
)
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

Start = Callable[..., Awaitable[Gateway]]
PRICES = [{"model": "m", "input_usd": "1", "output_usd": "2", "max_output_tokens": 100}]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Start:
    async def start(**sections: Any) -> Gateway:
        servers = [entry("one", models.url), entry("two", second.url, priority=1)]
        servers.append(entry("gone", second.url, mode="off"))
        return await gateways.start(nursery, home, servers=servers, **sections)

    return start


async def receipt_of(gateway: Gateway, answer: httpx.Response) -> Any:
    path = f"/api/admin/requests/{answer.headers['x-request-id']}"
    found: dict[str, Any] = {}

    async def is_there() -> bool:
        async with gateway.operator() as client:
            shown = await client.get(path)
        if shown.status_code == 200:
            found.update(shown.json())
        return shown.status_code == 200

    await eventually(is_there)
    return found


async def test_receipt_shows_attempts_limits_and_price(start: Start, models: ModelServer) -> None:
    gateway = await start(prices=PRICES)
    key_id, key = await gateway.new_key(rpm=10, limits={"tokens_per_day": 5000, "usd_total": "1"})
    models.plan(refusal(503))
    answer = await gateway.chat(ASK, key=key)
    assert answer.status_code == 200
    shown = await receipt_of(gateway, answer)
    assert (shown["model"], shown["server"], shown["status"], shown["key_id"]) == ("m", "two", 200, key_id)
    receipt = shown["receipt"]
    assert (receipt["route"], receipt["policy"]) == (None, "priority")
    assert receipt["candidates"] == [{"server": "one", "model": "m"}, {"server": "two", "model": "m"}]
    failed, answered = receipt["attempts"]
    assert (failed["server"], failed["reason"]) == ("one", "503")
    assert (answered["server"], answered["reason"]) == ("two", None)
    assert 0 <= failed["at_ms"] <= answered["at_ms"]
    used = shown["input_tokens"] + shown["output_tokens"]
    assert receipt["reserved_tokens"] >= used
    assert receipt["limits"]["key"]["rpm"] == {"limit": 10, "before": 0, "after": 1}
    assert receipt["limits"]["key"]["tokens_per_day"] == {"limit": 5000, "before": 0, "after": used}
    assert receipt["limits"]["key"]["usd_total"] == {"limit": "1", "before": "0", "after": shown["cost_usd"]}
    assert receipt["price_version"].startswith("operator:m@")
    assert [(one["unit"], one["rate_usd"]) for one in receipt["cost"]] == [("input", "1"), ("output", "2")]
    again = (await receipt_of(gateway, await gateway.chat(ASK, key=key)))["receipt"]
    assert again["limits"]["key"]["rpm"] == {"limit": 10, "before": 1, "after": 2}
    assert again["limits"]["key"]["tokens_per_day"]["before"] == used


async def test_receipt_of_a_route_shows_its_fallback_and_what_was_dropped(
    start: Start, models: ModelServer
) -> None:
    route = {"model": "fast", "targets": [{"server": "one", "model": "m"}, "gone"], "fallback": ["m", "no"]}
    routes = [route | {"policy": "least_busy"}]
    gateway = await start(routes=routes)
    models.plan(refusal(503), refusal(503))
    answer = await gateway.chat(STREAM | {"model": "fast"})
    assert answer.status_code == 200
    receipt = (await receipt_of(gateway, answer))["receipt"]
    assert (receipt["route"], receipt["policy"]) == ("fast", "least_busy")
    assert receipt["candidates"] == [{"server": "one", "model": "m"}, {"server": "two", "model": "m"}]
    assert {(one["server"], one["model"], one["reason"]) for one in receipt["dropped"]} == {
        ("gone", "fast", "unknown_server"),
        ("one", "m", "duplicate"),
        (None, "no", "unknown_model"),
    }
    assert [one["server"] for one in receipt["attempts"]][-1] == "two"


async def test_receipt_of_a_translated_request_shows_format_and_dropped_fields(
    nursery: trio.Nursery, home: Path
) -> None:
    anthropic: ModelServer = await nursery.start(anthropic_server.serve)
    servers = [entry("one", anthropic.url, dialect="anthropic")]
    gateway = await gateways.start(nursery, home, servers=servers)
    answer = await gateway.chat(ASK | {"user": "ada", "seed": 7})
    assert answer.status_code == 200
    receipt = (await receipt_of(gateway, answer))["receipt"]
    assert receipt["translated_to"] == "messages"
    assert receipt["dropped_fields"] == answer.headers["x-bluesminds-dropped"].split(",")
    assert (receipt["price_version"], receipt["cost"]) == (None, [])


@pytest.mark.parametrize(
    ("end", "reason", "code"),
    [
        (Cut, "UpstreamCut", "upstream_cut"),
        (b'data: {"error": {"message": "overloaded", "type": "server_error"}}\n\n', "error_in_stream", ""),
        (b"data: " + b"x" * (MAX_EVENT + 1), "EventTooLarge", "upstream_invalid"),
    ],
    ids=["cut", "error", "too-large"],
)
async def test_receipt_says_how_a_stream_has_failed(
    start: Start, models: ModelServer, end: Any, reason: str, code: str
) -> None:
    gateway = await start()
    models.plan(streamed(*text_chunks(["Hel"]), end))
    answer = await gateway.chat(STREAM)
    assert answer.status_code == 200 and code in answer.text
    (attempt,) = (await receipt_of(gateway, answer))["receipt"]["attempts"]
    assert (attempt["server"], attempt["reason"]) == ("one", reason)
    async with gateway.operator() as client:
        servers = (await client.get("/api/admin/health")).json()["servers"]
    assert servers[0]["circuits"][0]["last_error"] == reason


async def test_receipt_says_that_the_total_timeout_has_ended_a_request(
    start: Start, models: ModelServer
) -> None:
    gateway = await start(upstream={"total_timeout": 1.0})
    models.plan(hang)
    answer = await gateway.chat()
    assert answer.status_code == 504
    (attempt,) = (await receipt_of(gateway, answer))["receipt"]["attempts"]
    assert (attempt["server"], attempt["reason"]) == ("one", "total_timeout")


async def test_receipt_of_a_failed_request_has_its_attempts(start: Start, models: ModelServer) -> None:
    gateway = await start(upstream={"attempts": 1})
    models.plan(refusal(500, error("a text of the server")))
    answer = await gateway.chat(ASK)
    assert answer.status_code >= 500
    shown = await receipt_of(gateway, answer)
    assert [one["reason"] for one in shown["receipt"]["attempts"]] == ["500"]
    assert "a text of the server" not in str(shown)


async def test_users_see_only_their_own_requests(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    server = entry("one", models.url)
    gateway = await gateways.start(nursery, home, servers=[server], server={"expose_server": False})
    callers: Callers = await create_callers(gateway)
    answer = await gateway.chat(ASK, key=callers.keys["good"])
    assert answer.status_code == 200
    shown = await receipt_of(gateway, answer)
    assert shown["receipt"]["attempts"][0]["server"] == "one"
    path = f"/api/requests/{shown['id']}"
    seen = {}
    async with anonymous_client(gateway) as client:
        for role in ("user", "other", "admin"):
            bearer = {"authorization": f"Bearer {(await callers.session(role))[0]}"}
            seen[role] = await client.get(path, headers=bearer)
            unknown = await client.get("/api/requests/x", headers=bearer)
            assert code_of(unknown) == "request_not_found"
    assert [code_of(seen[role]) for role in ("user", "other", "admin")] == ["200", "request_not_found", "200"]
    assert seen["admin"].json() == shown
    assert '"one"' not in seen["user"].text and models.url not in seen["admin"].text
    assert seen["user"].json()["receipt"]["attempts"][0]["server"] is None


async def test_receipts_are_not_written_when_they_are_disabled(start: Start) -> None:
    gateway = await start(receipts={"retention_days": 0})
    shown = await receipt_of(gateway, await gateway.chat(ASK))
    assert shown["receipt"] is None and shown["status"] == 200


async def test_old_receipts_are_deleted(start: Start) -> None:
    gateway = await start()
    shown = await receipt_of(gateway, await gateway.chat(ASK))
    await gateway.services.cleanup.run_once()
    assert await gateway.services.store.read(select_receipt, shown["id"]) is not None
    old = "00000000-0001-7000-8000-000000000000"
    await gateway.alter("INSERT INTO receipts VALUES ('00000000-0001-7000-8000-000000000000', 1, '{}')")
    await gateway.services.cleanup.run_once()
    assert await gateway.services.store.read(select_receipt, old) is None
    assert await gateway.services.store.read(select_receipt, shown["id"]) is not None


@pytest.mark.parametrize("entries", [1, 5, 20, 200])
@pytest.mark.parametrize("name", ["m", "x" * 256, "\N{GRINNING FACE}" * 256])
def test_receipt_never_exceeds_its_size(entries: int, name: str) -> None:
    receipt = Receipt(
        route=name,
        candidates=tuple(ReceiptTarget("s" * 64, name) for _ in range(entries)),
        dropped=tuple(Dropped(name, "s" * 64, "not_listed") for _ in range(entries)),
        attempts=tuple(ReceiptAttempt("s" * 64, 1, 2, name, "FirstByteTimeout") for _ in range(20)),
        dropped_fields=tuple(name for _ in range(entries)),
        price_version=name,
    )
    text = write_receipt(receipt)
    assert len(text.encode()) <= MAX_BYTES
    read = msgspec.json.decode(text, type=Receipt)
    assert read == receipt or read.shortened


async def test_failed_attempt_that_may_be_billed_has_a_cost_that_no_account_pays(
    start: Start, models: ModelServer
) -> None:
    gateway = await start(prices=PRICES)
    _, key = await gateway.new_key(limits={"usd_total": "1"})
    paid = await receipt_of(gateway, await gateway.chat(ASK, key=key))
    models.plan(drop_twice)
    answer = await gateway.chat(ASK, key=key)
    shown = await receipt_of(gateway, answer)
    assert (shown["server"], shown["cost_usd"]) == ("two", paid["cost_usd"])
    failed, answered = shown["receipt"]["attempts"]
    assert (failed["cost_class"], answered["cost_class"], answered["uncharged_usd"]) == ("failed", None, None)
    assert 0 < float(failed["uncharged_usd"]) < float(paid["cost_usd"])
    counted = await gateway.metric("bluesminds_uncharged_usd_total", **{"class": "failed", "server": "one"})
    assert counted == pytest.approx(float(failed["uncharged_usd"]))
    (line,) = shown["receipt"]["limits"]["key"].values()
    assert float(line["after"]) == pytest.approx(2 * float(paid["cost_usd"]))


@pytest.mark.parametrize("failure", [refusal(503), refusal(429)], ids=["503", "429"])
async def test_refused_attempt_has_no_cost(start: Start, models: ModelServer, failure: Plan) -> None:
    gateway = await start(prices=PRICES)
    models.plan(failure)
    shown = await receipt_of(gateway, await gateway.chat())
    assert [one["cost_class"] for one in shown["receipt"]["attempts"]] == [None, None]
    assert await gateway.metric("bluesminds_uncharged_usd_total", **{"class": "failed", "server": "one"}) == 0
