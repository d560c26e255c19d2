"""Keys of users for vendors: requests use them first or only, and cost nothing here."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests import gateways
from tests.deployment import PASSWORD, anonymous_client, code_of
from tests.fakes.model_server import DONE, USAGE, ModelServer, chunk, completion, refusal, streamed, whole
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

PRICE = {"model": "m", "input_usd": "1", "output_usd": "2"}
OWN = "sk-own-0123456789-Abcd"


class Site:
    """A gateway with the server "one", and the server of the vendor."""

    def __init__(self, gateway: Gateway, ours: ModelServer, vendor: ModelServer, user: str) -> None:
        self.gateway = gateway
        self.ours = ours
        self.vendor = vendor
        self.user = user  # the owner of the gateway's key

    async def store(self, **fields: Any) -> dict[str, Any]:
        answer = await self.send("POST", "", {"vendor": "openai", "api_key": OWN, "models": ["m"]} | fields)
        assert answer.status_code == 201, answer.text
        self.vendor.asked.clear()
        return dict(answer.json())

    async def send(self, method: str, path: str, body: Any = None, user: str = "") -> Any:
        async with self.gateway.operator() as client:
            url = f"/api/admin/users/{user or self.user}/vendor-keys{path}"
            return await client.request(method, url, json=body)

    async def last_row(self, count: int) -> dict[str, Any]:
        return (await self.gateway.settled(count))[-1]


async def start(
    nursery: trio.Nursery, home: Path, ours: ModelServer, vendor: ModelServer, **more: Any
) -> Site:
    own = {"urls": {"openai": vendor.url}} | more.pop("vendor_keys", {})
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("one", ours.url, api_key="sk-upstream")],
        prices=[PRICE],
        vendor_keys=own,
        upstream={"allowed_networks": ["127.0.0.0/8"], "eject_after": 5} | more.pop("upstream", {}),
        **more,
    )
    async with gateway.operator() as client:
        (key,) = (await client.get("/api/admin/keys")).json()["data"]
    return Site(gateway, ours, vendor, key["user_id"])


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Site:
    return await start(nursery, home, models, second)


async def test_request_uses_the_own_key_first_without_cost(site: Site) -> None:
    stored = await site.store()
    assert (stored["last4"], stored["mode"], stored["problem"]) == ("Abcd", "first", None)
    answer = await site.gateway.chat()
    assert answer.status_code == 200
    assert answer.headers["x-bluesminds-server"] == stored["server"]
    (asked,) = site.vendor.asked
    assert asked.header(b"authorization") == b"Bearer " + OWN.encode()
    assert site.ours.asked == []
    row = await site.last_row(1)
    assert (row["server"], row["cost_nano"], row["input_tokens"]) == (stored["server"], 0, 11)
    assert row["usage_source"] == "upstream"


async def test_stream_uses_the_own_key_without_cost(site: Site) -> None:
    await site.store()
    site.vendor.plan(streamed(chunk("Hi", finish="stop"), chunk(usage=USAGE), DONE))
    answer = await site.gateway.chat(STREAM)
    assert answer.content.endswith(DONE)
    row = await site.last_row(1)
    assert (row["cost_nano"], row["output_tokens"]) == (0, 2)


async def test_cost_that_a_vendor_reports_for_an_own_key_is_not_charged(site: Site) -> None:
    stored = await site.store()
    site.vendor.plan(whole(completion(usage=USAGE | {"cost": 0.5})))
    assert (await site.gateway.chat()).headers["x-cost-usd"] == "0"
    row = await site.last_row(1)
    assert (row["server"], row["cost_nano"], row["reported_cost_nano"]) == (stored["server"], 0, None)


@pytest.mark.parametrize("failure", [401, 402, 429, 503])
async def test_failed_own_key_is_followed_by_the_server_of_the_gateway(site: Site, failure: int) -> None:
    stored = await site.store()
    site.vendor.plan(refusal(failure))
    answer = await site.gateway.chat()
    assert (answer.status_code, answer.headers["x-bluesminds-server"]) == (200, "one")
    assert site.ours.asked[0].header(b"authorization") == b"Bearer sk-upstream"
    row = await site.last_row(1)
    assert row["cost_nano"] > 0
    receipt = await receipt_of(site.gateway, row["id"])
    assert [one["server"] for one in receipt["attempts"]] == [stored["server"], "one"]
    assert receipt["attempts"][0]["reason"] == str(failure)


async def test_key_for_only_its_vendor_never_uses_the_gateway(site: Site) -> None:
    stored = await site.store(mode="only")
    site.vendor.plan(refusal(401))
    answer = await site.gateway.chat()
    assert (answer.status_code, code_of(answer)) == (502, "vendor_key_rejected")
    assert "OpenAI rejected your API key" in answer.json()["error"]["message"]
    assert OWN not in answer.text
    assert site.ours.asked == []
    receipt = await receipt_of(site.gateway, (await site.last_row(1))["id"])
    assert [one["server"] for one in receipt["candidates"]] == [stored["server"]]
    assert receipt["dropped"] == [{"model": "m", "server": "one", "reason": "own_key_only"}]


async def receipt_of(gateway: Gateway, request_id: str) -> Any:
    async with gateway.operator() as client:
        return (await client.get(f"/api/admin/requests/{request_id}")).json()["receipt"]


async def test_own_key_is_used_when_the_budget_is_spent(site: Site) -> None:
    _, key = await site.gateway.new_key(limits={"usd_total": "0.000001"}, user_id=site.user)
    assert code_of(await site.gateway.chat(key=key)) in ("budget_exceeded", "request_too_large_for_limit")
    await site.store()
    answer = await site.gateway.chat(key=key)
    assert (answer.status_code, site.ours.asked) == (200, [])
    site.vendor.default = refusal(429)
    refused = await site.gateway.chat(key=key)
    assert (refused.status_code, site.ours.asked) == (429, [])


async def test_own_key_is_used_without_prepaid_credit(site: Site) -> None:
    async with site.gateway.operator() as client:
        for kind, amount in (("topup", "1"), ("adjustment", "-1")):
            body = {"kind": kind, "amount_usd": amount}
            answer = await client.post(f"/api/admin/users/{site.user}/credit", json=body)
            assert answer.status_code == 201, answer.text
    assert (await site.gateway.chat()).status_code == 402
    await site.store()
    assert (await site.gateway.chat()).status_code == 200
    async with site.gateway.operator() as client:
        balance = (await client.get(f"/api/admin/users/{site.user}/balance")).json()["balance_usd"]
    assert balance == "0"


async def test_limits_of_requests_hold_for_own_keys(site: Site) -> None:
    _, key = await site.gateway.new_key(rpm=1, user_id=site.user)
    await site.store()
    assert (await site.gateway.chat(key=key)).status_code == 200
    assert code_of(await site.gateway.chat(key=key)) == "rate_limit_exceeded"


async def test_key_of_another_user_is_not_used(site: Site) -> None:
    await site.store(models=["m", "private"])
    person = {"email": "bob@example.com", "password": PASSWORD}
    async with site.gateway.operator() as client:
        bob = (await client.post("/api/admin/users", json=person)).json()["id"]
    _, key = await site.gateway.new_key(user_id=bob)
    assert (await site.gateway.chat(key=key)).headers["x-bluesminds-server"] == "one"
    assert code_of(await site.gateway.chat(ASK | {"model": "private"}, key=key)) == "model_not_found"
    assert (await site.gateway.chat(ASK | {"model": "private"})).status_code == 200
    async with site.gateway.client(key) as client:
        assert [row["id"] for row in (await client.get("/v1/models")).json()["data"]] == ["m"]
    async with site.gateway.client() as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert [row["id"] for row in listed] == ["m", "private"]
        assert (await client.get("/v1/models/private")).status_code == 200


async def test_models_of_a_key_are_those_that_the_vendor_lists(site: Site) -> None:
    site.vendor.models = ("big", "m")
    stored = await site.store(models=[])
    assert (stored["models"], stored["model_count"]) == ([], 2)
    assert (await site.gateway.chat(ASK | {"model": "big"})).status_code == 200
    site.vendor.models = ("bigger",)
    found = (await site.send("POST", f"/{stored['id']}/test")).json()
    assert found["ok"] and [step["name"] for step in found["steps"]][-2:] == ["models", "completion"]
    assert found["key"]["model_count"] == 1
    assert code_of(await site.gateway.chat(ASK | {"model": "big"})) == "model_not_found"


async def test_rejected_key_is_not_stored(site: Site) -> None:
    site.vendor.refused_keys = frozenset((OWN,))
    body = {"vendor": "openai", "api_key": OWN}
    answer = await site.send("POST", "", body)
    assert (answer.status_code, code_of(answer)) == (400, "vendor_key_rejected")
    assert OWN not in answer.text
    site.vendor.refused_keys = frozenset()
    site.vendor.plan(refusal(401))
    assert code_of(await site.send("POST", "", body)) == "vendor_key_rejected"
    assert (await site.send("GET", "")).json()["data"] == []


async def test_key_with_a_problem_is_stored_and_shows_it(site: Site) -> None:
    site.vendor.plan(refusal(402))
    stored = await site.store()
    assert stored["problem"] == "completion: m: 402: this is 402"


async def test_change_and_removal_count_from_the_next_request_on(site: Site) -> None:
    stored = await site.store()
    path = f"/{stored['id']}"
    assert code_of(await site.send("POST", "", {"vendor": "openai", "api_key": OWN})) == "vendor_key_exists"
    changed = (await site.send("PATCH", path, {"api_key": "sk-other-0123456789", "mode": "only"})).json()
    assert (changed["last4"], changed["mode"]) == ("6789", "only")
    await site.gateway.chat()
    assert site.vendor.asked[-1].header(b"authorization") == b"Bearer sk-other-0123456789"
    assert (await site.send("GET", path)).json() == changed
    assert (await site.send("DELETE", path)).status_code == 204
    assert code_of(await site.send("DELETE", path)) == "vendor_key_not_found"
    assert (await site.gateway.chat()).headers["x-bluesminds-server"] == "one"
    async with site.gateway.operator() as client:
        entries = (await client.get("/api/admin/audit")).json()["data"]
    ours = [one for one in entries if one["action"].startswith("vendor_key.")]
    actions = {one["action"] for one in ours}
    assert actions == {"vendor_key.add", "vendor_key.update", "vendor_key.remove"}
    assert OWN not in str(ours) and "sk-other" not in str(ours)


async def test_key_is_encrypted_and_not_logged(site: Site) -> None:
    await site.store()
    await site.gateway.chat()
    await site.last_row(1)
    for path in site.gateway.settings.state_dir.rglob("*.db*"):
        assert OWN.encode() not in path.read_bytes()
    assert OWN not in site.gateway.log


async def test_key_can_only_be_for_a_hosted_vendor_at_its_address(site: Site) -> None:
    for vendor in ("ollama", "azure"):
        answer = await site.send("POST", "", {"vendor": vendor, "api_key": OWN})
        assert code_of(answer) == "invalid_value"
    body = {"vendor": "openai", "api_key": OWN, "url": "http://169.254.169.254/"}
    assert "Unknown field" in (await site.send("POST", "", body)).json()["error"]["message"]
    assert site.vendor.asked == []


async def test_private_address_of_a_vendor_is_refused(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    """Also if the name of a vendor resolves to such an address."""
    site = await start(nursery, home, models, second, upstream={"allowed_networks": []})
    stored = await site.store()
    assert "private" in stored["problem"] or "not allowed" in stored["problem"]
    assert (await site.gateway.chat()).headers["x-bluesminds-server"] == "one"
    assert second.asked == []


async def test_disabled_keys_are_kept_but_not_used(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    site = await start(nursery, home, models, second)
    await site.store()
    await site.gateway.stop()
    off = await start(nursery, home, models, second, vendor_keys={"enabled": False})
    off.gateway.key = site.gateway.key
    assert len((await off.send("GET", "")).json()["data"]) == 1
    answer = await off.gateway.chat()
    assert answer.headers["x-bluesminds-server"] == "one"
    refused = await off.send("POST", "", {"vendor": "groq", "api_key": OWN})
    assert (refused.status_code, code_of(refused)) == (403, "vendor_keys_disabled")


async def test_keys_are_only_for_the_tiers_of_the_settings(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    site = await start(nursery, home, models, second, vendor_keys={"tiers": ["pro"]})
    body = {"vendor": "openai", "api_key": OWN, "models": ["m"]}
    assert code_of(await site.send("POST", "", body)) == "vendor_keys_disabled"
    async with site.gateway.operator() as client:
        await client.patch(f"/api/admin/users/{site.user}", json={"tier": "pro"})
    await site.store()
    assert (await site.gateway.chat()).headers["x-bluesminds-server"].startswith("own/openai/")
    async with site.gateway.operator() as client:
        await client.patch(f"/api/admin/users/{site.user}", json={"tier": "free"})
    assert (await site.gateway.chat()).headers["x-bluesminds-server"] == "one"


async def test_cached_response_of_an_own_key_is_not_shared(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    site = await start(nursery, home, models, second, cache={"enabled": True, "share": "all"})
    await site.store()
    person = {"email": "bob@example.com", "password": PASSWORD}
    async with site.gateway.operator() as client:
        bob = (await client.post("/api/admin/users", json=person)).json()["id"]
    _, other = await site.gateway.new_key(user_id=bob)
    _, same = await site.gateway.new_key(user_id=site.user)
    second.plan(whole(completion("from the vendor")))
    results = [
        (await site.gateway.chat(key=key)).headers["x-bluesminds-cache"] for key in (None, other, same)
    ]
    assert results == ["miss", "miss", "hit"]
    assert (len(second.asked), len(models.asked)) == (1, 1)


async def test_key_that_keeps_failing_comes_last(site: Site) -> None:
    stored = await site.store()
    site.vendor.default = refusal(401)
    for _ in range(5):
        assert (await site.gateway.chat()).status_code == 200
    assert len(site.vendor.asked) == 5
    assert (await site.gateway.chat()).headers["x-bluesminds-server"] == "one"
    assert len(site.vendor.asked) == 5
    assert site.gateway.events("server_ejected")[0]["server"] == stored["server"]
    metrics = (await site.gateway.get("/metrics")).text
    assert 'server="own/openai"' in metrics
    assert stored["server"] not in metrics


async def test_explain_shows_the_own_key(site: Site) -> None:
    stored = await site.store(mode="only")
    key_id, _ = await site.gateway.new_key(user_id=site.user)
    async with site.gateway.operator() as client:
        found = (await client.get("/api/admin/explain", params={"model": "m", "key": key_id})).json()
        plain = (await client.get("/api/admin/explain", params={"model": "m"})).json()
    assert [one["server"] for one in found["models"][0]["targets"]] == [stored["server"]]
    assert found["dropped"] == [{"model": "m", "server": "one", "reason": "own_key_only"}]
    assert [one["server"] for one in plain["models"][0]["targets"]] == ["one"]


async def test_route_gives_its_targets_after_the_own_key(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    routes = [{"model": "fast", "targets": [{"server": "one", "model": "m"}]}]
    site = await start(nursery, home, models, second, routes=routes)
    stored = await site.store()
    ask = ASK | {"model": "fast"}
    assert (await site.gateway.chat(ask)).headers["x-bluesminds-server"] == stored["server"]
    assert msgspec.json.decode(second.asked[-1].received.body)["model"] == "m"
    second.plan(refusal(503))
    assert (await site.gateway.chat(ask)).headers["x-bluesminds-server"] == "one"
    rows = await site.gateway.settled(2)
    assert [row["cost_nano"] > 0 for row in rows] == [False, True]
    await site.send("PATCH", f"/{stored['id']}", {"mode": "only"})
    second.plan(refusal(400))
    await site.gateway.chat(ask)
    receipt = await receipt_of(site.gateway, (await site.last_row(3))["id"])
    assert receipt["dropped"] == [{"model": "fast", "server": "one", "reason": "own_key_only"}]


@pytest.fixture(params=["sqlite", "postgres"])
async def site_on_each_engine(
    request: pytest.FixtureRequest,
    nursery: trio.Nursery,
    home: Path,
    models: ModelServer,
    second: ModelServer,
) -> Site:
    storage = {} if request.param == "sqlite" else {"url": request.getfixturevalue("postgres_url")}
    return await start(nursery, home, models, second, storage=storage)


async def test_user_manages_own_keys_until_the_account_is_deleted(site_on_each_engine: Site) -> None:
    site = site_on_each_engine
    person = {"email": "ada@example.com", "password": PASSWORD}
    async with site.gateway.operator() as client:
        ada = (await client.post("/api/admin/users", json=person)).json()["id"]
    _, key = await site.gateway.new_key(user_id=ada)
    async with anonymous_client(site.gateway) as client:
        session = (await client.post("/api/auth/login", json=person | {"bearer": True})).json()
        client.headers["authorization"] = f"Bearer {session['token']}"
        body = {"vendor": "openai", "api_key": OWN, "models": ["m"]}
        stored = (await client.post("/api/vendor-keys", json=body)).json()
        assert (await site.gateway.chat(key=key)).headers["x-bluesminds-server"] == stored["server"]
        path = f"/api/vendor-keys/{stored['id']}"
        assert (await client.post(f"{path}/test")).json()["ok"]
        changed = (await client.patch(path, json={"mode": "only"})).json()
        assert (await client.get("/api/vendor-keys")).json()["data"] == [changed]
        exported = await client.get("/api/auth/me/export")
        assert exported.json()["vendor_keys"] == [changed]
        assert OWN not in exported.text
        assert (await client.delete(path)).status_code == 204
        assert (await client.post("/api/vendor-keys", json=body)).status_code == 201
        await client.post("/api/auth/me/delete", json={"password": PASSWORD})
    assert (await site.send("GET", "", user=ada)).status_code == 404
    await eventually(site.gateway.holds_no_rows)


async def test_tests_of_keys_are_limited(site: Site) -> None:
    stored = await site.store()
    answers = [(await site.send("POST", f"/{stored['id']}/test")) for _ in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 9 + [429]
    assert code_of(answers[-1]) == "too_many_key_tests"
