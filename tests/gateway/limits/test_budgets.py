"""Budgets that cannot be overspent: holds of plain answers and streams, lowered lengths, stopped streams."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.clock import Calendar
from bluesminds.common.money import Price, Rates
from bluesminds.common.values import Caller, LimitSet
from bluesminds.gateway.limits.budget import OutputForecast, StreamBudget, affordable_output
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.reserve import RateLimiter
from storage.usage import UsageRow
from tests import gateways
from tests.fakes.model_server import ModelServer, chunk, completion, streamed, text_chunks, whole
from tests.gateway.limits.test_limits_state_machine import Times
from tests.gateways import ASK, STREAM, Gateway, entry
from tests.prices import token_price
from tests.storage.conftest import postgres, postgres_url
from tests.storage.samples import all_usage

__all__ = ["postgres", "postgres_url"]

PRICE = {"model": "m", "input_usd": 0, "output_usd": "10", "max_output_tokens": 1000}
BILLED = {"prompt_tokens": 5, "completion_tokens": 1000, "total_tokens": 1005}
PATIENT = {"server": {"max_connections_per_ip": 1000}, "upstream": {"max_connections_per_server": 500}}
DONE = b"data: [DONE]\n\n"


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The [storage] section."""
    url = {"url": request.getfixturevalue("postgres_url")} if request.param == "postgres" else {}
    return {"settle_timeout": 60.0} | url


async def usage_rows(gateway: Gateway) -> Sequence[UsageRow]:
    return await gateway.services.store.read(all_usage)


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **more: Any) -> Gateway:
    servers = [entry("one", models.url)]
    return await gateways.start(nursery, home, servers=servers, prices=[PRICE], **PATIENT, **more)


def long_stream(pieces: int) -> Any:
    """Every piece has four bytes, so at least one token."""
    return streamed(*text_chunks(["word"] * pieces), chunk(finish="stop"), DONE)


async def ask_often(gateway: Gateway, models: ModelServer, key: str, requests: int) -> Counter[int]:
    """The statuses of parallel requests, of which each costs 0.01 USD."""
    models.plan(*[whole(completion(usage=BILLED))] * requests)
    found: Counter[int] = Counter()

    async def ask() -> None:
        found[(await gateway.chat(ASK, key=key)).status_code] += 1

    async with trio.open_nursery() as clients:
        for _ in range(requests):
            clients.start_soon(ask)
    return found


async def test_budget_for_ten_requests_admits_exactly_ten_of_200(
    nursery: trio.Nursery, home: Path, models: ModelServer, storage: dict[str, Any]
) -> None:
    gateway = await start(nursery, home, models, storage=storage)
    _, key = await gateway.new_key(limits={"usd_total": "0.1"})
    assert await ask_often(gateway, models, key, 200) == {200: 10, 429: 190}
    assert sum(row.cost_nano or 0 for row in await usage_rows(gateway)) == 10**8


async def test_credit_for_ten_requests_admits_exactly_ten_of_50(
    nursery: trio.Nursery, home: Path, models: ModelServer, storage: dict[str, Any]
) -> None:
    gateway = await start(nursery, home, models, storage=storage)
    user_id, key = await new_account(gateway, "0.1")
    assert await ask_often(gateway, models, key, 50) == {200: 10, 402: 40}
    assert sum(row.charged_nano or 0 for row in await usage_rows(gateway)) == 10**8
    async with gateway.operator() as client:
        balance = (await client.get(f"/api/admin/users/{user_id}/balance")).json()
        proof = (await client.get("/api/admin/ledger/verify")).json()
    assert (balance["balance_usd"], proof["ok"]) == ("0", True)


async def test_budget_of_a_tier_for_ten_requests_admits_exactly_ten_of_100(
    nursery: trio.Nursery, home: Path, models: ModelServer, storage: dict[str, Any]
) -> None:
    """Of two accounts together, and after a restart."""
    tiers = {"pro": {"rpm": 0, "tpm": 0, "tokens_per_day": 0, "tokens_per_month": 0}}
    tiers["pro"] |= {"shared_usd_per_month": "0.1"}  # type: ignore[dict-item]
    async with trio.open_nursery() as first:
        gateway = await start(first, home, models, storage=storage, tiers=tiers)
        keys = []
        for name in ("ada", "eve"):
            person = {"email": f"{name}@example.com", "password": "a long password", "tier": "pro"}
            async with gateway.operator() as client:
                user_id = (await client.post("/api/admin/users", json=person)).json()["id"]
            keys.append((await gateway.new_key(user_id=user_id))[1])
        found: Counter[int] = Counter()

        async def ask_with(key: str) -> None:
            found.update(await ask_often(gateway, models, key, 50))

        async with trio.open_nursery() as clients:
            for key in keys:
                clients.start_soon(ask_with, key)
        assert found == {200: 10, 429: 90}
        async with gateway.operator() as client:
            shown = (await client.get("/api/admin/tiers")).json()["data"]
        (shared,) = [one["shared"] for one in shown if one["name"] == "pro"]
        assert shared["usd_per_month"] == {"limit": "0.1", "used": "0.1"}
        await gateway.stop()
        first.cancel_scope.cancel()
    gateway = await start(nursery, home, models, storage=storage, tiers=tiers)
    answer = await gateway.chat(ASK, key=keys[1])
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "tier_budget_exceeded")


