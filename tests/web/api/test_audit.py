"""The audit log as administrators and the operator read it."""

from typing import Any

import httpx

from bluesminds.accounts.audit import MASK
from tests.gateways import Gateway


async def test_audit_api_lists_filters_and_verifies(gateway: Gateway) -> None:
    async with gateway.operator() as client:

        async def listed(**query: str | int) -> dict[str, Any]:
            answer = await client.get("/api/admin/audit", params=query)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        async def numbers(**query: str | int) -> list[int]:
            return [row["seq"] for row in (await listed(**query))["data"]]

        server = {"name": "extra", "url": "http://127.0.0.1:9/v1", "api_key": "sk-canary"}
        assert (await client.post("/api/admin/servers", json=server)).status_code == 201
        assert (await client.delete("/api/admin/servers/extra")).status_code == 204
        assert (await client.delete("/api/admin/servers/extra")).status_code == 404
        (removed, added) = await rows_of(client, subject="extra")
        assert (removed["action"], added["action"]) == ("server.remove", "server.add")
        assert removed["seq"] == added["seq"] + 1
        assert added["detail"]["after"]["api_key"] == MASK
        assert added["detail"]["after"] == removed["detail"]["before"]
        assert (added["actor"], added["address"]) == ("operator", "local")

        everything = await numbers(limit=100)
        assert everything == list(range(len(everything), 0, -1))
        first = await listed(limit=2)
        assert first["next_cursor"] == str(everything[1])
        rest = await listed(limit=100, after=str(first["next_cursor"]))
        assert (len(rest["data"]), rest["next_cursor"]) == (len(everything) - 2, None)
        assert (await listed(limit=len(everything)))["next_cursor"] is None
        assert await numbers(action="server.add") == [added["seq"]]
        assert await numbers(actor="unknown") == []
        rows = (await listed(limit=100))["data"]
        assert await numbers(until=added["at"]) == [row["seq"] for row in rows if row["at"] < added["at"]]
        assert added["seq"] in await numbers(since=added["at"])
        assert added["seq"] in await numbers(since=added["at"].replace("Z", "+00:00"))
        for query, param in (
            ({"since": "yesterday"}, "since"),
            ({"since": "2026-02-28T12:00:00"}, "since"),
            ({"since": "8"}, "since"),
            ({"until": "1772280000.5"}, "until"),
            ({"until": "null"}, "until"),
            ({"after": "x"}, "after"),
            ({"after": "9" * 30}, "after"),
            ({"limit": 0}, "limit"),
        ):
            answer = await client.get("/api/admin/audit", params=query)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), query

        result = (await client.get("/api/admin/audit/verify")).json()
        assert (result["ok"], result["rows"]) == (True, len(everything))
        noted = {"noted": result["end"]}
        assert (await client.get("/api/admin/audit/verify", params=noted)).json() == result
        empty = {"noted": "0:"}  # what an empty log tells
        assert (await client.get("/api/admin/audit/verify", params=empty)).json() == result
        await gateway.alter(f"DELETE FROM audit WHERE seq = {added['seq']}")  # noqa: S608
        broken = (await client.get("/api/admin/audit/verify", params=noted)).json()
        assert (broken["ok"], broken["damage"], broken["rows"]) == (False, "removed", added["seq"] - 1)
        assert f"entry {added['seq']} is missing" in broken["message"]
        answer = await client.get("/api/admin/audit/verify", params={"noted": "1"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "noted")


async def test_audit_detail_has_the_formats_of_the_api(gateway: Gateway) -> None:
    limits = {"rpm": 5, "usd_per_month": "50"}
    end, later = "2030-01-31T12:00:00.000Z", "2031-01-31T12:00:00.000Z"
    async with gateway.operator() as client:
        key = (
            await client.post("/api/admin/keys", json={"name": "k", "limits": limits, "expires_at": end})
        ).json()
        path = f"/api/admin/keys/{key['id']}"
        await client.patch(path, json={"limits": {"rpm": None}, "expires_at": later})
        rotated = (await client.post(f"{path}/rotate", json={"overlap_seconds": 60})).json()
        await client.delete(path)
        revoked = (await client.get(path)).json()
        user = f"/api/admin/users/{key['user_id']}/limits"
        assert (await client.patch(user, json=limits)).status_code == 200
        await client.patch(user, json={"usd_per_month": None})
        revoke, rotate, change, create = [row["detail"] for row in await rows_of(client, subject=key["id"])]
        undone, done = [row["detail"] for row in await rows_of(client, action="user.limits")]
    assert create["after"] | {"limits": limits, "expires_at": end} == create["after"]
    assert change == {
        "before": {"limits": limits, "expires_at": end},
        "after": {"limits": {"usd_per_month": "50"}, "expires_at": later},
    }
    assert rotate["after"] == {name: rotated[name] for name in ("rotated_at", "previous_until")}
    assert revoke == {"before": {"revoked_at": None}, "after": {"revoked_at": revoked["revoked_at"]}}
    assert done == {"before": {"rpm": None, "usd_per_month": None}, "after": limits}
    assert undone == {"before": {"usd_per_month": "50"}, "after": {"usd_per_month": None}}


async def rows_of(client: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    return list((await client.get("/api/admin/audit", params=query)).json()["data"])
