"""The API of prepaid credit: filters, all users, and CSV."""

import csv
import io
from typing import Any

import httpx
import pytest

from tests.deployment import Callers, anonymous_client, create_callers
from tests.gateways import Gateway


@pytest.fixture
async def callers(gateway: Gateway) -> Callers:
    return await create_callers(gateway, ("user", "other"))


async def post(operator: httpx.AsyncClient, user_id: str, kind: str, amount: str, **given: str) -> None:
    body: dict[str, Any] = {"kind": kind, "amount_usd": amount, **given}
    answer = await operator.post(f"/api/admin/users/{user_id}/credit", json=body)
    assert answer.status_code == 201, answer.text


async def test_entries_of_all_users_are_listed_and_exported(callers: Callers) -> None:
    user, other = callers.users["user"], callers.users["other"]
    async with callers.gateway.operator() as operator:
        await post(operator, user, "topup", "25", reference="=1+1")
        await post(operator, user, "adjustment", "-1.5")
        await post(operator, other, "grant", "3")
        listed = (await operator.get("/api/admin/ledger")).json()["data"]
        assert [(one["user_id"], one["amount_usd"]) for one in listed] == [
            (other, "3"),
            (user, "-1.5"),
            (user, "25"),
        ]
        found = (await operator.get(f"/api/admin/ledger?user={user}&kind=topup")).json()["data"]
        assert [one["reference"] for one in found] == ["=1+1"]
        assert (await operator.get("/api/admin/ledger?since=2099-01-01T00:00:00Z")).json()["data"] == []
        page = (await operator.get("/api/admin/ledger?limit=2")).json()
        rest = (await operator.get(f"/api/admin/ledger?limit=2&after={page['next_cursor']}")).json()
        assert (len(page["data"]), len(rest["data"]), rest["next_cursor"]) == (2, 1, None)
        answer = await operator.get(f"/api/admin/ledger/export?user={user}")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "ledger.csv" in answer.headers["content-disposition"]
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(one["kind"], one["amount_usd"], one["reference"]) for one in lines] == [
        ("adjustment", "-1.5", ""),
        ("topup", "25", "'=1+1"),
    ], "a spreadsheet must not run the reference, and an amount stays a number"


async def test_ledger_of_a_user_has_only_own_entries(callers: Callers) -> None:
    async with callers.gateway.operator() as operator:
        await post(operator, callers.users["user"], "topup", "25")
        await post(operator, callers.users["other"], "topup", "7")
    token, _, _ = await callers.session("other")
    async with anonymous_client(callers.gateway, authorization=f"Bearer {token}") as client:
        listed = (await client.get("/api/billing/ledger?kind=topup")).json()["data"]
        exported = (await client.get("/api/billing/ledger/export")).text
        assert (await client.get("/api/admin/ledger")).status_code == 403
    assert [one["amount_usd"] for one in listed] == ["7"]
    assert exported.count("\r\n") == 2 and ",25," not in exported