async def new_account(gateway: Gateway, credit: str) -> tuple[str, str]:
    """A user with prepaid credit: its id and an API key."""
    person = {"email": "ada@example.com", "password": "a long password"}
    async with gateway.operator() as client:
        user_id = (await client.post("/api/admin/users", json=person)).json()["id"]
        topup = {"kind": "topup", "amount_usd": credit}
        assert (await client.post(f"/api/admin/users/{user_id}/credit", json=topup)).is_success
    _, key = await gateway.new_key(user_id=user_id)
    return user_id, key


@pytest.mark.parametrize("prepaid", [False, True], ids=["budget", "credit"])
async def test_long_stream_is_ended_at_the_budget_with_the_length_reason(
    nursery: trio.Nursery, home: Path, models: ModelServer, storage: dict[str, Any], prepaid: bool
) -> None:
    gateway = await start(nursery, home, models, storage=storage)
    if prepaid:
        _, key = await new_account(gateway, "0.006")  # 600 tokens
    else:
        _, key = await gateway.new_key(limits={"usd_total": "0.006"})
    models.plan(long_stream(2000))
    ask = STREAM | {"max_tokens": 100_000, "stream_options": {"include_usage": True}}
    received = await gateway.chat(ask, key=key)
    events = [json.loads(line[6:]) for line in received.text.splitlines() if line.startswith("data: {")]
    assert received.text.endswith("data: [DONE]\n\n")
    assert received.text.count("\n: bluesminds: stopped at a budget\n\n") == 1
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"]["completion_tokens"] >= 590
    words = sum(bool(one["choices"] and one["choices"][0]["delta"].get("content")) for one in events)
    assert 590 <= words <= 600, "events that arrive together are forwarded together"
    (row,) = await usage_rows(gateway)
    assert (row.outcome, row.status) == ("stopped", 200)
    assert row.cost_nano is not None
    assert 5_900_000 <= row.cost_nano <= 6_000_000
    assert row.charged_nano == (row.cost_nano if prepaid else None)


