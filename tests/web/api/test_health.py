"""GET and POST /api/admin/health, and what /ready and /metrics say of ejected servers."""

from pathlib import Path

import trio

from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer, refusal
from tests.gateways import entry, eventually


async def test_health_shows_ejected_models_and_hints(nursery: trio.Nursery, home: Path) -> None:
    models: ModelServer = await nursery.start(model_server.serve)
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("one", models.url, models=["m", "n"])],
        upstream={"eject_after": 1, "eject_seconds": 3600, "attempts": 1},
    )
    models.plan(refusal(500))
    assert (await gateway.chat()).status_code == 502
    async with gateway.operator() as client:
        shown = (await client.get("/api/admin/health")).json()
    (server,) = shown["servers"]
    assert (server["name"], server["running"], server["capacity"]) == ("one", 0, 500)
    (circuit,) = server["circuits"]
    assert (circuit["model"], circuit["state"], circuit["last_error"]) == ("m", "open", "500")
    assert 3500 < circuit["seconds"] <= 3600
    assert shown["hints"] == [{"model": "m", "kind": "unavailable", "servers": ["one"], "waiting": 0}]
    ready = (await gateway.get("/ready")).json()
    assert (ready["checks"]["servers"], ready["servers"]["ejected"]) == ("ok", 1)
    assert await gateway.metric("bluesminds_server_ejected", server="one") == 1
    (event,) = gateway.events("server_ejected")
    assert (event["server"], event["model"], event["reason"], event["seconds"]) == ("one", "m", "500", 3600)
    assert (await gateway.chat()).status_code == 200, "the only server is still tried"
    await gateway.chat()
    await gateway.chat()
    assert len(gateway.events("server_recovered")) == 1
    assert await gateway.metric("bluesminds_server_ejected", server="one") == 0


async def test_post_probes_all_servers(nursery: trio.Nursery, home: Path) -> None:
    models: ModelServer = await nursery.start(model_server.serve)
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    await eventually(lambda: _state(gateway, "GET", "up"))
    models.list_status = b"503 Unavailable"
    assert await _state(gateway, "POST", "down")


async def _state(gateway: gateways.Gateway, method: str, state: str) -> bool:
    async with gateway.operator() as client:
        shown = (await client.request(method, "/api/admin/health")).json()
    return bool(shown["servers"][0]["state"] == state)
