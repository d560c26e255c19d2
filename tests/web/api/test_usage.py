"""Usage statistics, the usage log and costs over HTTP."""

import csv
import io
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from storage.usage import DAY, HOUR, UsageRow, insert_batch
from tests.deployment import BrowserUser, Deployment, code_of, deploy
from tests.fakes.model_server import ModelServer
from tests.gateways import entry
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url
from tests.storage.samples import usage

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

ADA, BOB, ROOT = "ada@example.com", "bob@example.com", "root@example.com"
NOON_MS = int(datetime.fromisoformat("2026-05-06T12:00:00Z").timestamp() * 1000)
NOWHERE = "01900000-0000-7000-8000-000000000000"


class Noon:
    def now_ms(self) -> int:
        return NOON_MS


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, url: str, models: ModelServer) -> Deployment:
    sections = {"storage": {"url": url}}
    return await deploy(nursery, home, servers=[entry("one", models.url)], clock=Noon(), sections=sections)


async def sign_in(site: Deployment, browser: BrowserUser, email: str, role: str = "user") -> str:
    user_id = await site.create_user(email, role, tier=None)
    assert (await browser.login(email, bearer=True)).status_code == 200
    return user_id


async def record(site: Deployment, *rows: UsageRow) -> None:
    await site.gateway.services.store.write(insert_batch, list(rows))


