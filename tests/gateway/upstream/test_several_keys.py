"""Servers with several API keys: requests, health, receipts, API, command line and configuration."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.config import ConfigError, load
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import Asked, ModelServer, correct, refusal
from tests.fakes.raw_upstream import Peer
from tests.gateways import STREAM, Gateway, entry, eventually

KEYS = ["sk-0000000000-aaaa", "sk-0000000000-bbbb", "sk-0000000000-cccc"]
Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer) -> Start:
    async def start(**more: Any) -> Gateway:
        servers = [entry("one", models.url, api_keys=KEYS)]
        return await gateways.start(nursery, home, servers=servers, **more)

    return start


def by_key(**plans: model_server.Plan) -> model_server.Plan:
    """Answer by the end of the key; a key without a plan works."""

    async def play(server: ModelServer, peer: Peer, asked: Asked) -> None:
        ending = (asked.header(b"authorization") or b"")[-4:].decode()
        await plans.get(ending, correct)(server, peer, asked)

    return play


def used(models: ModelServer) -> list[str]:
    return [(asked.header(b"authorization") or b"")[-4:].decode() for asked in models.asked]


async def last_receipt(gateway: Gateway) -> dict[str, Any]:
    row = (await gateway.settled(1))[-1]
    async with gateway.operator() as client:
        shown: dict[str, Any] = (await client.get(f"/api/admin/requests/{row['id']}")).json()
    return shown


async def test_keys_are_used_in_turn(start: Start, models: ModelServer) -> None:
    gateway = await start()
    for _ in range(6):
        assert (await gateway.chat()).status_code == 200
    assert sorted(used(models)) == ["aaaa", "aaaa", "bbbb", "bbbb", "cccc", "cccc"]


@pytest.mark.parametrize(
    ("plan", "reason", "status"),
    [
        (refusal(401), "refused", "401"),
        (refusal(403, model_server.error("no", code="invalid_api_key")), "refused", "403"),
        (refusal(429, None, b"Retry-After: 30"), "limited", "429"),
    ],
)
async def test_failed_key_rests_and_the_others_go_on(
    start: Start, models: ModelServer, plan: model_server.Plan, reason: str, status: str
) -> None:
    gateway = await start()
    models.default = by_key(bbbb=plan)
    for _ in range(6):
        assert (await gateway.chat()).status_code == 200
        assert (await gateway.chat(STREAM)).status_code == 200
    assert used(models).count("bbbb") == 1 and len(models.asked) == 13
    async with gateway.operator() as client:
        (server,) = (await client.get("/api/admin/servers")).json()["data"]
        health = (await client.get("/api/admin/health")).json()
        explained = (await client.get("/api/admin/explain?model=m")).json()
    states = {key["last_four"]: (key["state"], key["reason"]) for key in server["api_keys"]}
    assert states == {"aaaa": ("active", None), "bbbb": ("resting", reason), "cccc": ("active", None)}
    assert health["servers"][0]["circuits"] == []
    keys = explained["models"][0]["targets"][0]["api_keys"]
    assert [key["state"] for key in keys] == ["active", "resting", "active"]
    assert await gateway.metric("bluesminds_server_keys_resting", server="one") == 1
    log = b"".join(gateway.lines).decode()
    assert "server_key_rests" in log and not any(key in log for key in KEYS)
    assert await gateway.metric("bluesminds_upstream_attempts_total", outcome=status, server="one") == 1


async def test_receipt_names_the_keys_of_each_attempt(start: Start, models: ModelServer) -> None:
    gateway = await start()
    models.default = by_key(aaaa=refusal(401), bbbb=refusal(401))
    answers = [await gateway.chat() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    rows = await gateway.settled(3)
    seen = []
    async with gateway.operator() as client:
        for row in rows:
            shown = (await client.get(f"/api/admin/requests/{row['id']}")).text
            assert not any(key in shown for key in KEYS)
            seen += [json.loads(shown)["receipt"]["attempts"][0]["api_keys"]]
    tried = [(key["last_four"], key["reason"]) for keys in seen for key in keys]
    assert sorted(tried, key=str) == [
        ("aaaa", "401"),
        ("bbbb", "401"),
        *[("cccc", None)] * 3,
    ]


async def test_server_fails_only_when_all_keys_rest(start: Start, models: ModelServer) -> None:
    gateway = await start()
    models.default = refusal(401)
    answer = await gateway.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_credentials_refused")
    assert sorted(used(models)) == ["aaaa", "bbbb", "cccc"]
    async with gateway.operator() as client:
        (server,) = (await client.get("/api/admin/health")).json()["servers"]
    assert server["circuits"][0]["failures"] == 1
    keys = (await last_receipt(gateway))["receipt"]["attempts"][0]["api_keys"]
    assert [key["reason"] for key in keys] == ["401", "401", "401"]


async def test_rejected_key_fails_the_test_of_a_server_by_its_end(start: Start, models: ModelServer) -> None:
    gateway = await start()
    models.refused_keys = frozenset(KEYS[1:2])
    async with gateway.operator() as client:
        found = (await client.post("/api/admin/servers/one/test")).json()
    assert not found["ok"] and "rejected 1 of 3 keys: …bbbb" in found["problem"]


async def test_keys_are_added_and_removed_by_their_end(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    async with gateway.operator() as client:
        path = "/api/admin/servers/one/keys"
        body = {"name": "one", "url": models.url, "models": ["m"], "api_keys": KEYS[:2]}
        added = await client.post("/api/admin/servers", json=body)
        assert added.status_code == 201 and not any(key in added.text for key in KEYS)
        assert (await client.post(path, json={"api_key": KEYS[2]})).status_code == 201
        again = await client.post(path, json={"api_key": "sk-other-000-cccc"})
        assert (again.status_code, again.json()["error"]["code"]) == (409, "server_key_exists")
        assert (await client.delete(f"{path}?last_four=aaaa")).status_code == 204
        missing = await client.delete(f"{path}?last_four=aaaa")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "server_key_not_found")
        listed = (await client.get(path)).json()["data"]
        assert [key["last_four"] for key in listed] == ["bbbb", "cccc"]
        audit = (await client.get("/api/admin/audit")).text
        assert not any(key in audit for key in KEYS)
        for _ in range(4):
            assert (await gateway.chat()).status_code == 200
        assert set(used(models)) == {"bbbb", "cccc"}
        await client.patch("/api/admin/servers/one", json={"api_key": "sk-single"})
        assert len((await client.get(path)).json()["data"]) == 1
        both = await client.patch("/api/admin/servers/one", json={"api_key": "a", "api_keys": KEYS})
        assert both.status_code == 400
        short = await client.patch("/api/admin/servers/one", json={"api_keys": ["short", KEYS[0]]})
        assert "at least 12 characters" in short.json()["error"]["message"]
        assert (await client.get("/api/admin/servers/two/keys")).status_code == 404


async def test_request_goes_on_with_its_keys_if_the_server_gets_others(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    go_on = trio.Event()

    async def refuse_late(server: ModelServer, peer: Peer, asked: Asked) -> None:
        await go_on.wait()
        await refusal(401)(server, peer, asked)

    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await gateway.chat()).status_code)

    async with gateway.operator() as client, trio.open_nursery() as asking:
        body = {"name": "one", "url": models.url, "models": ["m"], "api_keys": KEYS[:2]}
        assert (await client.post("/api/admin/servers", json=body)).status_code == 201
        models.plan(refuse_late)
        asking.start_soon(ask)
        await eventually(lambda: len(models.asked) == 1)
        others = {"api_keys": ["sk-0000000000-dddd", KEYS[2]]}
        assert (await client.patch("/api/admin/servers/one", json=others)).status_code == 200
        assert (await gateway.chat()).status_code == 200
        go_on.set()
    assert statuses == [200]
    assert set(used(models)) & {"aaaa", "bbbb"} == {"aaaa", "bbbb"}


async def test_keys_of_the_configuration_are_read_only(start: Start) -> None:
    gateway = await start()
    async with gateway.operator() as client:
        added = await client.post("/api/admin/servers/one/keys", json={"api_key": "sk-0000000000-dddd"})
        removed = await client.delete("/api/admin/servers/one/keys?last_four=aaaa")
    assert (added.status_code, removed.status_code) == (409, 409)


async def test_refused_key_of_a_probe_rests(start: Start, models: ModelServer) -> None:
    models.refused_keys = frozenset(KEYS[:1])
    gateway = await start()

    async def rests() -> bool:
        return await gateway.metric("bluesminds_server_keys_resting", server="one") == 1

    await eventually(rests)
    async with gateway.operator() as client:
        (server,) = (await client.get("/api/admin/servers")).json()["data"]
    assert server["state"] == "up"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('api_key = "a"\napi_keys = ["b"]', "are both set"),
        ('api_keys = ["b", "b"]', "has the same key twice"),
        ('api_keys = [{env="MISSING"}]', "key 1 of api_keys"),
        ("api_keys = 5", "a list of API keys"),
    ],
)
def test_wrong_keys_of_the_configuration_are_reported(home: Path, lines: str, message: str) -> None:
    path = home / "gateway.toml"
    path.write_text(f'[[servers]]\nname = "one"\nurl = "http://127.0.0.1:9/v1"\n{lines}\n')
    with pytest.raises(ConfigError, match=message) as caught:
        load(path, {}, {})
    assert "gateway.toml:" in str(caught.value.problems[0].where)


def test_keys_are_read_from_references_and_variables(home: Path) -> None:
    path = home / "gateway.toml"
    path.write_text('[[servers]]\nname = "one"\nurl = "http://127.0.0.1:9/v1"\napi_keys = [{env="A"}, "b"]\n')
    settings = load(path, {"A": "first"}, {}).settings
    assert [key.reveal() for key in settings.servers[0].api_keys] == ["first", "b"]
    settings = load(path, {"A": "a", "BLUESMINDS__SERVERS__ONE__API_KEYS": "c,d"}, {}).settings
    assert [key.reveal() for key in settings.servers[0].api_keys] == ["c", "d"]
    assert "c" not in repr(settings.servers[0].api_keys)
