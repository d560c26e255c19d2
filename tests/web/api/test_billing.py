"""Plans and orders over HTTP and at the command line."""

import time
from pathlib import Path

import httpx
import pytest
import trio

from bluesminds.config import ConfigError
from bluesminds.config.checks import check
from tests import gateways
from tests.deployment import anonymous_client, code_of, create_callers
from tests.fakes import payment_server
from tests.fakes.payment_server import KEY, SECRET, creem_signature


async def test_order_marked_as_paid_changes_the_tier_at_once(nursery: trio.Nursery, home: Path) -> None:
    billing = {"enabled": True, "manual": True, "instructions": "Transfer it."}
    callers = await create_callers(await gateways.start(nursery, home, servers=[], billing=billing))
    gateway, user_id = callers.gateway, callers.users["user"]
    token, _, _ = await callers.session("user")
    async with anonymous_client(gateway) as client, gateway.operator() as operator:
        plans = (await client.get("/plans")).json()["data"]
        assert [(one["name"], one["price_usd"]) for one in plans] == [
            *(("free", "0"), ("starter", "29"), ("pro", "99"), ("enterprise", "299"))
        ]
        headers = {"authorization": f"Bearer {token}"}
        ordered = await client.post("/api/billing/checkout", json={"plan": "pro"}, headers=headers)
        assert (ordered.status_code, ordered.json()["instructions"]) == (201, "Transfer it.")
        (order,) = (await operator.get("/api/admin/orders")).json()["data"]
        assert (order["user_id"], order["plan"], order["amount_usd"]) == (user_id, "pro", "99")
        assert await limits_of(client, headers) != ("pro", 200)
        paid = await operator.post(f"/api/admin/orders/{order['id']}/paid")
        assert paid.json()["state"] == "paid"
        assert await limits_of(client, headers) == ("pro", 200)
        found = (await client.get("/user/plan", headers=headers)).json()
        assert (found["plan"]["name"], found["subscription"]["state"]) == ("pro", "active")
        again = await operator.post(f"/api/admin/orders/{order['id']}/paid")
        assert code_of(again) == "order_not_open"
        counts = (await operator.get("/api/admin/plans")).json()["data"]
        assert [one["subscribers"] for one in counts] == [0, 0, 1, 0]
        (payment,) = (await client.get("/api/billing/payments", headers=headers)).json()["data"]
        assert (payment["amount"], payment["currency"]) == ("99.00", "USD")
        assert payment["title"].startswith("Pro, 20")
        canceled = await client.delete("/api/billing/subscription", headers=headers)
        assert canceled.json()["subscription"]["cancel_at_end"] is True


async def limits_of(client: httpx.AsyncClient, headers: dict[str, str]) -> tuple[str | None, int | None]:
    """The tier and the requests per minute that are in force."""
    found = (await client.get("/api/auth/limits", headers=headers)).json()
    return found["tier"], found["rpm"]["limit"]


async def test_plan_of_an_administrator_is_sold_and_kept(nursery: trio.Nursery, home: Path) -> None:
    billing = {"enabled": True, "manual": True}
    callers = await create_callers(await gateways.start(nursery, home, servers=[], billing=billing))
    gateway, user_id = callers.gateway, callers.users["user"]
    team = {"tier": "pro", "price_usd": "49", "stripe_price": "price_1"}
    async with gateway.operator() as operator:
        assert code_of(await operator.put("/api/admin/plans/pro", json=team)) == "plan_configured"
        assert code_of(await operator.put("/api/admin/plans/A", json=team)) == "invalid_value"
        made = await operator.put("/api/admin/plans/team", json=team)
        assert (made.json()["title"], made.json()["price_usd"]) == ("Team", "49")
        assert code_of(await operator.put("/api/admin/plans/crew", json=team)) == "product_in_use"
        placed = await operator.post("/api/admin/orders", json={"user_id": user_id, "plan": "team"})
        paid = await operator.post(f"/api/admin/orders/{placed.json()['order_id']}/paid")
        assert paid.json()["amount_usd"] == "49"
        assert code_of(await operator.delete("/api/admin/plans/team")) == "plan_in_use"
        assert code_of(await operator.delete("/api/admin/plans/none")) == "plan_not_found"
    await gateway.stop()
    again = await gateways.start(nursery, home, servers=[], billing=billing)
    async with again.operator() as operator:
        plans = (await operator.get("/api/admin/plans")).json()["data"]
        assert [one["plan"]["name"] for one in plans][-1] == "team"
        assert plans[-1]["subscribers"] == 1
        await operator.put("/api/admin/plans/spare", json={"tier": "free"})
        assert (await operator.delete("/api/admin/plans/spare")).status_code == 204