async def get(browser: BrowserUser, path: str) -> Any:
    answer = await browser.send("GET", path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def row(serial: int, user_id: str, key_id: str, **fields: Any) -> UsageRow:
    return replace(usage(serial, user_id=user_id, key_id=key_id), **{"at": NOON_MS - serial} | fields)


async def test_usage_stats_contain_only_own_requests(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as bob, site.browser() as root:
        ada_id, bob_id = await sign_in(site, ada, ADA), await sign_in(site, bob, BOB)
        await sign_in(site, root, ROOT, "admin")
        await record(
            site,
            row(1, ada_id, "key-a", duration_ms=100, first_byte_ms=10),
            row(2, ada_id, "key-a", model="large", outcome="cut", status=200),
            row(3, bob_id, "key-b", at=NOON_MS - 2 * DAY),
        )
        mine = await get(ada, "/api/usage/stats?group=day,model")
        assert [(one["day"], one["model"], one["requests"], one["errors"]) for one in mine["data"]] == [
            ("2026-05-06", "large", 1, 1),
            ("2026-05-06", "small", 1, 0),
        ]
        assert mine["since"] == "2026-04-30T00:00:00.000Z"
        small = mine["data"][1]
        assert 95 <= small["duration_ms"]["p95"] <= 110 and 9 <= small["first_byte_ms"]["p50"] <= 11
        assert small["cost_usd"] == "0.000000005"
        all_of_them = await get(root, "/api/admin/usage/stats?group=user")
        assert {one["user"]: one["requests"] for one in all_of_them["data"]} == {ada_id: 2, bob_id: 1}
        of_bob = await get(root, f"/api/admin/usage/stats?group=server&user={bob_id}&days=3")
        assert [(one["server"], one["requests"]) for one in of_bob["data"]] == [("alpha", 1)]
        hours = await get(root, "/api/admin/usage/stats?group=hour&since=2026-05-06T11:30:00Z")
        assert [(one["hour"], one["requests"]) for one in hours["data"]] == [("2026-05-06T11:00:00.000Z", 2)]
        assert (await get(root, "/api/usage/stats"))["data"] == []
        for query in ("group=user", "group=server", f"user={bob_id}", "server=one"):
            assert code_of(await ada.send("GET", f"/api/usage/stats?{query}")) == "invalid_value"


async def test_usage_stats_of_all_users_with_details_cover_a_bounded_time(site: Deployment) -> None:
    """They read the sums of every key, model and server."""
    async with site.browser() as root:
        await sign_in(site, root, ROOT, "admin")
        path = "/api/admin/usage/stats"
        for query in ("group=user,model&days=9", "group=key&model=m&days=9", "group=hour,user&days=3"):
            assert code_of(await root.send("GET", f"{path}?{query}")) == "invalid_value", query
        key_id = "00000000-0000-7000-8000-000000000001"
        for query in (
            "group=user,model&days=7",
            "group=user,month&days=366",
            f"group=model&key={key_id}&days=366",
        ):
            assert (await root.send("GET", f"{path}?{query}")).status_code == 200, query


async def test_usage_logs_are_filtered_and_paged(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as root:
        ada_id = await sign_in(site, ada, ADA)
        await sign_in(site, root, ROOT, "admin")
        rows = [row(n, ada_id, "key-a", status=429 if n % 2 else 200) for n in range(5)]
        await record(site, *rows, row(9, "bob", "key-b"))
        found, after = [], ""
        while after is not None:
            page = await get(ada, f"/api/usage/logs?limit=2&after={after}")
            found += page["data"]
            after = page["next_cursor"]
        assert [one["request_id"] for one in found] == [f"request-{n}" for n in range(5)]
        assert "server" not in found[0] and "attempts" not in found[0] and "user" not in found[0]
        refused = await get(ada, "/api/usage/logs?status=4xx&until=2026-05-06T12:00:00Z")
        assert [one["request_id"] for one in refused["data"]] == ["request-1", "request-3"]
        assert (await get(ada, "/api/usage/logs?request_id=request-9"))["data"] == []
        (of_bob,) = (await get(root, "/api/admin/usage/logs?request_id=request-9&server=alpha"))["data"]
        assert (of_bob["user"], of_bob["server"], of_bob["attempts"]) == ("bob", "alpha", 1)
        for query in ("after=x", "status=9xx", "outcome=x", "limit=101", "since=x", "server=alpha"):
            assert code_of(await ada.send("GET", f"/api/usage/logs?{query}")) == "invalid_value"


async def test_usage_export_has_the_rows_of_the_log(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as root:
        ada_id = await sign_in(site, ada, ADA)
        await sign_in(site, root, ROOT, "admin")
        rows = [row(n, ada_id, "key-a", cost_nano=None) for n in range(1200)]
        await record(site, *rows, row(9000, "bob", "key-b", model="=cmd()", at=NOON_MS + 1))
        lines = (await ada.send("GET", "/api/usage/export?format=jsonl")).text.splitlines()
        assert [json.loads(line)["request_id"] for line in lines] == [f"request-{n}" for n in range(1200)]
        answer = await root.send("GET", "/api/admin/usage/export?failed=false&since=2026-05-06T11:59:59Z")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == 'attachment; filename="usage.csv"'
        table = list(csv.DictReader(io.StringIO(answer.text)))
        assert table[0]["model"] == "'=cmd()", "no formula for a spreadsheet"
        assert (len(table), table[1]["cost_usd"], table[1]["server"]) == (1002, "", "alpha")
        header = (await ada.send("GET", "/api/usage/export?model=unknown")).text
        assert header.count("\n") == 1 and "server" not in header


async def test_costs_of_the_month_have_a_forecast(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as root:
        ada_id = await sign_in(site, ada, ADA)
        await sign_in(site, root, ROOT, "admin")
        key = (await ada.send("POST", "/api/keys", {"name": "a"})).json()["id"]
        usd = 10**9
        await record(
            site,
            row(1, ada_id, key, at=NOON_MS, cost_nano=3 * usd),
            row(2, ada_id, key, at=NOON_MS - DAY, cost_nano=2 * usd, model="large"),
            row(3, ada_id, key, at=NOON_MS - 6 * DAY, cost_nano=10 * usd),
            row(4, "bob", "key-b", at=NOON_MS - HOUR, cost_nano=usd),
            row(5, ada_id, key, cost_nano=None),
        )
        costs = await get(ada, "/api/costs")
        assert (costs["month"], costs["cost_usd"], costs["unpriced"]) == ("2026-05", "5", 1)
        assert costs["by_key"] == [{"key": key, "requests": 3, "cost_usd": "5", "unpriced": 1}]
        assert [(one["model"], one["cost_usd"]) for one in costs["by_model"]] == [
            ("large", "2"),
            ("small", "3"),
        ]
        assert [(one["day"], one["cost_usd"]) for one in costs["by_day"]] == [
            ("2026-05-05", "2"),
            ("2026-05-06", "3"),
        ]
        # 2 so far, 3 today, and 25 days with the average of the six days before: 12 / 6
        assert costs["forecast_usd"] == "55"
        assert await get(ada, f"/api/costs/{key}") == costs
        assert await get(root, f"/api/admin/costs/{key}") == costs
        assert (await get(root, "/api/admin/costs"))["cost_usd"] == "6"
        empty = await get(root, "/api/costs")
        assert (empty["cost_usd"], empty["forecast_usd"], empty["by_day"]) == ("0", None, [])
        assert code_of(await root.send("GET", f"/api/costs/{key}")) == "key_not_found"
        assert code_of(await root.send("GET", f"/api/admin/costs/{NOWHERE}")) == "key_not_found"
