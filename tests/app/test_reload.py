"""A reload replaces servers, routes and prices as a whole, or nothing."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.users import UserChanges
from bluesminds.common.values import Server
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.rotation import RotationRegistry
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.web.api.reload import ReloadReport
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import DONE, ModelServer, chunk, streamed
from tests.gateways import DEFAULTS, STREAM, Gateway, entry, eventually


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def other(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


def write(home: Path, servers: list[dict[str, Any]], **sections: Any) -> None:
    document = {name: dict(table) for name, table in DEFAULTS.items()} | sections
    text = tomli_w.dumps(document | {"state_dir": str(home / "state"), "servers": servers})
    (home / "gateway.toml").write_text(text)


async def reload(gateway: Gateway) -> ReloadReport:
    return await gateway.running.reload(OPERATOR)


async def test_reload_uses_new_servers_while_streams_continue(
    nursery: trio.Nursery, home: Path, models: ModelServer, other: ModelServer
) -> None:
    go_on = trio.Event()
    models.plan(streamed(chunk("one"), go_on, chunk("two", finish="stop"), DONE))
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    async with (
        gateway.client() as client,
        client.stream("POST", "/v1/chat/completions", json=STREAM) as stream,
    ):
        lines = stream.aiter_lines()
        assert "one" in await anext(lines)
        write(home, [entry("two", other.url)])
        report = await reload(gateway)
        assert (report.accepted, report.servers, report.restart) == (True, 1, ())
        assert (await gateway.chat()).headers["x-bluesminds-server"] == "two"
        go_on.set()
        rest = [line async for line in lines if line]
    assert "two" in rest[0] and rest[-1] == "data: [DONE]"
    (event,) = gateway.events("config_reloaded")
    assert event["restart"] == []


async def test_reload_uses_a_renewed_certificate_for_new_connections(
    nursery: trio.Nursery, home: Path
) -> None:
    files = [home / "cert.pem", home / "key.pem"]

    def issue() -> None:
        issued = trustme.CA().issue_cert("localhost")
        issued.private_key_pem.write_to_path(files[1])
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(files[0], append=number > 0)

    issue()
    server = {"tls_cert": str(files[0]), "tls_key": str(files[1])}
    gateway = await gateways.start(nursery, home, servers=[], server=server)
    (address, *_) = gateway.running.addresses
    served = [await trio.to_thread.run_sync(ssl.get_server_certificate, address)]
    issue()
    report = await reload(gateway)
    assert (report.accepted, report.restart) == (True, ())
    served.append(await trio.to_thread.run_sync(ssl.get_server_certificate, address))
    assert served[0] != served[1]
    assert served[1].strip() in files[0].read_text()
    files[1].write_text("damaged")
    assert not (await reload(gateway)).accepted
    assert await trio.to_thread.run_sync(ssl.get_server_certificate, address) == served[1]


async def test_reload_of_bad_configuration_changes_nothing(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    path = home / "gateway.toml"
    good = path.read_text()
    lines = len(good.splitlines())
    for bad, line in (
        (good + "\nprot = 1\n", lines + 2),
        (good + "\n[[servers]]\nname = 'two'\n", lines + 3),
        (good + "\nthis is not TOML", lines + 2),
    ):
        path.write_text(bad)
        report = await reload(gateway)
        assert not report.accepted
        assert report.problems[0].where.startswith(f"{path}:{line}"), report
        ready = await gateway.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (200, "ok")
        assert ready.json()["configuration"] == "rejected; the earlier configuration is in force"
        assert await gateway.metric("bluesminds_config_accepted") == 0
        assert (await gateway.chat()).status_code == 200
    assert f"({path}:" in gateway.events("config_rejected")[0]["problems"][0]
    path.unlink()
    assert not (await reload(gateway)).accepted
    path.write_text(good)
    path.chmod(0o600)
    assert (await reload(gateway)).accepted
    assert (await gateway.get("/ready")).json()["configuration"] == "ok"
    assert await gateway.metric("bluesminds_config_accepted") == 1


async def test_reload_refuses_what_cannot_start(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    write(home, [entry("one", models.url), {"name": "demo", "dialect": "demo"}])
    report = await reload(gateway)
    assert not report.accepted
    assert "only starts with the gateway" in report.problems[0].message
    assert report.servers == 1


async def test_reload_names_settings_that_need_a_restart(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    tiers = {"free": {"rpm": 5, "shared_usd_per_day": "5"}}
    write(home, [entry("one", models.url)], log={"level": "debug", "requests": False}, tiers=tiers)
    report = await reload(gateway)
    assert (report.accepted, report.restart) == (True, ("tiers.free.shared_usd_per_day", "log.requests"))
    assert gateway.events("config_reloaded")[0]["restart"] == list(report.restart)


async def test_reload_applies_limits_of_tiers_and_the_log_level(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    accounts = gateway.services.accounts
    user_id, _ = await accounts.users.local_user(OPERATOR)
    await accounts.users.update(OPERATOR, user_id, UserChanges(tier="pro"))
    assert (await gateway.chat()).status_code == 200
    gateway.services.log.debug("before")
    write(home, [entry("one", models.url)], log={"level": "debug"}, tiers={"pro": {"rpm": 1}})
    report = await reload(gateway)
    assert (report.accepted, report.restart) == (True, ())
    gateway.services.log.debug("after")
    assert not gateway.events("before") and gateway.events("after")
    refused = await gateway.chat()
    assert refused.status_code == 429, refused.text


async def test_reload_uses_new_alerts(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers)
    channel = {"name": "team", "kind": "slack", "url": "https://hooks.example/secret"}
    rule = {"name": "busy", "kind": "queue", "above": 5, "channels": ["team"]}
    write(home, servers, alerts={"rules": [rule], "channels": [channel]}, webhooks={"enabled": True})
    report = await reload(gateway)
    assert (report.accepted, report.restart) == (True, ())
    alerts = gateway.services.accounts.alerts
    assert alerts is not None
    assert [one.rule.name for one in await alerts.list()] == ["busy"]
    assert alerts.channels == ("mail", "team")


async def test_reload_uses_new_routes_and_prices(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    assert (await gateway.chat({"model": "alias", "messages": []})).status_code == 404
    route = {"model": "alias", "targets": [{"server": "one", "model": "m"}]}
    price = {"model": "m", "input_usd": "1000", "output_usd": "1000"}
    write(home, [entry("one", models.url)], routes=[route], prices=[price])
    report = await reload(gateway)
    assert (report.accepted, report.routes, report.prices) == (True, 1, 1)
    answer = await gateway.chat({"model": "alias", "messages": [{"role": "user", "content": "Hi"}]})
    assert answer.status_code == 200
    (row,) = [row for row in await gateway.settled(1) if row["outcome"] == "ok"]
    assert row["cost_nano"] > 0
    write(home, [entry("one", models.url)])
    assert (await reload(gateway)).routes == 0
    assert (await gateway.chat({"model": "alias", "messages": []})).status_code == 404


async def test_reload_finds_models_of_new_servers_before_it_uses_them(
    nursery: trio.Nursery, home: Path, models: ModelServer, other: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    write(home, [{"name": "two", "url": other.url}])
    assert (await reload(gateway)).accepted
    names = [row["id"] for row in (await gateway.get("/v1/models")).json()["data"]]
    assert names, "its list is known at once"


async def test_fifty_reloads_under_load_drop_no_request(
    nursery: trio.Nursery, home: Path, models: ModelServer, other: ModelServer
) -> None:
    """Good and bad configurations in turn, and other servers with each good one."""
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    statuses: list[int] = []
    done = trio.Event()

    async def ask() -> None:
        while not done.is_set():
            statuses.append((await gateway.chat()).status_code)

    async with trio.open_nursery() as clients:
        for _ in range(4):
            clients.start_soon(ask)
        for number in range(50):
            url = models.url if number % 4 else other.url
            write(home, [entry(f"s{number % 4}", url)], **({"nonsense": {"a": 1}} if number % 2 else {}))
            assert (await reload(gateway)).accepted == (not number % 2)
            seen = len(statuses)
            await eventually(lambda seen=seen: len(statuses) > seen)
        done.set()
    assert set(statuses) == {200}


async def test_changed_file_is_reloaded_if_it_is_watched(
    nursery: trio.Nursery, home: Path, models: ModelServer, other: ModelServer
) -> None:
    watched = {"port": 0, "watch_config": True}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], server=watched)
    write(home, [entry("two", other.url)], server=watched)
    await eventually(lambda: len(gateway.events("config_reloaded")) == 1)
    assert (await gateway.chat()).headers["x-bluesminds-server"] == "two"


async def test_reload_is_recorded_and_offered_by_the_api(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    async with gateway.operator() as client:
        report = (await client.post("/api/admin/reload")).json()
        assert report == {
            "accepted": True,
            "problems": [],
            "restart": [],
            "servers": 1,
            "routes": 0,
            "prices": 0,
        }
        rows = (await client.get("/api/admin/audit", params={"action": "config.reload"})).json()["data"]
    assert [row["actor"] for row in rows] == ["operator"]


async def test_registry_configured_during_a_read_keeps_the_new_servers() -> None:
    """A read of the database that began before must not bring the earlier configuration back."""
    go_on = trio.Event()
    waits = True

    async def load_servers() -> list[Server]:
        nonlocal waits
        if waits:
            waits = False
            await go_on.wait()
        return []

    async def load_routes() -> list[Any]:
        return []

    def server(name: str) -> Server:
        return Server(name, "openai", "http://127.0.0.1:9/v1", "sk", ("m",), 1, 0, "file")

    health = ServerHealthRegistry(eject_after=3, eject_seconds=30.0)
    registry = ServerRegistry(
        [server("old")],
        load_servers,
        health,
        LoadRegistry(),
        RotationRegistry(),
        ServerKeyRegistry(),
        routes=[],
        load_routes=load_routes,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(registry.reload)
        await wait_all_tasks_blocked()
        await registry.configure([server("new")], [], {})
        go_on.set()
    assert [one.name for one in registry.catalog.servers] == ["new"]
