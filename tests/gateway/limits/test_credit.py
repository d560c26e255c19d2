"""Prepaid credit through the whole gateway: charged once, never overspent, kept over restarts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.common.money import read_usd
from tests import gateways
from tests.fakes.model_server import ModelServer, completion, whole
from tests.gateways import ASK, Gateway, entry

# Every request costs 0.0001 USD, and as much is reserved.
PRICE = {"model": "m", "input_usd": 0, "output_usd": "10", "max_output_tokens": 10}
BILLED = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
PATIENT = {"server": {"max_connections_per_ip": 1000}, "upstream": {"max_connections_per_server": 500}}


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **more: Any) -> Gateway:
    return await gateways.start(
        nursery, home, servers=[entry("one", models.url)], prices=[PRICE], **PATIENT, **more
    )


def bill(models: ModelServer, count: int) -> None:
    models.plan(*[whole(completion(usage=BILLED))] * count)


async def member(gateway: Gateway) -> tuple[str, str]:
    """A user and a key."""
    person = {"email": "ada@example.com", "password": "a long password"}
    async with gateway.operator() as client:
        user = (await client.post("/api/admin/users", json=person)).json()["id"]
        key = (await client.post("/api/admin/keys", json={"name": "k", "user_id": user})).json()["key"]
    return user, key


async def credit(gateway: Gateway, user: str, amount: str, **more: Any) -> Any:
    async with gateway.operator() as client:
        body = {"kind": "topup", "amount_usd": amount} | more
        answer = await client.post(f"/api/admin/users/{user}/credit", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()


async def balance(gateway: Gateway, user: str) -> str:
    async with gateway.operator() as client:
        return str((await client.get(f"/api/admin/users/{user}/balance")).json()["balance_usd"])


async def proof(gateway: Gateway) -> Any:
    async with gateway.operator() as client:
        return (await client.get("/api/admin/ledger/verify")).json()


async def test_account_without_credit_is_only_measured(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    bill(models, 1)
    assert (await gateway.chat(ASK)).status_code == 200
    (row,) = gateway.rows()
    assert (row["cost_nano"], row["charged_nano"]) == (100_000, None)
    assert (await proof(gateway))["entries"] == 0


async def test_credit_for_ten_requests_admits_exactly_ten_of_50(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    user, key = await member(gateway)
    await credit(gateway, user, "0.001")
    bill(models, 50)
    found: Counter[int] = Counter()

    async def ask() -> None:
        found[(await gateway.chat(ASK, key=key)).status_code] += 1

    async with trio.open_nursery() as clients:
        for _ in range(50):
            clients.start_soon(ask)
    assert found == {200: 10, 402: 40}
    refused = await gateway.chat(ASK, key=key)
    assert refused.json()["error"]["code"] == "insufficient_credit"
    assert refused.headers["x-should-retry"] == "false"
    assert await balance(gateway, user) == "0"
    checked = await proof(gateway)
    assert (checked["ok"], checked["entries"], checked["sums"]["revenue"]) == (True, 11, "0.001")


async def test_credit_counts_at_once_and_after_a_restart(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    user, key = await member(gateway)
    bill(models, 10)
    assert (await gateway.chat(ASK, key=key)).status_code == 200, "not charged"
    await credit(gateway, user, "0.0001", key="first")
    await credit(gateway, user, "0.0001", key="first")
    assert [(await gateway.chat(ASK, key=key)).status_code for _ in range(2)] == [200, 402]
    await credit(gateway, user, "0.0002", kind="grant", ends_at="2099-01-01T00:00:00Z")
    assert (await gateway.chat(ASK, key=key)).status_code == 200
    await gateway.stop()
    again = await start(nursery, home, models)
    assert [(await again.chat(ASK, key=key)).status_code for _ in range(2)] == [200, 402]
    assert (await proof(again))["ok"] is True


async def test_more_than_the_credit_is_never_charged(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    user, key = await member(gateway)
    await credit(gateway, user, "0.00015")
    models.plan(whole(completion(usage=BILLED | {"completion_tokens": 900, "total_tokens": 905})))
    assert (await gateway.chat(ASK, key=key)).status_code == 200
    (row,) = gateway.rows()
    assert (row["cost_nano"], row["charged_nano"]) == (9_000_000, 150_000)
    assert await balance(gateway, user) == "0"
    assert (await proof(gateway))["ok"] is True


WRONG_ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "grant", "amount_usd": "-1"}, "amount_usd"),
    ({"kind": "topup", "amount_usd": "1", "ends_at": "2099-01-01T00:00:00Z"}, "ends_at"),
    ({"kind": "topup", "amount_usd": "0"}, "amount_usd"),
    ({"kind": "charge", "amount_usd": "1"}, "kind"),
]


async def test_wrong_entry_is_refused(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await start(nursery, home, models)
    user, _ = await member(gateway)
    for body, param in WRONG_ENTRIES:
        with subtests.test(str(body)):
            async with gateway.operator() as client:
                answer = await client.post(f"/api/admin/users/{user}/credit", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_entries_are_listed_and_audited(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    gateway = await start(nursery, home, models)
    user, _ = await member(gateway)
    await credit(gateway, user, "5", reference="invoice 7")
    await credit(gateway, user, "-2", kind="adjustment")
    async with gateway.operator() as client:
        listed = (await client.get(f"/api/admin/users/{user}/ledger")).json()["data"]
        audit = (await client.get("/api/admin/audit", params={"subject": user})).json()["data"]
    assert [(row["kind"], row["amount_usd"]) for row in listed] == [("adjustment", "-2"), ("topup", "5")]
    assert [row["action"] for row in audit[:2]] == ["credit.adjustment", "credit.topup"]
    assert json.loads(json.dumps(audit[1]["detail"]))["after"]["reference"] == "invoice 7"
    assert await balance(gateway, user) == "3"
    assert read_usd("3") == 3 * 10**9
