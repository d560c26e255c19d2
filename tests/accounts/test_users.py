"""Users, keys, servers and usage on a real database, and the audit rows of changes."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from bluesminds.accounts.audit import OPERATOR, Actor
from bluesminds.accounts.key_policy import KeyPolicy
from bluesminds.accounts.keys import Keys
from bluesminds.accounts.limits import AccountLimits
from bluesminds.accounts.servers import Servers
from bluesminds.accounts.usage import MAX_DAYS, UsageReports
from bluesminds.accounts.users import BOOTSTRAP, UserChanges, Users
from bluesminds.common.clock import Calendar, zone_named
from bluesminds.common.crypto import Vault, key_digest, new_master_key
from bluesminds.common.errors import Conflict, Forbidden, InvalidRequest, NotFound
from bluesminds.common.log import Log
from bluesminds.common.values import LimitSet, Server
from storage import Connection, Store
from storage.keys import select_key_by_digest
from storage.settings import select_setting
from storage.store import open_store
from storage.usage import DAY, insert_batch
from tests.databases import create_sqlite
from tests.storage.samples import NOON, usage


class Noon:
    def now_ms(self) -> int:
        return NOON


@pytest.fixture
async def store(home: Path) -> AsyncIterator[Store]:
    create_sqlite(home / "test.db")
    async with open_store(f"sqlite://{home / 'test.db'}") as store:
        yield store


async def actions(connection: Connection) -> list[str]:
    return [row[0] for row in await connection.all("SELECT action FROM audit ORDER BY action")]


async def test_keys_are_stored_as_digests_and_changes_are_notified(store: Store) -> None:
    users = Users(store, clock=Noon())
    owner, is_new = await users.local_user(OPERATOR)
    assert is_new
    notified: list[bytes | None] = []
    keys = Keys(store, pepper=b"p", clock=Noon(), changed=lambda digest=None: notified.append(digest))
    row, key = await keys.create(OPERATOR, owner, KeyPolicy(name="laptop"))
    assert notified == [], "a new key is in no cache"
    holder = await store.read(select_key_by_digest, key_digest(b"p", key))
    assert holder is not None
    assert holder.key == row
    assert await store.read(select_key_by_digest, key_digest(b"q", key)) is None
    await keys.revoke(OPERATOR, None, row.id)
    assert notified == [row.digest]
    with pytest.raises(NotFound):
        await keys.revoke(OPERATOR, None, row.id)
    assert [listed.revoked_at for listed in await keys.list(None)] == [NOON]
    assert await store.read(actions) == ["key.create", "key.revoke", "user.create"]


@pytest.mark.parametrize("change", ["disable", "limit"])
async def test_account_change_of_cancelled_caller_is_notified(store: Store, change: str) -> None:
    notified: list[str] = []
    users = Users(store, clock=Noon(), changed=lambda: notified.append("disable"))
    calendar = Calendar(zone_named("UTC"))
    limits = AccountLimits(
        store, clock=Noon(), calendar=calendar, tiers={}, changed=lambda: notified.append("limit")
    )
    user_id, _ = await users.local_user(OPERATOR)
    before = await users.get(user_id)
    async with trio.open_nursery() as nursery:
        if change == "disable":
            nursery.start_soon(users.update, OPERATOR, user_id, UserChanges(disabled=True))
        else:
            nursery.start_soon(limits.change, OPERATOR, user_id, lambda own: LimitSet(rpm=1))
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert await users.get(user_id) != before
    assert notified == [change]


async def test_key_for_unknown_user_stores_nothing(store: Store) -> None:
    keys = Keys(store, pepper=b"p", clock=Noon(), changed=lambda digest=None: None)
    with pytest.raises(NotFound) as caught:
        await keys.create(OPERATOR, "unknown", KeyPolicy(name="x"))
    assert (caught.value.code, caught.value.param) == ("user_not_found", "user_id")
    assert await store.read(actions) == []
    assert await keys.list(None) == []


async def test_local_user_is_created_once(store: Store) -> None:
    users = Users(store, clock=Noon())
    found: list[tuple[str, bool]] = []

    async def create() -> None:
        found.append(await users.local_user(OPERATOR))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(create)
    assert len({owner for owner, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1
    assert len(await users.list()) == 1


async def test_claims_concurrent_create_one_administrator(store: Store) -> None:
    users = Users(store, clock=Noon())
    earlier = await users.new_bootstrap_token(OPERATOR)
    token = await users.new_bootstrap_token(OPERATOR)
    assert earlier is not None and token is not None
    with pytest.raises(Forbidden):
        await users.require_token(earlier)
    assert token not in str(await store.read(select_setting, BOOTSTRAP))
    outcomes: list[str] = []

    async def claim(number: int) -> None:
        actor = Actor("anonymous", "10.0.0.1")
        try:
            await users.claim_admin(actor, token=token, email=f"{number}@example.com", password_hash="h")
            outcomes.append("claimed")
        except Forbidden as exc:
            outcomes.append(exc.code)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(claim, number)
    assert sorted(outcomes) == ["claimed", *["invalid_bootstrap_token"] * 5]
    assert await users.has_admin()
    assert await users.new_bootstrap_token(OPERATOR) is None
    with pytest.raises(Forbidden):
        await users.require_token(token)
    assert await store.read(actions) == ["admin.claim", "bootstrap.issue", "bootstrap.issue"]


async def test_administrator_created_deletes_the_bootstrap_token(store: Store) -> None:
    users = Users(store, clock=Noon())
    token = await users.new_bootstrap_token(OPERATOR)
    assert token is not None
    await users.require_token(token)
    await users.create(OPERATOR, role="user", email="u@example.com", password_hash="h")
    await users.require_token(token)
    await users.create(OPERATOR, role="admin", email="a@example.com", password_hash="h")
    with pytest.raises(Forbidden):
        await users.require_token(token)
    with pytest.raises(Conflict):
        await users.create(OPERATOR, role="user", email="a@example.com", password_hash="h")


def server(name: str = "s", api_key: str | None = "sk-sealed") -> Server:
    return Server(
        name=name,
        dialect="openai",
        url="http://x/v1",
        api_key=api_key,
        models=("a", "b"),
        weight=3,
        priority=-1,
        origin="table",
    )


def content(folder: Path) -> bytes:
    """All bytes of all files."""
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def servers_with(store: Store, *master_keys: bytes, lines: list[bytes] | None = None) -> Servers:
    written = [] if lines is None else lines
    return Servers(store, vault=Vault(master_keys), clock=Noon(), log=Log(Noon(), write=written.append))


async def test_server_with_key_of_another_master_key_is_locked(store: Store) -> None:
    old, new = new_master_key(), new_master_key()
    await servers_with(store, old).add(OPERATOR, server("old"))
    lines: list[bytes] = []
    servers = servers_with(store, new, lines=lines)
    await servers.add(OPERATOR, server("new"))
    for _ in range(2):
        assert [one.name for one in await servers.load()] == ["new"]
        assert servers.locked == (server("old", None),)
    (line,) = [msgspec.json.decode(line) for line in lines]
    assert (line["level"], line["event"], line["server"]) == ("warning", "server_locked", "old"), "once"
    await servers.remove(OPERATOR, "old")
    assert [one.name for one in await servers.load()] == ["new"]
    assert servers.locked == ()


async def test_guest_key_replaces_the_previous_one(store: Store) -> None:
    owner, _ = await Users(store, clock=Noon()).local_user(OPERATOR)
    keys = Keys(store, pepper=b"p", clock=Noon(), changed=lambda digest=None: None)
    own, _ = await keys.create(OPERATOR, owner, KeyPolicy(name="guest"))
    first = await keys.guest(OPERATOR, user_id=owner, expires_at=NOON + 1)
    second = await keys.guest(OPERATOR, user_id=owner, expires_at=NOON + 2)
    assert await store.read(select_key_by_digest, key_digest(b"p", first)) is None
    holder = await store.read(select_key_by_digest, key_digest(b"p", second))
    assert holder is not None
    listed = {row.id: row for row in await keys.list(None)}
    assert listed == {row.id: row for row in (own, holder.key)}, "the key that a user named guest is kept"
    assert (holder.key.prefix, holder.key.last4, holder.key.expires_at) == (second[:7], second[-4:], NOON + 2)
    await keys.revoke(OPERATOR, None, holder.key.id)
    third = await keys.guest(OPERATOR, user_id=owner, expires_at=NOON + 3)
    again = await store.read(select_key_by_digest, key_digest(b"p", third))
    assert again is not None and again.key.id != holder.key.id, "a revoked key does not come back"
    assert await store.read(actions) == [*["key.create"] * 4, "key.revoke", "user.create"]


async def test_servers_are_stored_with_encrypted_keys(store: Store, home: Path) -> None:
    master = new_master_key()
    servers = servers_with(store, master)
    await servers.add(OPERATOR, server())
    await servers.add(OPERATOR, server("open", None))
    with pytest.raises(Conflict):
        await servers.add(OPERATOR, server())
    assert sorted(await servers.load(), key=lambda one: one.name) == [server("open", None), server()]
    assert b"sk-sealed" not in content(home)
    assert len(await servers_with(store, new_master_key(), master).load()) == 2
    await servers.remove(OPERATOR, "s")
    with pytest.raises(NotFound):
        await servers.remove(OPERATOR, "s")
    assert await store.read(actions) == ["server.add", "server.add", "server.remove"]


async def test_usage_totals_cover_calendar_days(store: Store) -> None:
    days = [NOON, NOON - DAY, NOON - 6 * DAY, NOON - 7 * DAY, NOON - (MAX_DAYS - 1) * DAY]
    await store.write(insert_batch, [usage(serial, at=at) for serial, at in enumerate(days)])
    reports = UsageReports(store, clock=Noon())
    for days_back, requests in ((1, 1), (2, 2), (7, 3), (8, 4), (MAX_DAYS, 5)):
        (total,) = await reports.totals(days=days_back, group="model")
        assert (total.label, total.requests, total.input_tokens) == ("small", requests, 10 * requests)
    assert len(await reports.totals(days=7, group="day")) == 3


async def test_account_changes_are_audited_with_previous_values(store: Store) -> None:
    notified: list[int] = []
    users = Users(store, clock=Noon(), changed=lambda: notified.append(1), tiers=("free", "pro"))
    user = await users.create(OPERATOR, role="user", email="u@example.com", password_hash="h", tier="free")
    assert (user.tier, user.email_verified_at) == ("free", NOON)
    changed = await users.update(OPERATOR, user.id, UserChanges(tier=None, disabled=True, full_name="U"))
    assert (changed.tier, changed.disabled_at, changed.full_name) == (None, NOON, "U")
    assert await users.get(user.id) == changed
    assert await users.update(OPERATOR, user.id, UserChanges(disabled=True)) == changed
    assert notified, "caches are emptied"
    with pytest.raises(InvalidRequest):
        await users.update(OPERATOR, user.id, UserChanges(tier="golden"))
    with pytest.raises(NotFound):
        await users.update(OPERATOR, "unknown", UserChanges(disabled=False))
    entries = await store.read(details, "user.update")
    assert entries == [
        {
            "before": {"disabled": False, "full_name": "", "tier": "free"},
            "after": {"disabled": True, "full_name": "U", "tier": None},
        }
    ], "changes without effect are not audited"


async def details(connection: Connection, action: str) -> list[object]:
    rows = await connection.all("SELECT detail FROM audit WHERE action = :action ORDER BY seq", action=action)
    return [msgspec.json.decode(row[0]) for row in rows]
