"""The state of every server, as probes find it."""

from pathlib import Path

import trio

from tests import gateways
from tests.fakes import model_server
from tests.gateways import entry, eventually


async def test_servers_list_has_state_models_and_error(home: Path, nursery: trio.Nursery) -> None:
    models = await nursery.start(model_server.serve)
    dead = {"name": "dead", "url": "http://127.0.0.1:9/v1"}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url), dead])

    async def probed() -> bool:
        text = (await gateway.get("/metrics")).text
        return text.count("bluesminds_server_up{") == 2

    await eventually(probed)
    async with gateway.operator() as client:
        rows = {row["name"]: row for row in (await client.get("/api/admin/servers")).json()["data"]}
    assert (rows["one"]["state"], rows["one"]["model_count"], rows["one"]["last_error"]) == ("up", 1, None)
    assert (rows["dead"]["state"], rows["dead"]["model_count"]) == ("down", None)
    assert rows["dead"]["last_error"] == "cannot connect to 127.0.0.1: connection refused"
    assert rows["dead"]["origin"] == "file"
    (event,) = gateway.events("server_down")
    assert (event["server"], event["reason"]) == ("dead", rows["dead"]["last_error"])
    assert await gateway.metric("bluesminds_server_up", server="one") == 1
    assert "bluesminds_server_up" in (await gateway.get("/metrics")).text
    assert await gateway.metric("bluesminds_server_up", server="dead") == 0
    ready = await gateway.get("/ready")
    assert (ready.status_code, ready.json()["servers"]) == (200, {"up": 1, "down": 1})


async def test_server_that_returns_is_logged_and_listed_as_up(home: Path, nursery: trio.Nursery) -> None:
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = sockets[0].socket.getsockname()
    await sockets[0].aclose()
    late = {"name": "late", "url": f"http://127.0.0.1:{address[1]}/v1"}
    gateway = await gateways.start(nursery, home, servers=[late], upstream={"probe_interval": 0.05})
    await eventually(lambda: len(gateway.events("server_down")) == 1)
    assert (await gateway.get("/ready")).json()["checks"]["servers"] == "no usable server; 1 down: late"

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            body = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            await stream.send_all(head + b"content-length: %d\r\n\r\n" % len(body) + body)

    listeners = await trio.open_tcp_listeners(address[1], host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, listeners)
    await eventually(lambda: len(gateway.events("server_up")) == 1)
    async with gateway.operator() as client:
        (row,) = (await client.get("/api/admin/servers")).json()["data"]
    assert (row["state"], row["model_count"]) == ("up", 1)
