"""Limits through the whole gateway on both engines: exact in races and kept over restarts."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bluesminds.common.log import Log
from bluesminds.common.money import write_usd
from bluesminds.gateway.limits.lease import LEASE_SECONDS, RENEW_SECONDS, Lease, LeaseHeld
from storage.leases import renew_lease, take_lease
from storage.store import open_store
from tests import gateways
from tests.deployment import deploy
from tests.fakes.model_server import ModelServer, completion, refusal, whole
from tests.gateways import ASK, STREAM, Gateway, entry

PRICES = [{"model": "m", "input_usd": "1", "output_usd": "2", "max_output_tokens": 50}]
USD = 10**9


@dataclass
class Wall:
    at: datetime = datetime(2027, 1, 31, 23, 0, tzinfo=UTC)

    def now_ms(self) -> int:
        return int(self.at.timestamp() * 1000)


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, home: Path) -> Mapping[str, str]:
    """The [storage] of each engine in turn."""
    if request.param == "sqlite":
        return {"url": f"sqlite://{home}/limits.db"}
    return {"url": request.getfixturevalue("postgres_url")}


@dataclass
class Restarter:
    """Starts the same gateway several times."""

    nursery: trio.Nursery
    home: Path
    models: ModelServer
    storage: Mapping[str, str]
    wall: Wall
    key: str = ""

    @property
    def patient(self) -> dict[str, Any]:
        """Timeouts for hundreds of concurrent requests in one process with client and model server."""
        upstream = {"connect_timeout": 300.0, "first_byte_timeout": 300.0, "total_timeout": 600.0}
        return {"storage": {**self.storage, "settle_timeout": 30.0}, "upstream": upstream}

    async def start(self, **sections: Any) -> Gateway:
        gateway = await gateways.start(
            self.nursery,
            self.home,
            servers=[entry("one", self.models.url)],
            clock=self.wall,
            key=self.key,
            prices=PRICES,
            **self.patient,
            **sections,
        )
        self.key = gateway.key
        return gateway


@pytest.fixture
def restarter(nursery: trio.Nursery, home: Path, models: ModelServer, engine: Mapping[str, str]) -> Restarter:
    return Restarter(nursery, home, models, engine, Wall())


async def race(gateway: Gateway, key: str, times: int, body: Mapping[str, Any] = ASK) -> Counter[str]:
    """Counts of "200" and of error codes."""
    answers: Counter[str] = Counter()

    async def send_request(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/chat/completions", json=body)
        answers[str(answer.status_code) if answer.is_success else answer.json()["error"]["code"]] += 1

    limits = httpx.Limits(max_connections=times)
    async with gateway.client(key, limits=limits, timeout=600) as client, trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(send_request, client)
    return answers


async def effective_limits(gateway: Gateway, path: str) -> Any:
    async with gateway.operator() as client:
        answer = await client.get(f"/api/admin{path}/limits")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_network_race_allows_exactly_the_limit(restarter: Restarter) -> None:
    gateway = await restarter.start()
    _, by_requests = await gateway.new_key(limits={"rpm": 20})
    assert await race(gateway, by_requests, 60) == {"200": 20, "rate_limit_exceeded": 40}
    # Each answer costs 11 * 1 + 3 * 2 micro-USD in the end; 50 tokens are reserved for it at first.
    _, by_money = await gateway.new_key(limits={"usd_total": "0.00017"})
    bounded = ASK | {"max_tokens": 3}
    answers = await race(gateway, by_money, 60, bounded)
    assert 1 <= answers["200"] <= 10
    while (await gateway.chat(bounded, key=by_money)).status_code == 200:
        answers["200"] += 1
    spent = [row["cost_nano"] for row in await rows(gateway, by_money)]
    assert sum(spent) <= 170_000
    assert len(spent) == answers["200"]


async def test_budget_for_ten_of_fifty_racing_requests_allows_ten(restarter: Restarter) -> None:
    """The estimate of each request equals its cost."""
    body = ASK | {"max_tokens": 2}
    size = sum(len(msgspec.json.encode(value)) for value in body.values())
    prompt = size // 4 + 1
    usage = {"prompt_tokens": prompt, "completion_tokens": 2, "total_tokens": prompt + 2}
    restarter.models.plan(*[whole(completion(usage=usage))] * 50)
    gateway = await restarter.start()
    nano = 1000 * prompt + 2000 * 2
    key_id, key = await gateway.new_key(limits={"usd_total": write_usd(10 * nano)})
    assert await race(gateway, key, 50, body) == {"200": 10, "budget_exceeded": 40}
    found = await effective_limits(gateway, f"/keys/{key_id}")
    assert found["usd_total"] == {
        "limit": write_usd(10 * nano),
        "origin": "key",
        "used": write_usd(10 * nano),
    }


async def test_rate_limits_with_two_hundred_racing_requests_hold(restarter: Restarter) -> None:
    body = ASK | {"max_tokens": 2}
    gateway = await restarter.start()
    key_id, key = await gateway.new_key(limits={"rpm": 40, "tpm": 400})
    answers = await race(gateway, key, 200, body)
    assert answers.keys() <= {"200", "rate_limit_exceeded", "token_rate_limit_exceeded"}
    assert answers.total() == 200
    used = (await effective_limits(gateway, f"/keys/{key_id}"))["tpm"]["used"]
    assert 0 < answers["200"] <= 40
    assert used == 13 * answers["200"] <= 400


async def test_user_sees_limits_of_own_keys_only(nursery: trio.Nursery, home: Path) -> None:
    site = await deploy(nursery, home)
    ada = await site.create_user("ada@example.com", tier="starter")
    await site.create_user("eve@example.com")
    async with site.browser() as owner, site.browser() as other:
        await owner.login("ada@example.com")
        await other.login("eve@example.com")
        created = (await owner.send("POST", "/api/keys", {"name": "k", "limits": {"tpm": 5}})).json()
        own = (await owner.send("GET", "/api/auth/limits")).json()
        assert (own["user_id"], own["key_id"], own["tier"]) == (ada, None, "starter")
        assert own["rpm"] == {"limit": 60, "origin": "tier", "used": 0}
        for path in ("/api/keys", "/user/api-keys"):
            of_key = (await owner.send("GET", f"{path}/{created['id']}/limits")).json()
            assert (of_key["tpm"]["limit"], of_key["tpm"]["origin"]) == (5, "key")
            assert (of_key["rpm"]["limit"], of_key["rpm"]["origin"]) == (60, "tier")
            refused = await other.send("GET", f"{path}/{created['id']}/limits")
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "key_not_found")
        for path in (
            f"/api/admin/users/{ada}/limits",
            f"/api/admin/keys/{created['id']}/limits",
            "/api/admin/tiers",
        ):
            assert (await owner.send("GET", path)).status_code == 403
        changed = await owner.send("PATCH", f"/api/admin/users/{ada}/limits", {"rpm": 1000})
        assert changed.status_code == 403


async def rows(gateway: Gateway, key: str) -> list[dict[str, Any]]:
    """The usage rows of the key, from whichever engine."""
    async with gateway.operator() as client:
        listed = (await client.get("/api/admin/keys")).json()["data"]
    (key_id,) = [row["id"] for row in listed if row["last4"] == key[-4:] and row["prefix"] == key[:7]]

    async def select(connection: Any) -> list[dict[str, Any]]:
        found = await connection.all(
            "SELECT cost_nano, day, month, input_tokens, output_tokens FROM usage WHERE key_id = :id",
            id=key_id,
        )
        return [
            dict(zip(("cost_nano", "day", "month", "prompt", "completion"), row, strict=True))
            for row in found
        ]

    return await gateway.services.store.read(select)


async def test_restart_keeps_used_quota_and_budget(restarter: Restarter) -> None:
    gateway = await restarter.start()
    key_id, key = await gateway.new_key(limits={"tokens_per_day": 100, "usd_total": "1"})
    answers = [await gateway.chat(ASK | {"max_tokens": 3}, key=key) for _ in range(3)]
    used = sum(answer.json()["usage"]["total_tokens"] for answer in answers)
    cost = sum(int(float(answer.headers["x-cost-usd"]) * USD + 0.5) for answer in answers)
    before = await effective_limits(gateway, f"/keys/{key_id}")
    assert (before["tokens_per_day"]["used"], before["rpm"]["used"]) == (used, 3)
    await gateway.stop()
    gateway = await restarter.start()
    found = await effective_limits(gateway, f"/keys/{key_id}")
    assert found["tokens_per_day"] == {"limit": 100, "origin": "key", "used": used}
    assert round(float(found["usd_total"]["used"]) * USD) == cost
    assert found["rpm"] == {"limit": None, "origin": None, "used": 3}, "the minute continues"
    await race(gateway, key, 20, ASK | {"max_tokens": 3})
    assert (await effective_limits(gateway, f"/keys/{key_id}"))["tokens_per_day"]["used"] <= 100
    refused = await gateway.chat(ASK | {"max_tokens": 90}, key=key)
    assert refused.json()["error"]["code"] in ("daily_token_quota_exceeded", "request_too_large_for_limit")
    restarter.wall.at += timedelta(hours=2)
    assert (await gateway.chat(ASK | {"max_tokens": 3}, key=key)).status_code == 200
    assert {(row["day"], row["month"]) for row in await rows(gateway, key)} == {
        ("2027-01-31", "2027-01"),
        ("2027-02-01", "2027-02"),
    }


async def test_restart_keeps_used_requests_per_minute(restarter: Restarter) -> None:
    gateway = await restarter.start()
    _, key = await gateway.new_key(limits={"rpm": 5})
    assert await race(gateway, key, 4) == {"200": 4}
    for answers in ({"200": 1, "rate_limit_exceeded": 2}, {"rate_limit_exceeded": 3}):
        await gateway.stop()
        gateway = await restarter.start()
        assert await race(gateway, key, 3) == answers


async def test_restart_keeps_tokens_beyond_estimate(restarter: Restarter) -> None:
    gateway = await restarter.start()
    _, key = await gateway.new_key(limits={"tpm": 1000})
    usage = {"prompt_tokens": 10, "completion_tokens": 900, "total_tokens": 910}
    restarter.models.plan(whole(completion(usage=usage)))
    bounded = ASK | {"max_tokens": 100}
    assert await race(gateway, key, 1, bounded) == {"200": 1}
    await gateway.stop()
    gateway = await restarter.start()
    assert await race(gateway, key, 1, bounded) == {"token_rate_limit_exceeded": 1}


@pytest.mark.parametrize(("minutes", "status"), [(50, 429), (70, 200)])
async def test_start_restores_requests_of_at_most_one_hour(
    nursery: trio.Nursery, home: Path, models: ModelServer, minutes: int, status: int
) -> None:
    wall, day = Wall(), {"total_timeout": 86_400.0}
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, clock=wall, upstream=day)
    _, key = await gateway.new_key(limits={"rpm": 1})
    assert (await gateway.chat(key=key)).status_code == 200
    await gateway.stop()
    longer = minutes * 60_000
    await gateway.alter(f"UPDATE usage SET at = at - {longer}, duration_ms = duration_ms + {longer}")  # noqa: S608
    gateway = await gateways.start(nursery, home, servers=servers, clock=wall, upstream=day, key=gateway.key)
    assert (await gateway.chat(key=key)).status_code == status


async def test_changed_tiers_and_overrides_apply_at_once(restarter: Restarter) -> None:
    gateway = await restarter.start(tiers={"free": {"rpm": 2, "tokens_per_day": 0, "tokens_per_month": 0}})
    async with gateway.operator() as client:
        person = {"email": "ada@example.com", "password": "correct horse battery", "tier": "free"}
        user = (await client.post("/api/admin/users", json=person)).json()["id"]
        created = await client.post(
            "/api/admin/keys", json={"name": "k", "user_id": user, "limits": {"rpm": 9}}
        )
        key_id, key = created.json()["id"], created.json()["key"]

        async def patch(path: str, **body: Any) -> Any:
            answer = await client.patch(f"/api/admin/users/{user}{path}", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert await race(gateway, key, 5) == {"200": 2, "rate_limit_exceeded": 3}
        shown = await effective_limits(gateway, f"/keys/{key_id}")
        assert (shown["tier"], shown["rpm"]) == ("free", {"limit": 2, "origin": "tier", "used": 2})
        assert shown["tpm"]["origin"] == "tier"
        changed = await patch("/limits", rpm=4, usd_per_month="0.5")
        assert changed["rpm"] == {"limit": 4, "origin": "user", "used": 2}
        assert changed["usd_per_month"]["limit"] == "0.5"
        assert await race(gateway, key, 5) == {"200": 2, "rate_limit_exceeded": 3}
        await patch("/limits", rpm=None)
        assert (await gateway.chat(key=key)).status_code == 429
        await patch("", tier=None)
        assert await race(gateway, key, 7) == {"200": 5, "rate_limit_exceeded": 2}
        await patch("/limits", rpm=None, usd_per_month="0.5")  # no change
        tiers = (await client.get("/api/admin/tiers")).json()
        assert [row["name"] for row in tiers["data"]] == ["free", "starter", "pro", "enterprise"]
        entries = (await client.get("/api/admin/audit?action=user.limits")).json()["data"]
        for body in ({"rpm": 0}, {"usd_total": "0"}, {"usd_total": 5}, {"rpm": True}, {"tier": "pro"}):
            answer = await client.patch(f"/api/admin/users/{user}/limits", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), body
        assert (await client.patch("/api/admin/users/unknown/limits", json={"rpm": 1})).status_code == 404
        assert (await client.get("/api/admin/keys/unknown/limits")).status_code == 404
    assert len(entries) == 2
    assert {audit_entry["subject"] for audit_entry in entries} == {user}


async def test_responses_to_valid_key_have_rate_headers(restarter: Restarter) -> None:
    gateway = await restarter.start()
    _, key = await gateway.new_key(limits={"rpm": 7, "tpm": 1000})
    async with gateway.client(key) as client:
        answers = [
            await client.get("/v1/models"),
            await client.get("/v1/models/unknown"),
            await client.post("/v1/chat/completions", json=ASK | {"model": "unknown"}),
            await client.post("/v1/chat/completions", content=b"{"),
            await client.post("/v1/chat/completions", json=ASK | {"max_tokens": 3}),
            await client.post("/v1/chat/completions", json=STREAM | {"max_tokens": 100}),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 404, 400, 200, 200]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["7", "7", "7", "7", "6", "5"]
    assert {answer.headers["x-ratelimit-limit-tokens"] for answer in answers} == {"1000"}
    left = 1000 - answers[4].json()["usage"]["total_tokens"]
    assert int(answers[4].headers["x-ratelimit-remaining-tokens"]) == left
    assert int(answers[5].headers["x-ratelimit-remaining-tokens"]) < left - 100
    assert answers[4].headers["x-cost-usd"]
    assert "x-cost-usd" not in answers[5].headers


async def test_failed_response_uses_no_quota(restarter: Restarter) -> None:
    gateway = await restarter.start()
    key_id, key = await gateway.new_key(
        limits={"tpm": 500, "tokens_per_day": 500, "usd_total": "1", "concurrency": 1}
    )
    restarter.models.plan(*[refusal(500)] * 3, refusal(400))
    for status in (502, 400):
        answer = await gateway.chat(ASK | {"max_tokens": 5}, key=key)
        assert answer.status_code == status
        assert answer.headers["x-ratelimit-remaining-tokens"] == "500"
    found = await effective_limits(gateway, f"/keys/{key_id}")
    used = {
        name: found[name]["used"] for name in ("rpm", "tpm", "concurrency", "tokens_per_day", "usd_total")
    }
    assert used == {"rpm": 2, "tpm": 0, "concurrency": 0, "tokens_per_day": 0, "usd_total": "0"}


async def test_request_above_daily_budget_must_not_be_retried(restarter: Restarter) -> None:
    gateway = await restarter.start()
    _, key = await gateway.new_key(limits={"usd_per_day": "0.000001"})
    refused = await gateway.chat(ASK | {"max_tokens": 5}, key=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "request_too_large_for_limit")
    assert (refused.headers["x-should-retry"], "retry-after" in refused.headers) == ("false", False)


DAMAGE = "UPDATE {} SET limits = '{}'"
DAMAGED = ["{", "[]", "null", '{"rpm":"x"}', '{"rpm":-5}', '{"rpm":1.5}', '{"rqm":1}', '{"rpm":1e30}']


async def test_unreadable_limits_reject_requests_until_fixed(gateway: Gateway) -> None:
    key_id, key = await gateway.new_key(limits={"rpm": 5})
    async with gateway.operator() as client:
        user = (await client.get(f"/api/admin/keys/{key_id}")).json()["user_id"]
        of_key, of_user = f"/api/admin/keys/{key_id}/limits", f"/api/admin/users/{user}/limits"

        async def assert_unreadable(statement: str, *paths: str) -> None:
            await gateway.alter(statement)
            gateway.services.key_changes.notify()  # the gateway did not make this change itself
            for answer in [await gateway.chat(key=key), *[await client.get(path) for path in paths]]:
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "limits_unreadable")
                assert answer.headers["x-should-retry"] == "false"

        for text in DAMAGED:
            await assert_unreadable(DAMAGE.format("api_keys", text), of_key)
        await gateway.alter("UPDATE api_keys SET limits = NULL")
        for text in DAMAGED:
            await assert_unreadable(DAMAGE.format("users", text), of_key, of_user)
        fixed = (await client.patch(of_user, json={"rpm": 7})).json()
        assert fixed["rpm"] == {"limit": 7, "origin": "user", "used": 0}
        assert (await gateway.chat(key=key)).status_code == 200
        await assert_unreadable("UPDATE users SET tier = 'gold'", of_key, of_user)
        await client.patch(f"/api/admin/users/{user}", json={"tier": "pro"})
        assert (await gateway.chat(key=key)).status_code == 200
    assert gateway.events("request_failed") == []


async def test_second_gateway_on_one_database_cannot_start(
    nursery: trio.Nursery, tmp_path: Path, home: Path, models: ModelServer, postgres_url: str
) -> None:
    first = Restarter(nursery, home, models, {"url": postgres_url}, Wall())
    gateway = await first.start()
    other = tmp_path / "other"
    other.mkdir()
    state = other / "state"
    state.mkdir(mode=0o700)
    for name in ("pepper", "master.key"):
        (state / name).write_bytes((home / "state" / name).read_bytes())
    second = Restarter(nursery, other, models, {"url": postgres_url}, Wall())
    settings = gateways.settings_of(other, [], {"storage": {"url": postgres_url}})
    for hours in (-5, 0, 5):  # the lease does not depend on the wall clock
        with pytest.raises(LeaseHeld, match="another gateway serves this database"):
            await _failing_start(settings, Wall(Wall.at + timedelta(hours=hours)))
    await gateway.stop()
    await (await second.start()).stop()
    gateway = await first.start()
    assert await gateway.is_ready()


async def _failing_start(settings: Any, wall: Wall) -> None:
    """Raises the error of the start without its exception groups."""
    log = Log(wall, write=lambda line: None)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: gateways.serve.serve(
                    settings, clock=wall, log=log, environ={}, shutdown=trio.Event(), task_status=task_status
                )
            )
    except BaseException as exc:
        while isinstance(exc, BaseExceptionGroup):
            (exc,) = exc.exceptions
        raise exc from None


async def test_lease_has_one_holder_until_it_expires(postgres_url: str) -> None:
    async with open_store(postgres_url) as store:
        first = await store.write(take_lease, "limits", "a", 60_000)
        assert (first.holder, first.epoch) == ("a", 1)
        assert (await store.write(take_lease, "limits", "b", 60_000)).holder == "a"
        assert await store.write(renew_lease, "limits", "a", 1, 60_000)
        again = await store.write(take_lease, "limits", "a", 60_000)
        assert again.epoch == 2
        assert not await store.write(renew_lease, "limits", "a", 1, 60_000)
        assert await store.write(renew_lease, "limits", "a", 2, 0)  # expires at once
        taken = await store.write(take_lease, "limits", "b", 60_000)
        assert (taken.holder, taken.epoch) == ("b", 3)
        assert not await store.write(renew_lease, "limits", "a", 2, 60_000)


async def test_lease_taken_by_another_holder_is_reported_lost(
    postgres_url: str, mock_clock: MockClock
) -> None:
    lines: list[bytes] = []
    async with open_store(postgres_url) as store, trio.open_nursery() as nursery:
        lease = Lease(store, "a", Log(Wall(), write=lines.append))
        assert not lease.held()
        await lease.acquire()
        mock_clock.jump(LEASE_SECONDS - 4)
        assert lease.held()
        mock_clock.jump(2)
        assert not lease.held()
        ended = trio.Event()

        async def run() -> None:
            await lease.run()
            ended.set()

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        mock_clock.jump(RENEW_SECONDS)
        while not lease.held():
            await trio.lowlevel.checkpoint()
        await store.write(renew_lease, "limits", "a", 1, 0)
        await store.write(take_lease, "limits", "b", 60_000)
        await wait_all_tasks_blocked()
        mock_clock.jump(RENEW_SECONDS)
        await ended.wait()
        assert not lease.held()
        await lease.release()
        assert (await store.write(take_lease, "limits", "c", 60_000)).holder == "b"
    assert [json.loads(line)["event"] for line in lines] == ["lease_lost"]
