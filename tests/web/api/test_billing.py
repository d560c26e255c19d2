"""Plans and orders over HTTP and at the command line."""

from pathlib import Path

import httpx
import trio

from tests import gateways
from tests.deployment import anonymous_client, code_of, create_callers


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
        assert (payment["amount"], payment["currency"], payment["title"]) == ("99.00", "USD", "Pro")
        canceled = await client.delete("/api/billing/subscription", headers=headers)
        assert canceled.json()["subscription"]["cancel_at_end"] is True


async def limits_of(client: httpx.AsyncClient, headers: dict[str, str]) -> tuple[str | None, int | None]:
    """The tier and the requests per minute that are in force."""
    found = (await client.get("/api/auth/limits", headers=headers)).json()
    return found["tier"], found["rpm"]["limit"]


async def test_gateway_without_billing_has_no_plans(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    assert (await gateway.get("/plans")).status_code == 404
    async with gateway.operator() as operator:
        assert (await operator.get("/api/admin/plans")).status_code == 404
