"""Times of credit."""

import pytest

from tests.gateways import Gateway

LAST = "9999-12-31T23:59:59-14:00"


@pytest.mark.parametrize("path", ["/api/admin/redeem-codes", "/api/admin/users/{user_id}/credit"])
async def test_credit_that_ends_after_the_year_9999_is_refused(gateway: Gateway, path: str) -> None:
    async with gateway.operator() as client:
        person = {"email": "ada@example.com", "password": "a long password"}
        user_id = (await client.post("/api/admin/users", json=person)).json()["id"]
        body = {"kind": "grant"} if "credit" in path else {"name": "Launch"}
        body |= {"amount_usd": "1", "ends_at": LAST}
        answer = await client.post(path.format(user_id=user_id), json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "ends_at", answer.text
        assert (await client.get(f"/api/admin/users/{user_id}/balance")).json()["prepaid"] is False
