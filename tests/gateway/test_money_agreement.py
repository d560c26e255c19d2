"""All records of the money of an account agree to the nano-dollar: rows, sums, counters, ledger, reports."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from bluesminds.common.money import read_usd, write_usd
from tests import gateways
from tests.fakes.model_server import Cut, Fin, ModelServer, Stall, chunk, completion, refusal, streamed, whole
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

# No rate is a whole number of nano-USD for one unit, so that every cost is rounded.
RATES: Final = {
    "input": "0.123456789",
    "cached_input": "0.012345679",
    "cache_write": "0.154320987",
    "output": "0.987654321",
    "reasoning": "1.111111111",
    "image": "0.000000007",
    "second": "0.000000003",
    "character": "0.777777777",
    "request": "0.000000001",
}
MARKUP: Final = 13  # percent
PRICE: Final = {"model": "m", **{f"{unit}_usd": rate for unit, rate in RATES.items()}}
USAGE: Final = {
    "prompt_tokens": 1237,
    "completion_tokens": 411,
    "total_tokens": 1648,
    "prompt_tokens_details": {"cached_tokens": 1001, "cache_write_tokens": 101},
    "completion_tokens_details": {"reasoning_tokens": 307},
}
REPORT: Final = chunk("last", finish="stop"), chunk(usage=USAGE), b"data: [DONE]\n\n"
CREDIT: Final = 777 + 100_000_000 + 9
SUMS: Final = ("usage_hourly", "usage_daily", "usage_site_hourly", "usage_site_daily", "usage_key_daily")


def cost_by_hand(row: Mapping[str, Any], rates: Mapping[str, str] = RATES) -> int:
    """From the counts of a usage row, without the code of the gateway. Nano-USD."""
    if row["usage_source"] in ("cache", "none"):
        return 0
    count = {name: row[name] or 0 for name in row if isinstance(row[name], int | None)}
    cached, written, reasoned = (
        count[f"{name}_tokens"] for name in ("cache_read", "cache_write", "reasoning")
    )
    units = {
        "input": count["input_tokens"] - cached - written,
        "cached_input": cached,
        "cache_write": written,
        "output": count["output_tokens"] - reasoned,
        "reasoning": reasoned,
        "character": count["characters"],
    }
    usd = sum(Fraction(rates[unit]) * number for unit, number in units.items()) / 10**6
    usd += Fraction(rates["image"]) * count["images"] + Fraction(rates["second"]) * count["audio_ms"] / 1000
    return ceil((usd + Fraction(rates["request"])) * 10**9 * (100 + MARKUP) / 100)


class Member:
    """A user with prepaid credit. `shown`: what responses say that the requests cost, by request id."""

    def __init__(self, gateway: Gateway, user: str, key_id: str, key: str) -> None:
        self.gateway = gateway
        self.user = user
        self.key_id = key_id
        self.key = key
        self.shown: dict[str, str] = {}

    async def ask(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        async with self.gateway.client(self.key) as client:
            if path == "/v1/audio/transcriptions":
                answer = await client.post(path, data={"model": "m"}, files={"file": ("a.mp3", b"sound")})
            else:
                answer = await client.post(path, json=body)
        if "x-cost-usd" in answer.headers:
            self.shown[answer.headers["x-request-id"]] = answer.headers["x-cost-usd"]
        return answer

    async def stream(self, seed: int, *, leaves: bool = False) -> None:
        body = STREAM | {"seed": seed}  # so that the cache has no response
        async with (
            self.gateway.client(self.key) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as answer,
        ):
            with suppress(httpx.RemoteProtocolError):
                async for _ in answer.aiter_raw():
                    if leaves:
                        return


async def join(gateway: Gateway) -> Member:
    person = {"email": "ada@example.com", "password": "a long password", "tier": "pro"}
    async with gateway.operator() as client:
        user = (await client.post("/api/admin/users", json=person)).json()["id"]
        made = (await client.post("/api/admin/keys", json={"name": "k", "user_id": user})).json()
        for kind, amount in (("grant", "0.000000777"), ("topup", "0.1"), ("refund", "0.000000009")):
            body = {"kind": kind, "amount_usd": amount, "key": kind}
            answer = await client.post(f"/api/admin/users/{user}/credit", json=body)
            assert answer.status_code == 201, answer.text
    return Member(gateway, user, made["id"], made["key"])


async def use_everything(member: Member, models: ModelServer) -> None:
    """Requests of every kind, one after the other."""
    media = {"input_tokens": 17, "output_tokens": 3, "total_tokens": 20}
    image = {"created": 1, "data": [{"url": "https://x/1.png"}, {"url": "https://x/2.png"}]}
    vectors = {"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    ranks = {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 9}}
    messages = {"max_tokens": 64, "messages": ASK["messages"], "model": "m"}
    speech = streamed(b"sound", content_type=b"Content-Type: audio/mpeg")
    asked = (
        ("/v1/chat/completions", ASK, whole(completion(usage=USAGE))),
        ("/v1/chat/completions", ASK | {"usage": {"include": True}}, whole(completion(usage=USAGE))),
        ("/v1/messages", messages, whole(completion(usage=USAGE))),
        ("/v1/responses", {"model": "m", "input": "Hello", "store": False}, whole(completion(usage=USAGE))),
        ("/v1/embeddings", {"model": "m", "input": "Hello"}, whole(json.dumps(vectors).encode())),
        ("/v1/rerank", {"model": "m", "query": "q", "documents": ["d"]}, whole(json.dumps(ranks).encode())),
        ("/v1/images/generations", {"model": "m", "prompt": "p", "n": 2}, whole(json.dumps(image).encode())),
        ("/v1/audio/transcriptions", {}, whole(json.dumps({"text": "Hi", "usage": media}).encode())),
        ("/v1/audio/transcriptions", {}, whole(json.dumps({"text": "Hi", "duration": 3.21}).encode())),
        ("/v1/audio/speech", {"model": "m", "input": "Hello", "voice": "alloy"}, speech),
        ("/v1/chat/completions", ASK | {"temperature": 0.5}, whole(completion(usage=...))),
    )
    for path, body, plan in asked:
        models.plan(plan)
        found = await member.ask(path, body)
        assert found.status_code == 200, (path, found.text)
    models.plan(refusal(422), refusal(500))
    for status in (422, 200):  # the failed attempt is repeated
        assert (await member.ask("/v1/chat/completions", ASK | {"seed": status})).status_code == status
    assert (await member.ask("/v1/chat/completions", ASK)).headers["x-bluesminds-cache"] == "hit"
    models.plan(
        streamed(chunk("Hel"), *REPORT),
        streamed(chunk("Hello"), Cut),
        streamed(chunk("Hello"), Fin),
        streamed(chunk("Hello"), Stall),
    )
    for seed in range(4):
        await member.stream(seed, leaves=seed == 3)


async def get(client: httpx.AsyncClient, path: str, **params: str) -> Any:
    answer = await client.get(f"/api/admin{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json() if answer.headers["content-type"] == "application/json" else answer.text


async def check_books(member: Member, client: httpx.AsyncClient, nano: int) -> None:
    """Every report has the same sum, and the ledger has what is left of the credit."""
    usd, user = write_usd(nano), member.user
    with member.gateway.reading() as database:
        for table in SUMS:
            (found,) = database.execute(f"SELECT sum(cost_nano) FROM {table}").fetchone()  # noqa: S608
            assert found == nano, table
        (moved,) = database.execute(
            "SELECT sum(CASE WHEN credit = ? THEN amount_nano WHEN debit = ? THEN -amount_nano END)"
            " FROM ledger",
            (f"wallet:{user}",) * 2,
        ).fetchone()
    assert moved == CREDIT - nano
    assert (await get(client, f"/users/{user}/balance"))["balance_usd"] == write_usd(CREDIT - nano)
    proof = await get(client, "/ledger/verify")
    assert (proof["ok"], proof["sums"]["wallets"]) == (True, write_usd(CREDIT - nano)), proof
    assert sum(read_signed(one) for one in proof["sums"].values()) == 0
    statement = await get(client, f"/users/{user}/statement")
    changes = sum(read_signed(one["amount_usd"]) for one in statement["sums"])
    assert (statement["cost_usd"], statement["closing_usd"]) == (usd, write_usd(CREDIT - nano))
    assert changes == CREDIT - nano
    entries = list(csv.DictReader(io.StringIO(await get(client, f"/users/{user}/statement/export"))))
    assert sum(read_signed(one["amount_usd"]) for one in entries) == CREDIT - nano
    assert entries[-1]["balance_usd"] == write_usd(CREDIT - nano)
    for path in ("/costs", f"/costs/{member.key_id}"):
        costs = await get(client, path)
        assert costs["cost_usd"] == usd, path
        for group in ("by_key", "by_model", "by_day"):
            assert sum(read_usd(one["cost_usd"]) for one in costs[group]) == nano, (path, group)
    rows = list(csv.DictReader(io.StringIO(await get(client, "/usage/export"))))
    lines = [json.loads(line) for line in (await get(client, "/usage/export", format="jsonl")).splitlines()]
    for exported in (rows, lines):
        assert sum(read_usd(one["repriced_usd"] or one["cost_usd"]) for one in exported) == nano
    for group in ("hour", "day,model", "month", "key", "user", "server"):
        stats = (await get(client, "/usage/stats", group=group, days="1"))["data"]
        assert sum(read_usd(one["cost_usd"]) for one in stats) == nano, group


def read_signed(text: str) -> int:
    return -read_usd(text[1:]) if text.startswith("-") else read_usd(text)


async def test_all_records_of_an_account_agree(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("one", models.url)],
        tiers={"pro": {"markup_percent": MARKUP}},
        cache={"enabled": True},
        prompt_log={"default": True, "administrators": True},
    )
    async with gateway.operator() as client:
        assert (await client.put("/api/admin/prices", json=PRICE)).status_code == 200
        member = await join(gateway)
        await use_everything(member, models)
        first, *_ = await gateway.settled(18)
        await eventually(lambda: replayed(client, first["id"]))
        rows = await gateway.settled(19)
        costs = [row["cost_nano"] for row in rows]
        assert costs == [cost_by_hand(row) for row in rows] == [row["charged_nano"] for row in rows]
        assert {row["outcome"] for row in rows} == {"ok", "client_error", "cut", "client_gone"}
        shown = {row["request_id"]: write_usd(row["cost_nano"]) for row in rows}
        assert len(member.shown) == 13 and member.shown.items() <= shown.items()
        await check_books(member, client, sum(costs))
        await check_counters(member, rows)
        await reprice(member, client, rows)


async def reprice(member: Member, client: httpx.AsyncClient, rows: Sequence[Mapping[str, Any]]) -> None:
    """Compute the costs again with another price: nothing may be counted twice or be left out."""
    changed = RATES | {"output": "0.9", "request": "0.000002"}
    price = {"model": "m", **{f"{unit}_usd": rate for unit, rate in changed.items()}}
    assert (await client.put("/api/admin/prices", json=price)).status_code == 200
    costs = [cost_by_hand(row, changed) for row in rows]
    for more in (True, False):
        body = {"since": "2020-01-01T00:00:00Z"}
        found = (await client.post("/api/admin/reprice", json=body)).json()
        assert (found["changed"], found["skipped"]) == (len([c for c in costs if c]) * more, 0), found
        await check_books(member, client, sum(costs))
    shown = await get(client, f"/requests/{rows[0]['id']}")
    assert shown["cost_usd"] == write_usd(rows[0]["cost_nano"])
    assert shown["repriced_usd"] == write_usd(costs[0])


async def replayed(client: httpx.AsyncClient, request_id: str) -> bool:
    """The prompt log is written after the response."""
    return (await client.post(f"/api/admin/requests/{request_id}/replay", json={})).status_code == 200


async def check_counters(member: Member, rows: Sequence[Mapping[str, Any]]) -> None:
    """The counters of limits, and the metrics of the process."""
    nano = sum(row["cost_nano"] for row in rows)
    tokens = sum((row["input_tokens"] or 0) + (row["output_tokens"] or 0) for row in rows)
    with member.gateway.reading() as database:
        for subject in (f"key:{member.key_id}", f"user:{member.user}"):
            found = database.execute(
                "SELECT day_nano, month_nano, total_nano, day_tokens, total_tokens FROM quota_counters"
                " WHERE subject = ?",
                (subject,),
            ).fetchone()
            assert found == (nano, nano, nano, tokens, tokens), subject
    metric = member.gateway.metric
    assert round(await metric("bluesminds_cost_usd_total", model="m", server="one") * 10**9) == nano
    counted = [await metric("bluesminds_tokens_total", model="m", kind=kind) for kind in ("input", "output")]
    assert sum(counted) == tokens
    assert await metric("bluesminds_reserved_usd") == 0
