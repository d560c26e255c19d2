"""/ping and /admin/monitor."""

from tests.gateways import Gateway


async def test_ping_shows_shares_and_no_absolute_figures(gateway: Gateway) -> None:
    async with gateway.client() as client:
        before = (await client.get("/ping")).json()
        assert (before["status"], before["success_rate"], before["average_ms"]) == ("ok", None, None)
        assert (await gateway.chat()).status_code == 200
        after = (await client.get("/ping")).json()
    assert after["success_rate"] == 1.0
    assert set(after) == {"status", "version", "uptime_seconds", "success_rate", "average_ms"}


async def test_monitor_shows_traffic_errors_and_queues(gateway: Gateway) -> None:
    assert (await gateway.chat()).status_code == 200
    assert (await gateway.chat(key="bm_wrong")).status_code == 401
    async with gateway.operator() as client:
        found = (await client.get("/admin/monitor")).json()
    assert [one["minutes"] for one in found["traffic"]] == [1, 5, 15]
    minute = found["traffic"][0]
    assert (minute["requests"], minute["failed"], minute["errors"]) == (2, 0, {"invalid_api_key": 1})
    assert minute["output_tokens_per_minute"] > 0
    assert set(found["queues"]) == {"usage_rows", "mails"}
    assert (found["running"], found["tasks"]) == (0, {})
    assert sum(found["servers"].values()) == 1
