"""Authentication by API key: every header, malformed keys, the cache and changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bluesminds.common.clock import SystemClock
from bluesminds.common.crypto import key_digest, new_key
from bluesminds.common.errors import Unauthenticated, Unavailable
from bluesminds.common.values import LimitSet, RequestContext
from bluesminds.gateway.authenticate import KeyAuthenticator
from storage.base import StorageUnavailable
from storage.keys import KeyHolder, KeyRow
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, Gateway, eventually
from tests.storage.samples import key as key_row
from tests.storage.samples import user

PEPPER = b"pepper"
KEY = new_key()
NOW = 1_800_000_000_000
INVALID = "Invalid API key in the `authorization` header."


def context(
    credential: str | None = KEY,
    at_ms: int = NOW,
    *,
    client: str = "127.0.0.1",
    origin: str | None = None,
    endpoint: str = "chat.completions",
    started: float = 0.0,
) -> RequestContext:
    return RequestContext(
        id="i", request_id="r", method="POST", path="/v1/x",
        endpoint=endpoint, credential=credential, client=client, origin=origin,
        credential_header="authorization", forward=(), at_ms=at_ms, started=started,
    )  # fmt: skip


class Table:
    """The stored state of KEY. `queries` counts lookups; `gate` delays their result."""

    def __init__(self, row: KeyRow | None) -> None:
        self.row = row
        self.disabled_at: int | None = None
        self.tier: str | None = None
        self.user_limits: str | None = None
        self.ends_at: int | None = None
        self.queries = 0
        self.gate: trio.Event | None = None
        self.failing = False

    async def look_up(self, digest: bytes) -> KeyHolder | None:
        self.queries += 1
        if self.failing:
            raise StorageUnavailable("gone")
        row = self.row
        if self.gate is not None:
            await self.gate.wait()
        if row is None or digest != key_digest(PEPPER, KEY):
            return None
        return KeyHolder(row, self.disabled_at, self.tier, self.user_limits, self.ends_at)


def changed(**fields: Any) -> KeyRow:
    return replace(key_row(user()), **fields)


def authenticator(table: Table, *, cache_seconds: float = 5.0) -> KeyAuthenticator:
    return KeyAuthenticator(
        table.look_up,
        pepper=PEPPER,
        clock=SystemClock(),
        cache_seconds=cache_seconds,
        tiers={"free": LimitSet(rpm=7, concurrency=3)},
        is_open=lambda caller, now: True,
    )


async def rejected(keys: KeyAuthenticator, credential: str | None = KEY, at_ms: int = NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await keys.authenticate(context(credential, at_ms))
    assert caught.value.status == 401
    assert credential is None or len(credential) <= 12 or credential not in caught.value.message
    return caught.value.code


async def test_key_is_looked_up_again_after_cache_seconds(mock_clock: MockClock) -> None:
    table = Table(key_row(user()))
    keys = authenticator(table)
    for _ in range(3):
        caller = await keys.authenticate(context())
    assert table.queries == 1
    assert (caller.key_id, caller.user_id) == (table.row.id, table.row.user_id)  # type: ignore[union-attr]
    assert (caller.key_limits, caller.user_limits) == (LimitSet(rpm=60), LimitSet())
    mock_clock.jump(5.01)
    await keys.authenticate(context(started=5.01))
    assert table.queries == 2
    keys.authorize_use(caller, context())
    assert keys.last_used == {caller.key_id: NOW}


async def test_account_limits_override_tier_limits() -> None:
    table = Table(changed(limits=None))
    table.tier, table.user_limits = "free", '{"rpm": 70, "tpm": 5}'
    caller = await authenticator(table).authenticate(context())
    assert (caller.key_limits, caller.user_limits) == (LimitSet(), LimitSet(rpm=70, tpm=5, concurrency=3))


@pytest.mark.parametrize(
    "credential",
    ["", "x", "sk-live-1234567890", KEY[:-1] + "~", KEY + "A", "bm_" + "é" * 36],
    ids=["empty", "short", "foreign", "altered", "longer", "not ASCII"],
)
async def test_malformed_key_is_rejected_without_lookup(credential: str) -> None:
    table = Table(None)
    assert await rejected(authenticator(table), credential) == (
        "invalid_api_key" if credential else "missing_api_key"
    )
    assert table.queries == 0


async def test_unknown_key_is_cached() -> None:
    table = Table(None)
    keys = authenticator(table)
    assert {await rejected(keys, new_key()), await rejected(keys), await rejected(keys)} == {
        "invalid_api_key"
    }
    assert table.queries == 2


async def test_rejected_key_reports_reason() -> None:
    table = Table(changed(revoked_at=NOW))
    assert await rejected(authenticator(table)) == "api_key_revoked"
    table.row = changed()
    table.disabled_at = NOW
    assert await rejected(authenticator(table)) == "user_disabled"
    table = Table(changed(expires_at=NOW + 1))
    keys = authenticator(table)
    await keys.authenticate(context())
    assert await rejected(keys, at_ms=NOW + 1) == "api_key_expired"
    assert table.queries == 1
    table = Table(changed(expires_at=NOW + 9))
    table.ends_at = NOW + 5
    keys = authenticator(table)
    await keys.authenticate(context(at_ms=NOW + 4))
    assert await rejected(keys, at_ms=NOW + 5) == "api_key_expired", "the earlier of two ends applies"
    table.ends_at = 0
    assert await rejected(authenticator(table), at_ms=1) == "api_key_expired", "end 0 is in the past"
    assert await rejected(keys, None) == "missing_api_key"


@pytest.mark.parametrize("digests", [[], [bytes(32), key_digest(PEPPER, KEY)]], ids=["all", "some"])
async def test_lookup_running_during_change_is_not_cached(digests: list[bytes]) -> None:
    table = Table(key_row(user()))
    keys = authenticator(table)
    table.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.authenticate, context())
        await wait_all_tasks_blocked()
        table.row = changed(revoked_at=NOW)
        keys.forget(*digests)
        table.gate.set()
    assert await rejected(keys) == "api_key_revoked"


async def test_forget_keeps_other_cached_keys() -> None:
    table = Table(key_row(user()))
    keys = authenticator(table)
    await keys.authenticate(context())
    keys.forget(key_digest(PEPPER, new_key()))
    await keys.authenticate(context())
    assert (table.queries, keys.changes) == (1, 1)
    table.row = changed(revoked_at=NOW)
    keys.forget(key_digest(PEPPER, KEY))
    assert await rejected(keys) == "api_key_revoked"


async def test_concurrent_misses_share_one_lookup() -> None:
    table = Table(key_row(user()))
    keys = authenticator(table)
    table.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(90):
            nursery.start_soon(keys.authenticate, context())
        await wait_all_tasks_blocked()
        table.gate.set()
    assert table.queries == 1


async def test_failed_lookup_fails_all_waiting_requests() -> None:
    class Failing(Table):
        async def look_up(self, digest: bytes) -> KeyHolder | None:
            await super().look_up(digest)
            raise StorageUnavailable("gone")

    table = Failing(key_row(user()))
    keys = authenticator(table)
    table.gate = trio.Event()
    codes = []

    async def ask() -> None:
        with pytest.raises(Unavailable) as caught:
            await keys.authenticate(context())
        codes.append(caught.value.code)

    async with trio.open_nursery() as waiting:
        for _ in range(5):
            waiting.start_soon(ask)
        await wait_all_tasks_blocked()
        table.gate.set()
    assert (codes, table.queries) == (["storage_unavailable"] * 5, 1)


async def test_cancelled_lookup_is_taken_over_by_waiting_request() -> None:
    table = Table(key_row(user()))
    keys = authenticator(table)
    table.gate = trio.Event()
    callers = []

    async def ask() -> None:
        callers.append(await keys.authenticate(context()))

    async with trio.open_nursery() as others:
        async with trio.open_nursery() as first:
            first.start_soon(keys.authenticate, context())
            await wait_all_tasks_blocked()
            for _ in range(5):
                others.start_soon(ask)
            await wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert table.queries == 2
        table.gate.set()
    assert len(callers) == 5
    assert table.queries == 2


@pytest.mark.parametrize("digests", [[], [bytes(32), key_digest(PEPPER, KEY)]], ids=["all", "some"])
async def test_request_after_change_does_not_join_older_lookup(digests: list[bytes]) -> None:
    table = Table(key_row(user()))
    keys = authenticator(table)
    table.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.authenticate, context())
        await wait_all_tasks_blocked()
        table.row = changed(revoked_at=NOW)
        keys.forget(*digests)
        nursery.start_soon(rejected, keys)
        await wait_all_tasks_blocked()
        assert table.queries == 2
        table.gate.set()


async def test_failing_store_is_unavailable_and_not_cached() -> None:
    table = Table(key_row(user()))
    table.failing = True
    keys = authenticator(table)
    with pytest.raises(Unavailable) as caught:
        await keys.authenticate(context())
    assert (caught.value.status, caught.value.code) == (503, "storage_unavailable")
    table.failing = False
    await keys.authenticate(context())


async def test_every_key_header_is_accepted(gateway: Gateway) -> None:
    unknown = new_key()
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        for headers in (
            {"authorization": f"Bearer {gateway.key}"},
            {"authorization": f"bearer  {gateway.key}"},
            {"authorization": gateway.key},
            {"x-api-key": gateway.key},
            {"api-key": gateway.key},
        ):
            answer = await client.post("/v1/chat/completions", json=ASK, headers=headers)
            assert answer.status_code == 200, headers
        for headers, code, message in (
            ({}, "missing_api_key", "Missing API key. Send it as `Authorization: Bearer bm_…`."),
            ({"authorization": "Basic YTpi"}, "invalid_api_key", INVALID),
            ({"x-api-key": "sk-1234567890abcd"}, "invalid_api_key", "Invalid API key (ends in abcd)."),
            ({"api-key": unknown}, "invalid_api_key", f"Invalid API key (ends in {unknown[-4:]})."),
            ({"authorization": "Bearer junk", "x-api-key": gateway.key}, "invalid_api_key", INVALID),
        ):
            answer = await client.post("/v1/chat/completions", json=ASK, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["type"]) == (401, code, "authentication_error")
            assert error["message"] == message
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_requests_after_revocation_are_rejected(gateway: Gateway) -> None:
    key_id, key = await gateway.new_key()
    revoked = False
    late: list[int] = []
    early: list[int] = []

    async def hammer(client: httpx.AsyncClient) -> None:
        for _ in range(200):
            statuses = late if revoked else early
            statuses.append((await client.post("/v1/chat/completions", json=ASK)).status_code)
            if len(late) >= 40:
                return

    async with gateway.client(key) as client, gateway.operator() as operator, trio.open_nursery() as clients:
        for _ in range(8):
            clients.start_soon(hammer, client)
        await eventually(lambda: len(early) >= 20)
        assert (await operator.delete(f"/api/admin/keys/{key_id}")).status_code == 204
        revoked = True
    assert set(late) == {401}
    assert early[:20] == [200] * 20


async def test_key_works_from_creation_until_revocation(
    gateway: Gateway, models: ModelServer, home: Path
) -> None:
    key_id, key = await gateway.new_key()
    assert (await gateway.chat(key=key)).status_code == 200
    async with gateway.operator() as client:
        assert (await client.delete(f"/api/admin/keys/{key_id}")).status_code == 204
        assert (await gateway.chat(key=key)).json()["error"]["code"] == "api_key_revoked"
        assert (await client.delete(f"/api/admin/keys/{key_id}")).status_code == 404
    assert len(models.asked) == 1
    key_id, key = await gateway.new_key()
    await gateway.alter(f"UPDATE api_keys SET expires_at = 1 WHERE id = '{key_id}'")  # noqa: S608
    assert (await gateway.chat(key=key)).json()["error"]["code"] == "api_key_expired"