async def test_stopped_message_has_the_reason_of_its_format(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    _, key = await gateway.new_key(limits={"usd_total": "0.006"})
    models.plan(long_stream(2000))
    body = {"model": "m", "max_tokens": 100_000, "stream": True}
    async with gateway.client(key) as client:
        received = await client.post("/v1/messages", json=body | {"messages": ASK["messages"]})
    assert '"stop_reason":"max_tokens"' in received.text
    assert "stopped at a budget" not in received.text
    assert "message_stop" in received.text
    assert gateway.rows()[0]["cost_nano"] <= 6_000_000


async def test_large_maximum_of_a_stream_does_not_lock_a_small_budget(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    _, key = await gateway.new_key(limits={"usd_total": "0.02"})
    go_on = trio.Event()
    plans = [streamed(*text_chunks(["word"] * 20), go_on, chunk(finish="stop"), DONE) for _ in range(3)]
    models.plan(*plans)
    statuses = []

    async def ask() -> None:
        statuses.append((await gateway.chat(STREAM | {"max_tokens": 100_000}, key=key)).status_code)

    async with trio.open_nursery() as clients:
        for _ in range(3):
            clients.start_soon(ask)
        await gateways.eventually(lambda: len(models.asked) == 3)
        assert 0 < await reserved(gateway) <= 0.02
        go_on.set()
    assert statuses == [200] * 3
    assert await reserved(gateway) == 0


async def reserved(gateway: Gateway) -> float:
    text = (await gateway.get("/metrics")).text
    (line,) = [line for line in text.splitlines() if line.startswith("bluesminds_reserved_usd ")]
    return float(line.split()[1])


async def test_length_is_lowered_to_what_the_budget_covers(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    _, key = await gateway.new_key(limits={"usd_total": "0.005"})  # 500 tokens
    models.plan(whole(completion(usage=BILLED | {"completion_tokens": 490})))
    lowered = await gateway.chat(ASK | {"max_tokens": 2000}, key=key)
    assert (lowered.status_code, lowered.headers["x-bluesminds-max-output"]) == (200, "500")
    sent = models.asked[0].body
    assert sent.get("max_completion_tokens", sent.get("max_tokens")) == 500
    assert not {"max_completion_tokens", "max_tokens"} <= sent.keys()
    assert (await gateway.chat(ASK, key=key)).status_code == 429, "10 tokens are too few"
    assert "x-bluesminds-max-output" not in (await gateway.chat(ASK)).headers


async def test_length_is_lowered_in_a_translated_request(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    _, key = await gateway.new_key(limits={"usd_total": "0.005"})
    models.plan(whole(completion(usage=BILLED | {"completion_tokens": 1})))
    body = {"model": "m", "max_tokens": 900, "messages": ASK["messages"]}
    async with gateway.client(key) as client:
        answer = await client.post("/v1/messages", json=body)
    assert (answer.status_code, answer.headers["x-bluesminds-max-output"]) == (200, "500")
    assert models.asked[0].body["max_tokens"] == 500


@pytest.mark.parametrize("dialect", ["gemini", "openai"])
async def test_length_of_a_gemini_request_is_lowered(
    nursery: trio.Nursery, home: Path, models: ModelServer, dialect: str
) -> None:
    """In either spelling, for a server of the same format and in a translation."""
    servers = [entry("one", models.url, dialect=dialect)]
    gateway = await gateways.start(nursery, home, servers=servers, prices=[PRICE], **PATIENT)
    body = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
    configs: list[dict[str, Any]] = [
        {},
        {"generationConfig": {"maxOutputTokens": 900, "temperature": 0.5}},
        {"generation_config": {"max_output_tokens": 900, "temperature": 0.5}},
    ]
    for config in configs:
        _, key = await gateway.new_key(limits={"usd_total": "0.005"})  # 500 tokens
        async with gateway.client(key) as client:
            answer = await client.post("/v1beta/models/m:generateContent", json=body | config)
        assert answer.headers["x-bluesminds-max-output"] == "500", answer.text
        sent = models.asked[-1].body
        if dialect == "openai":
            assert sent["max_tokens"] == 500
            continue
        (name,) = {"generationConfig", "generation_config"} & sent.keys()
        assert sent[name] == {"maxOutputTokens": 500} | ({"temperature": 0.5} if config else {})


async def test_other_limits_are_not_met_by_a_shorter_answer(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    _, key = await gateway.new_key(limits={"usd_total": "0.005", "tpm": 5})
    assert (await gateway.chat(ASK, key=key)).status_code == 429
    assert models.asked == []


rates = st.integers(0, 10**10)


@given(rates, rates, st.integers(0, 10**6), st.integers(0, 10**12), st.integers(0, 5000))
def test_affordable_output_is_the_largest(
    input_: int, output: int, tokens: int, room: int, markup: int
) -> None:
    price = token_price(input_, output)
    found = affordable_output(price, tokens, room, markup)
    if found:
        assert price.max_cost(tokens, found, markup) <= room
    if found < 10_000_000:
        assert price.max_cost(tokens, found + 1, markup) > room


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), max_size=60), st.integers(1, 10**6), rates)
def test_streams_together_never_exceed_the_budget(
    steps: list[tuple[int, int]], budget: int, rate: int
) -> None:
    times = Times()
    limiter = RateLimiter(times, Calendar(UTC), lambda: True, times.now)
    for subject in ("key:k", "user:u"):
        limiter.open_account(subject, None)
    caller = Caller("k", "u", LimitSet(usd_total=budget), LimitSet(usd_per_day=2 * budget), None)
    price = Price("p", ((0, Rates(input=0, output=rate)),))
    budgets = [StreamBudget(limiter.reserve(caller, Estimate(0, 0)), price, 0, 0, 0) for _ in range(4)]
    written = [0] * 4
    for number, tokens in steps:
        if budgets[number].allows(written[number] + tokens):
            written[number] += tokens
    assert sum(price.max_cost(0, tokens) for tokens in written) <= budget
    for one in budgets:
        one._reservation.settle(0, 0)
    assert limiter.money_left(caller) == budget


def test_forecast_follows_recent_responses_and_is_bounded() -> None:
    forecast = OutputForecast()
    assert forecast.expect("k", "m") is None
    for number in range(400):
        forecast.learn("k", "m", 1000 if number % 20 == 0 else 100)
    assert 90 <= (forecast.expect("k", "m") or 0) <= 600
    for _ in range(200):
        forecast.learn("k", "m", 5000)
    assert (forecast.expect("k", "m") or 0) > 3500
    for number in range(10_005):
        forecast.learn(str(number), "m", 1)
    assert len(forecast._forecasts) == 10_000


@pytest.mark.parametrize("cut", ["client", "server"])
async def test_reservation_of_a_stream_is_released_on_every_exit(
    nursery: trio.Nursery, home: Path, models: ModelServer, cut: str
) -> None:
    gateway = await start(nursery, home, models)
    key_id, key = await gateway.new_key(limits={"usd_total": "1"})
    hang = trio.Event()
    models.plan(streamed(*text_chunks(["word"] * 600), hang) if cut == "client" else streamed(chunk("x")))
    async with (
        gateway.client(key) as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as received,
    ):
        if cut == "client":
            await anext(received.aiter_raw())
        else:
            await received.aread()
    (row,) = await gateway.settled(1)
    async with gateway.operator() as client:
        shown = (await client.get(f"/api/admin/keys/{key_id}/limits")).json()["usd_total"]
    assert row["cost_nano"] > 0
    assert shown["used"] == f"{row['cost_nano'] / 10**9:.9f}".rstrip("0")
    hang.set()
