"""Redeem codes: each one gives its amount once, to one user."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.deployment import BrowserUser, Deployment, code_of, deploy
from tests.storage.conftest import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
PATH = "/api/admin/redeem-codes"


@pytest.fixture(params=["sqlite", "postgres"])
async def site(request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path) -> Deployment:
    storage = {} if request.param == "sqlite" else {"url": request.getfixturevalue("postgres_url")}
    return await deploy(nursery, home, sections={"storage": storage})


async def make(site: Deployment, **fields: Any) -> dict[str, Any]:
    async with site.gateway.operator() as client:
        answer = await client.post(PATH, json={"name": "Launch", "amount_usd": "5"} | fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def listed(site: Deployment, path: str = PATH) -> list[dict[str, Any]]:
    async with site.gateway.operator() as client:
        return list((await client.get(path)).json()["data"])


async def sign_in(site: Deployment, browser: BrowserUser, name: str) -> str:
    user_id = await site.create_user(f"{name}@example.com")
    assert (await browser.login(f"{name}@example.com")).status_code == 200
    return user_id


async def redeem(browser: BrowserUser, code: str) -> tuple[int, Any]:
    answer = await browser.send("POST", "/api/billing/redeem", {"code": code})
    return answer.status_code, answer.json()


async def balance(browser: BrowserUser) -> dict[str, Any]:
    return dict((await browser.send("GET", "/user/balance")).json())


async def test_code_gives_its_amount_once(site: Deployment) -> None:
    made = await make(site, count=3, ends_at="2099-01-01T00:00:00Z")
    assert len(set(made["codes"])) == made["batch"]["codes"] == 3
    first, *_ = made["codes"]
    async with site.browser() as ada:
        user_id = await sign_in(site, ada, "ada")
        status, entry = await redeem(ada, first.lower().replace("-", " "))
        assert (status, entry["kind"], entry["amount_usd"], entry["reference"]) == (
            201,
            "grant",
            "5",
            "Launch",
        )
        status, error = await redeem(ada, first)
        assert (status, error["error"]["code"]) == (409, "redeem_code_used")
        assert await balance(ada) == {
            "prepaid": True,
            "balance_usd": "5",
            "grants": [{"left_usd": "5", "ends_at": "2099-01-01T00:00:00.000Z"}],
        }
    (batch,) = await listed(site)
    assert (batch["redeemed"], batch["codes"]) == (1, 3)
    (used,) = await listed(site, f"{PATH}/{batch['id']}/redeemed")
    assert (used["user_id"], used["last_four"]) == (user_id, first[-4:])
    async with site.gateway.operator() as client:
        assert (await client.get("/api/admin/ledger/verify")).json()["ok"]
        dump = (await client.get("/api/admin/audit?limit=100")).text
    assert not [code for code in made["codes"] if code in dump]


async def test_users_racing_for_one_code_only_one_gets_it(site: Deployment) -> None:
    (code,) = (await make(site))["codes"]
    results: list[int] = []
    async with site.browser() as ada, site.browser() as bob:
        await sign_in(site, ada, "ada")
        await sign_in(site, bob, "bob")

        async def enter(browser: BrowserUser) -> None:
            results.append((await redeem(browser, code))[0])

        async with trio.open_nursery() as nursery:
            for browser in (ada, bob) * 5:
                nursery.start_soon(enter, browser)
        assert sorted(results) == [201, *[409] * 9]
        assert sorted([(await balance(one))["balance_usd"] for one in (ada, bob)]) == ["0", "5"]


async def test_code_that_cannot_be_redeemed_says_why(site: Deployment) -> None:
    revoked = await make(site, count=2)
    async with site.browser() as ada, site.gateway.operator() as client:
        await sign_in(site, ada, "ada")
        assert (await redeem(ada, revoked["codes"][0]))[0] == 201
        assert (await client.delete(f"{PATH}/{revoked['batch']['id']}")).status_code == 204
        for code, status, reason in (
            (revoked["codes"][1], 409, "redeem_code_revoked"),
            ("BM-0000-0000-0000-0000", 404, "redeem_code_not_found"),
            ("", 404, "redeem_code_not_found"),
        ):
            answer = await redeem(ada, code)
            assert (answer[0], answer[1]["error"]["code"]) == (status, reason)
        assert (await balance(ada))["balance_usd"] == "5", "redeemed credit stays"
        missing = await client.delete(f"{PATH}/unknown")
        assert (missing.status_code, code_of(missing)) == (404, "redeem_batch_not_found")
        past = await client.post(
            PATH, json={"name": "x", "amount_usd": "1", "expires_at": "2020-01-01T00:00:00Z"}
        )
        assert (past.status_code, past.json()["error"]["param"]) == (400, "expires_at")