async def test_gateway_without_billing_has_no_plans(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    assert (await gateway.get("/plans")).status_code == 404
    async with gateway.operator() as operator:
        assert (await operator.get("/api/admin/plans")).status_code == 404


async def test_webhook_of_a_provider_gives_the_credit(nursery: trio.Nursery, home: Path) -> None:
    shop = await nursery.start(payment_server.serve_creem)
    shop.now = int(time.time())
    creem = {"api_key": KEY, "webhook_secret": SECRET, "topup_product": "prod_credit", "url": shop.url}
    gateway = await gateways.start(nursery, home, servers=[], billing={"enabled": True}, creem=creem)
    callers = await create_callers(gateway)
    token, _, _ = await callers.session("user")
    headers = {"authorization": f"Bearer {token}"}
    async with anonymous_client(gateway) as client:
        ordered = await client.post("/api/billing/checkout", json={"amount_usd": "25"}, headers=headers)
        assert ordered.json()["url"].startswith("https://creem.io/")
        shop.pay(next(iter(shop.checkouts)))
        signed, body = shop.events[-1]
        forged = await client.post("/api/billing/webhook", content=body, headers=creem_signature(body, "x"))
        assert (forged.status_code, code_of(forged)) == (400, "invalid_signature")
        unknown = await client.post("/api/billing/webhook/stripe", content=body, headers=signed)
        assert unknown.status_code == 404
        taken = await client.post("/api/billing/webhook", content=body, headers=signed)
        assert (taken.status_code, taken.json()) == (200, {"received": True})
        again = await client.post("/api/billing/webhook/creem", content=body, headers=signed)
        assert again.status_code == 200
        assert (await client.get("/user/balance", headers=headers)).json()["balance_usd"] == "25"
        shop.down = True
        shop.event("checkout.completed", {"customer": shop.checkouts[next(iter(shop.checkouts))]["customer"]})
        signed, body = shop.events[-1]
        down = await client.post("/api/billing/webhook", content=body, headers=signed)
        assert (down.status_code, code_of(down)) == (503, "payment_provider_unavailable")
    assert SECRET not in gateway.log
    assert KEY not in gateway.log


@pytest.mark.parametrize(
    ("stripe", "is_error", "message"),
    [
        ({"api_key": "sk"}, False, "webhook_secret in [stripe] is not set"),
        ({"api_key": "sk", "webhook_secret": ""}, True, "webhook_secret in [stripe] is empty"),
        ({"webhook_secret": "whsec_x"}, True, "webhook_secret in [stripe] needs api_key"),
    ],
)
def test_provider_without_a_secret_is_found_by_the_check(
    home: Path, stripe: dict[str, str], is_error: bool, message: str
) -> None:
    try:
        settings = gateways.settings_of(home, [], {"billing": {"enabled": True}, "stripe": stripe})
    except ConfigError as exc:
        assert is_error
        assert any(message in str(problem) for problem in exc.problems)
    else:
        assert not is_error
        assert any(finding.warning and message in finding.message for finding in check(settings))


async def test_provider_without_a_secret_has_no_webhook(nursery: trio.Nursery, home: Path) -> None:
    stripe = {"api_key": "sk"}
    gateway = await gateways.start(nursery, home, servers=[], billing={"enabled": True}, stripe=stripe)
    async with anonymous_client(gateway) as client:
        for path in ("/api/billing/webhook", "/api/billing/webhook/stripe"):
            answer = await client.post(path, content=b"{}")
            assert (answer.status_code, code_of(answer)) == (404, "unknown_url")
