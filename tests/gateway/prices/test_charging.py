"""Prices through the whole gateway: what is charged, shown and refused."""

import json
from pathlib import Path
from typing import Any

import httpx
import trio

from tests import gateways
from tests.fakes.model_server import ModelServer, completion, streamed, text_chunks, whole
from tests.gateways import ASK, STREAM, Gateway, entry

PRICE = {"model": "m", "input_usd": "1", "output_usd": "2", "cached_input_usd": "0.5"}
SHOW = {"usage": {"include": True}}


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **more: Any) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", models.url)], **more)


def reply(**usage: Any) -> bytes:
    body = json.loads(completion())
    tier = usage.pop("service_tier", None)
    return json.dumps(body | {"usage": usage} | ({"service_tier": tier} if tier else {})).encode()


TOKENS = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


async def test_service_tier_long_context_and_version_are_recorded(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    prices = [
        PRICE,
        {"model": "m", "service_tier": "flex", "input_usd": "0.5", "output_usd": "1"},
        {"model": "m", "from_tokens": 1000, "input_usd": "3"},
    ]
    gateway = await start(nursery, home, models, prices=prices)
    long = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
    models.plan(whole(reply(**TOKENS)), whole(reply(**TOKENS, service_tier="flex")), whole(reply(**long)))
    shown = [(await gateway.chat(ASK)).headers["x-cost-usd"] for _ in range(3)]
    assert shown == ["0.00012", "0.00006", "0.003002"]
    rows = gateway.rows()
    assert [row["cost_nano"] for row in rows] == [120_000, 60_000, 3_002_000]
    (version,) = {row["price_version"] for row in rows}
    assert version.startswith("operator:m@#")


async def test_server_has_its_own_price(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    prices = [PRICE, {"model": "m", "server": "one", "input_usd": 0, "output_usd": 0}]
    gateway = await start(nursery, home, models, prices=prices)
    models.plan(whole(reply(**TOKENS)))
    _, key = await gateway.new_key(limits={"usd_total": "0.000001"})
    assert (await gateway.chat(ASK, key=key)).headers["x-cost-usd"] == "0", "a budget does not block it"
    (row,) = gateway.rows()
    assert (row["cost_nano"], row["price_version"].partition("#")[0]) == (0, "one:m@")


async def test_model_without_price_is_counted_or_refused(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    answered = await gateway.chat(ASK)
    assert "x-cost-usd" not in answered.headers
    assert await gateway.metric("bluesminds_unpriced_requests_total", model="m") == 1
    (row,) = gateway.rows()
    assert (row["cost_nano"], row["price_version"]) == (None, "")
    _, key = await gateway.new_key(limits={"usd_total": "1"})
    assert (await gateway.chat(ASK, key=key)).json()["error"]["code"] == "model_not_priced"
    await gateway.stop()
    strict = await start(nursery, home, models, limits={"unpriced": "refuse"})
    refused = await strict.chat(ASK, key=gateway.key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_priced")


async def test_cost_is_in_the_usage_block_if_asked_for(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models, prices=[PRICE])
    models.plan(whole(reply(**TOKENS)), whole(reply(**TOKENS)))
    with_cost = (await gateway.chat(ASK | SHOW)).json()
    assert with_cost["usage"] == TOKENS | {"cost": 0.00012}
    assert (await gateway.chat(ASK)).json()["usage"] == TOKENS
    assert "usage" not in models.asked[0].body, "servers may refuse the field"


async def test_last_chunk_of_a_stream_has_the_cost(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models, prices=[PRICE])
    report = b"data: %b\n\n" % json.dumps({"choices": [], "usage": TOKENS}).encode()
    models.plan(streamed(*text_chunks(), report, b"data: [DONE]\n\n"))
    received = await gateway.chat(STREAM | SHOW)
    events = [json.loads(line[6:]) for line in received.text.splitlines() if line.startswith("data: {")]
    assert events[-1]["usage"]["cost"] == 0.00012
    assert gateway.rows()[0]["cost_nano"] == 120_000


async def test_wrong_usage_option_is_refused(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await start(nursery, home, models)
    refused = await gateway.chat(ASK | {"usage": 5})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "usage")


async def test_markup_of_the_tier_is_charged(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await start(nursery, home, models, prices=[PRICE], tiers={"pro": {"markup_percent": 50}})
    models.plan(*[whole(reply(**TOKENS))] * 2)
    plain = await gateway.chat(ASK)
    person = {"email": "ada@example.com", "password": "a long password", "tier": "pro"}
    async with gateway.operator() as client:
        made = await client.post("/api/admin/users", json=person)
        key = (await client.post("/api/admin/keys", json={"name": "k", "user_id": made.json()["id"]})).json()
    marked = await gateway.chat(ASK, key=key["key"])
    assert [one.headers["x-cost-usd"] for one in (plain, marked)] == ["0.00012", "0.00018"]


async def test_administrator_sets_and_removes_prices(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models, prices=[PRICE | {"model": "other"}])
    models.plan(*[whole(reply(**TOKENS))] * 4)
    async with gateway.operator() as client:

        async def put(**line: Any) -> httpx.Response:
            return await client.put("/api/admin/prices", json={"model": "m"} | line)

        assert (await put()).json()["error"]["code"] == "invalid_value"
        for day in ("2026-02-30", "2026-13-01"):
            assert (await put(input_usd="1", since=day)).json()["error"]["param"] == "since"
            assert (await put(input_usd="1", until=day)).json()["error"]["param"] == "until"
        same = {"since": "2026-12-01", "until": "2026-12-01"}
        assert (await put(input_usd="1", **same)).json()["error"]["param"] == "until"
        assert (await put(input_usd="8", until="2026-01-01")).status_code == 200
        assert "x-cost-usd" not in (await gateway.chat(ASK)).headers, "it has ended"
        assert (await put(input_usd="1", output_usd="2")).status_code == 200
        assert (await gateway.chat(ASK)).headers["x-cost-usd"] == "0.00012"
        added = (await put(input_usd="9", since="2099-01-01")).json()["data"]
        assert [(row["input_usd"], row["since"]) for row in added] == [("1", None), ("9", "2099-01-01")]
        assert (await gateway.chat(ASK)).headers["x-cost-usd"] == "0.00012", "it does not count yet"
        listed = (await client.get("/api/admin/prices")).json()["data"]
        assert [(row["model"], row["source"]) for row in listed] == [("m", "operator")] * 2 + [
            ("other", "operator")
        ]
        bundled = (await client.get("/api/admin/prices", params={"model": "gpt-5"})).json()["data"]
        assert bundled[0]["version"].startswith("bundled:openai/gpt-5@")
        assert (await client.delete("/api/admin/prices", params={"model": "m"})).status_code == 204
        assert (await client.delete("/api/admin/prices", params={"model": "m"})).status_code == 404
        audit = (await client.get("/api/admin/audit", params={"subject": "m"})).json()["data"]
        assert [row["action"] for row in audit] == ["price.remove", *["price.set"] * 3]
    assert "x-cost-usd" not in (await gateway.chat(ASK)).headers
