"""Keyless clients: their key is only sent to keyless servers, and their addresses are limited."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import new_key, resembles_own
from bluesminds.common.errors import Unavailable
from bluesminds.common.networks import block_of
from bluesminds.common.values import LimitSet
from bluesminds.config import ConfigError, load
from bluesminds.gateway.limits.counters import WHOLE_REQUEST, Estimate, UsageCounters
from bluesminds.gateway.limits.keyless import AddressLimits, keyless_caller
from tests import gateways
from tests.fakes.model_server import DONE, ModelServer, chunk, completion, error, refusal, streamed, whole
from tests.gateway.limits.test_limits import Wall
from tests.gateway.test_authenticate import context
from tests.gateways import ASK, STREAM, Gateway, entry, settings_of

CLIENT_KEY = "sk-canary-own-4717"
OTHER_KEY = "sk-canary-other-4718"
GATEWAY_KEY = "sk-canary-gateway-4719"
LIMITS = {"enabled": True, "rpm": 0, "tpm": 0, "concurrency": 0, "tokens_per_day": 0}
PROXIED = {"trusted_proxies": ["127.0.0.1"]}


async def start_keyless(
    nursery: trio.Nursery,
    home: Path,
    servers: Sequence[dict[str, Any]],
    *,
    clock: Clock | None = None,
    eject_after: int = 2,
    **limits: int,
) -> Gateway:
    return await gateways.start(
        nursery,
        home,
        servers=list(servers),
        clock=clock,
        keyless=LIMITS | limits,
        server=PROXIED,
        upstream={"eject_after": eject_after},
        log={"level": "debug"},
    )


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    return await start_keyless(nursery, home, [entry("pass", models.url, api_key=GATEWAY_KEY, keyless=True)])


def keys_sent(models: ModelServer) -> list[bytes]:
    return [value for asked in models.asked for value in asked.received.values(b"authorization")]


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


def forwarded_for(address: str) -> dict[str, str]:
    return {"x-forwarded-for": address}


async def test_keyless_request_sends_client_key_instead_of_gateway_key(
    gateway: Gateway, models: ModelServer
) -> None:
    for body in (ASK, STREAM):
        for key in (CLIENT_KEY, OTHER_KEY):
            assert (await gateway.chat(body, key=key)).status_code == 200
        assert (await gateway.chat(body)).status_code == 200
    sent = [f"Bearer {key}".encode() for key in (CLIENT_KEY, OTHER_KEY, GATEWAY_KEY)]
    assert keys_sent(models) == sent * 2
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for name in ("x-api-key", "api-key"):
            answer = await client.post("/v1/chat/completions", json=ASK, headers={name: CLIENT_KEY})
            assert answer.status_code == 200
    assert keys_sent(models)[-2:] == sent[:1] * 2
    assert all(not asked.received.values(b"x-api-key") for asked in models.asked)
    rows = await gateway.settled(8)
    assert [(row["key_id"], row["user_id"]) for row in rows].count(("", "")) == 6
    assert all(row["usage_source"] == "upstream" for row in rows)


async def test_client_key_is_sent_to_keyless_servers_only(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = [
        entry("closed", models.url, api_key=GATEWAY_KEY, priority=0),
        entry("pass", second.url, priority=1, models=["m", "p"], keyless=True),
    ]
    gateway = await start_keyless(nursery, home, servers, eject_after=100)
    second.plan(*[refusal(503)] * 3, *[refusal(500)] * 3)
    for _ in range(2):
        answer = await gateway.chat(key=CLIENT_KEY)
        assert (answer.status_code // 100, answer.headers["x-bluesminds-server"]) == (5, "pass")
    assert (await gateway.chat(key=CLIENT_KEY)).status_code == 200
    assert models.asked == []
    # A server without an api_key is for keyless requests only.
    models.plan(*[refusal(503)] * 3)
    assert (await gateway.chat()).status_code == 503
    assert keys_sent(second) == [b"Bearer " + CLIENT_KEY.encode()] * 7
    async with gateway.client(CLIENT_KEY) as client:
        assert [row["id"] for row in (await client.get("/v1/models")).json()["data"]] == ["m", "p"]
        assert (await client.get("/v1/models/p")).status_code == 200
    assert [row["id"] for row in (await gateway.get("/v1/models")).json()["data"]] == ["m"]
    assert code(await gateway.chat(ASK | {"model": "p"})) == "model_not_found"


async def test_rejected_client_key_does_not_blame_server(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = [
        entry("pass", models.url, api_key=GATEWAY_KEY, keyless=True),
        entry("next", second.url, api_key=GATEWAY_KEY, keyless=True, priority=1),
    ]
    gateway = await start_keyless(nursery, home, servers, tpm=1000)
    for status in (401, 403, 400) * 3:
        models.plan(
            refusal(status, error(f"Incorrect API key provided: {CLIENT_KEY}", code="invalid_api_key"))
        )
        answer = await gateway.chat(key=CLIENT_KEY)
        assert (answer.status_code, code(answer)) == (status, "invalid_api_key")
        assert "[redacted]" in answer.text
        assert answer.headers["x-ratelimit-remaining-tokens"] == "1000"
    assert second.asked == []
    assert (await gateway.chat()).headers["x-bluesminds-server"] == "pass", "the server is not ejected"


@pytest.mark.parametrize("stream", [False, True])
async def test_client_key_appears_in_no_output_or_file(
    gateway: Gateway, models: ModelServer, stream: bool
) -> None:
    quoting = error(f"Incorrect API key provided: {CLIENT_KEY}", param=CLIENT_KEY)
    models.plan(streamed(chunk(CLIENT_KEY), DONE) if stream else whole(completion(CLIENT_KEY)))
    models.plan(*(refusal(status, quoting) for status in (400, 401, 403, 404, 429, 500)))
    models.plan(whole(quoting))
    outputs = []
    for _ in range(8):
        answer = await gateway.chat(
            ASK | {"stream": stream}, key=CLIENT_KEY, headers={"idempotency-key": "x"}
        )
        outputs.append(answer.text + str(answer.headers))
    outputs.append((await gateway.chat(b"{", key=CLIENT_KEY)).text)
    outputs.append((await gateway.chat(ASK | {"model": CLIENT_KEY[:4]}, key=CLIENT_KEY)).text)
    outputs += [(await gateway.get(path)).text for path in ("/metrics", "/ready", "/v1/models")]
    async with gateway.operator() as client:
        shown = ("/api/usage/logs", "/api/admin/users", "/api/admin/audit", "/api/admin/servers")
        outputs += [(await client.get(path)).text for path in shown]
    assert all(CLIENT_KEY.encode() not in asked.received.body for asked in models.asked)
    await gateway.stop()
    with closing(sqlite3.connect(gateway.database)) as database:
        dump = "\n".join(database.iterdump())
    files = b"".join(path.read_bytes() for path in gateway.settings.state_dir.iterdir() if path.is_file())
    outputs = {
        "answers": "\n".join(outputs),
        "log": gateway.log,
        "database": dump,
        "files": files.decode("latin-1"),
    }
    assert [name for name, text in outputs.items() if CLIENT_KEY in text or GATEWAY_KEY in text] == []
    assert "Traceback" not in gateway.log


async def test_credential_resembling_gateway_key_is_never_sent(gateway: Gateway, models: ModelServer) -> None:
    mistyped = gateway.key[:-1] + ("0" if gateway.key[-1] != "0" else "1")
    for wrong in (
        mistyped,
        new_key(),
        gateway.key.upper(),
        gateway.key[:20],
        gateway.key[1:],
        gateway.key[3:],
        "Bearer " + gateway.key,
        '"' + gateway.key + '"',
        "bms_" + "a" * 43,
        "api-key:" + gateway.key,
        "short",
        "x" * 513,
        "two words",
    ):
        answer = await gateway.chat(key=wrong)
        assert (answer.status_code, code(answer)) == (401, "invalid_api_key"), wrong
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        rejected = await client.post("/v1/chat/completions", json=ASK)
        assert (rejected.status_code, code(rejected)) == (401, "missing_api_key")
        basic = await client.post("/v1/chat/completions", json=ASK, headers={"authorization": "Basic eDp5"})
        assert (basic.status_code, code(basic)) == (401, "invalid_api_key")
        assert (await client.get("/v1/models")).status_code == 401
    assert models.asked == []


async def test_keyless_mode_is_off_by_default(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    servers = [entry("pass", models.url, keyless=True)]
    gateway = await gateways.start(nursery, home, servers=servers)
    answer = await gateway.chat(key=CLIENT_KEY)
    assert (answer.status_code, code(answer)) == (401, "invalid_api_key")
    assert models.asked == []
    assert (await gateway.chat()).status_code == 200, "the server entry alone changes nothing"


async def test_keyless_limits_apply_per_address(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("pass", models.url, keyless=True)]
    gateway = await start_keyless(nursery, home, servers, rpm=2)
    assert (await gateway.chat(key=CLIENT_KEY, headers=forwarded_for("192.0.2.1"))).headers[
        "x-ratelimit-remaining"
    ] == "1"
    assert (await gateway.chat(key=OTHER_KEY, headers=forwarded_for("6.6.6.6, 192.0.2.1"))).status_code == 200
    refused = await gateway.chat(key=OTHER_KEY, headers=forwarded_for("192.0.2.1"))
    assert (refused.status_code, code(refused)) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["message"].startswith("Your address is limited to 2 requests")
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert refused.headers["retry-after"] == "61"
    for address in ("2001:db8::1", "2001:db8::ffff:2"):
        assert (await gateway.chat(key=CLIENT_KEY, headers=forwarded_for(address))).status_code == 200
    assert (await gateway.chat(key=CLIENT_KEY, headers=forwarded_for("2001:db8:0:0:9::"))).status_code == 429
    assert (await gateway.chat(key=CLIENT_KEY, headers=forwarded_for("2001:db8:0:1::"))).status_code == 200
    assert (await gateway.chat(key=CLIENT_KEY, headers=forwarded_for("::ffff:192.0.2.1"))).status_code == 429
    assert (await gateway.chat()).status_code == 404, "a gateway key is not limited by address"
    async with gateway.client(CLIENT_KEY) as client:
        fresh = await client.get("/v1/models", headers=forwarded_for("192.0.2.9"))
    assert fresh.headers["x-ratelimit-remaining"] == "2"
    with gateway.reading() as database:
        assert "192.0.2." not in "\n".join(database.iterdump())


async def test_exhausted_address_is_rejected_before_body_is_read(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start_keyless(nursery, home, [entry("pass", models.url, keyless=True)], rpm=1)
    assert (await gateway.chat(key=CLIENT_KEY)).status_code == 200
    assert code(await gateway.chat(b"{", key=CLIENT_KEY)) == "rate_limit_exceeded"


async def test_race_from_one_address_allows_exactly_the_limit(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start_keyless(nursery, home, [entry("pass", models.url, keyless=True)], rpm=7)
    found: list[int] = []

    async def send_request() -> None:
        found.append((await gateway.chat(key=CLIENT_KEY)).status_code)

    async with trio.open_nursery() as race:
        for _ in range(40):
            race.start_soon(send_request)
    assert sorted(found) == [200] * 7 + [429] * 33


async def test_keyless_daily_tokens_exhausted_are_rejected(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("pass", models.url, keyless=True)]
    gateway = await start_keyless(nursery, home, servers, clock=Wall(), tokens_per_day=70)
    answers = [await gateway.chat(ASK | {"max_tokens": 2}, key=CLIENT_KEY) for _ in range(6)]
    allowed = [answer for answer in answers if answer.status_code == 200]
    assert 1 <= len(allowed) < 6
    assert {code(answer) for answer in answers[len(allowed) :]} == {"daily_token_quota_exceeded"}


def test_full_address_table_keeps_counted_addresses(mock_clock: MockClock) -> None:
    addresses = AddressLimits(max_addresses=3)
    limits, small = LimitSet(rpm=1), Estimate(10, 0)
    first, busy, daily = (addresses.open(name, 0.0) for name in ("first", "busy", "daily"))
    first.hold(small, 0.0, WHOLE_REQUEST).settle(0, 0, 0.0)
    running = busy.hold(small, 0.0, WHOLE_REQUEST)
    daily.roll_over("2027-01-31", "2027-01")
    daily.hold(small, 0.0, WHOLE_REQUEST).settle(10, 0, 0.0)
    for number in range(100):
        with pytest.raises(Unavailable) as caught:
            addresses.open(f"flood {number}", 1.0)
        assert caught.value.code == "too_many_addresses"
        addresses.sweep(1.0, "2027-01-31")
    assert not addresses.open("first", 1.0).allows(limits, small, 1.0)
    addresses.sweep(62.0, "2027-01-31")
    assert (addresses.find("first"), addresses.find("busy"), addresses.find("daily")) == (None, busy, daily)
    running.settle(0, 0, 62.0)
    addresses.sweep(62.0, "2027-02-01")
    assert len(addresses) == 0
    assert isinstance(addresses.open("new", 62.0), UsageCounters)


async def test_keyless_server_rejecting_probe_is_alive(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    models.list_status = b"401 Unauthorized"
    gateway = await gateways.start(
        nursery,
        home,
        servers=[
            entry("pass", models.url, keyless=True),
            entry("next", second.url, keyless=True, priority=1),
        ],
        keyless=LIMITS,
        upstream={"eject_after": 1},  # the start probes it once
    )
    assert (await gateway.chat(key=CLIENT_KEY)).headers["x-bluesminds-server"] == "pass"


def test_keyless_server_without_keyless_mode_warns(home: Path) -> None:
    settings_of(home, [entry("one", "http://127.0.0.1:1/v1", keyless=True)], {})
    (warning,) = load(home / "gateway.toml", {}, {}).warnings
    assert "has no effect while [keyless] is not enabled" in str(warning)


def test_keyless_mode_without_keyless_server_is_config_error(home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settings_of(home, [entry("one", "http://127.0.0.1:1/v1")], {"keyless": {"enabled": True}})
    assert "needs a server" in str(caught.value.problems[0])


@given(st.text(st.sampled_from("bmsBMS_-:. 0aZ"), max_size=8), st.booleans())
def test_gateway_key_with_prefix_is_never_keyless(before: str, whole_key: bool) -> None:
    key = new_key()
    credential = before + (key if whole_key else key[3:])
    assert resembles_own(credential)
    assert keyless_caller(context(credential), LimitSet()) is None


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
    ],
)
def test_block_of_address_groups_ipv6_by_64(text: str, block: str) -> None:
    assert block_of(text) == block
