"""The User-Agent in the list of sessions and in the audit log."""

import pytest

from tests.deployment import PASSWORD, anonymous_client
from tests.gateways import Gateway

AGENTS = [
    (b"Mozilla/5.0 (X11; Linux)", "Mozilla/5.0 (X11; Linux)"),
    ("Gr\u00f6\u00dfe/1.0 \u6771\u4eac".encode(), "Gr\u00f6\u00dfe/1.0 \u6771\u4eac"),
    ("Gr\u00f6\u00dfe/1.0".encode("latin-1"), "Gr\u00f6\u00dfe/1.0"),
    (b"half a sign \xe6\x9d", "half a sign \u00e6\u009d"),
    ("\u6771".encode() * 300, "\u6771" * 200),
]


async def test_user_agent_is_decoded_as_utf8_or_latin1(gateway: Gateway, subtests: pytest.Subtests) -> None:
    async with gateway.operator() as operator, anonymous_client(gateway) as client:
        for number, (sent, shown) in enumerate(AGENTS):
            body = {"email": f"user{number}@example.com", "password": PASSWORD}
            user_id = (await operator.post("/api/admin/users", json=body)).json()["id"]
            with subtests.test(sent=sent):
                login = await client.post("/api/auth/login", json=body, headers={b"user-agent": sent})
                assert login.status_code == 200, login.text
                (session,) = (await operator.get(f"/api/admin/users/{user_id}/sessions")).json()["data"]
                begun = (await operator.get("/api/admin/audit?action=session.begin")).json()["data"]
                assert len(begun) == number + 1
                assert (session["user_agent"], begun[0]["detail"]["after"]["user_agent"]) == (shown, shown)
