"""The tables of people, keys, servers, acts and settings."""

from dataclasses import replace

import pytest

from storage import Conflict, Connection, Store
from storage.audit import AuditRow, insert_audit, select_audit
from storage.catalogue import ServerRow, delete_server, insert_server, select_servers, update_server
from storage.keys import (
    KeyHolder,
    KeyUse,
    insert_key,
    revoke_key,
    select_key,
    select_key_by_digest,
    select_keys,
    touch_keys,
)
from storage.members import (
    has_admin,
    insert_user,
    select_user,
    select_user_by_email,
    select_users,
    update_user,
)
from storage.settings import delete_setting, insert_setting, put_setting, select_setting
from tests.storage.samples import NOON, key, user, uuid7

SERVER = ServerRow(
    id=uuid7(serial=1),
    name="alpha",
    dialect="openai",
    url="https://alpha.example/v1",
    sealed_api_key=b"\x00\xff",
    models=("small", "größe"),
    weight=1,
    priority=0,
    enabled=True,
    created_at=NOON,
    updated_at=NOON,
)


async def test_users(store: Store) -> None:
    ada, anonymous, other = user(1, "Ada@Example.org"), user(2), user(3)
    for row in (ada, anonymous, other):
        await store.write(insert_user, row)
    assert not await store.read(has_admin)
    assert await store.read(select_user, ada.id) == ada
    assert await store.read(select_user_by_email, "aDA@example.ORG") == ada
    assert await store.read(select_user_by_email, "nobody@example.org") is None
    assert await store.read(select_users) == [ada, anonymous, other]
    assert await store.read(select_users, ada.id, 1) == [anonymous]

    changed = replace(ada, role="admin", disabled_at=NOON + 1, password_hash="$argon2id$")
    assert await store.write(update_user, changed)
    assert await store.read(select_user, ada.id) == changed
    assert not await store.read(has_admin)  # a disabled one does not count
    assert await store.write(update_user, replace(changed, disabled_at=None))
    assert await store.read(has_admin)
    assert not await store.write(update_user, user(9))


async def test_an_email_is_taken_whatever_its_case(store: Store) -> None:
    await store.write(insert_user, user(1, "ada@example.org"))
    await store.write(insert_user, user(2, "bob@example.org"))
    with pytest.raises(Conflict) as caught:
        await store.write(insert_user, user(3, "ADA@example.org"))
    assert "ada" not in str(caught.value).lower()
    assert "ada" not in str(caught.value.__context__).lower()
    with pytest.raises(Conflict):
        await store.write(update_user, user(2, "Ada@example.org"))


async def test_keys(store: Store) -> None:
    owner, other = user(1), user(2)
    first, second, theirs = key(owner, 1), key(owner, 2), key(other, 3)
    for row in (owner, other):
        await store.write(insert_user, row)
    for secret in (first, second, theirs):
        await store.write(insert_key, secret)
    assert await store.read(select_keys) == [first, second, theirs]
    assert await store.read(select_keys, owner.id) == [first, second]
    assert await store.read(select_key, second.id) == second
    assert await store.read(select_key, "gone") is None
    assert await store.read(select_key_by_digest, first.digest) == KeyHolder(first, "user", None)
    assert await store.read(select_key_by_digest, bytes(32)) is None

    await store.write(update_user, replace(owner, role="admin", disabled_at=NOON))
    assert await store.read(select_key_by_digest, first.digest) == KeyHolder(first, "admin", NOON)


async def test_a_key_needs_an_owner_and_a_digest_of_its_own(store: Store) -> None:
    owner = user(1)
    with pytest.raises(Conflict):
        await store.write(insert_key, key(owner))
    await store.write(insert_user, owner)
    await store.write(insert_key, key(owner, 1))
    with pytest.raises(Conflict):
        await store.write(insert_key, replace(key(owner, 2), digest=key(owner, 1).digest))


async def test_a_key_is_revoked_once_and_by_its_owner_only(store: Store) -> None:
    owner, other = user(1), user(2)
    mine = key(owner)
    for row in (owner, other):
        await store.write(insert_user, row)
    await store.write(insert_key, mine)
    assert not await store.write(revoke_key, other.id, mine.id, NOON)
    assert await store.write(revoke_key, owner.id, mine.id, NOON)
    assert not await store.write(revoke_key, owner.id, mine.id, NOON + 1)
    assert await store.read(select_keys) == [replace(mine, revoked_at=NOON)]


async def test_a_keys_last_use_only_moves_forward(store: Store) -> None:
    owner = user(1)
    mine = key(owner)
    await store.write(insert_user, owner)
    await store.write(insert_key, mine)
    await store.write(touch_keys, [KeyUse(mine.id, 5), KeyUse(mine.id, 3), KeyUse("gone", 9)])
    assert await store.read(select_keys) == [replace(mine, last_used_at=5)]


async def test_servers(store: Store) -> None:
    beta = replace(SERVER, id=uuid7(serial=2), name="beta", sealed_api_key=None, models=(), enabled=False)
    for row in (beta, SERVER):
        await store.write(insert_server, row)
    assert await store.read(select_servers) == [SERVER, beta]
    with pytest.raises(Conflict):
        await store.write(update_server, replace(beta, name="alpha"))
    assert await store.write(update_server, replace(beta, enabled=True, updated_at=NOON + 1))
    assert await store.write(delete_server, "alpha")
    assert not await store.write(delete_server, "alpha")
    assert not await store.write(update_server, SERVER)
    assert await store.read(select_servers) == [replace(beta, enabled=True, updated_at=NOON + 1)]


async def test_an_act_and_its_audit_entry_are_one_transaction(store: Store) -> None:
    async def act(connection: Connection, serial: int) -> None:
        entry = AuditRow(uuid7(serial=serial), NOON + serial // 2, "ada", "server.add", "alpha", "{}", "::1")
        await insert_audit(connection, entry)
        await insert_server(connection, replace(SERVER, id=uuid7(serial=serial), name=f"s{serial}"))

    for serial in range(5):
        await store.write(act, serial)
    with pytest.raises(Conflict):
        await store.write(act, 4)
    page = await store.read(select_audit, (NOON + 9, ""), 3)
    assert [row.id for row in page] == [uuid7(serial=serial) for serial in (4, 3, 2)]
    rest = await store.read(select_audit, (page[-1].at, page[-1].id), 3)
    assert [row.id for row in rest] == [uuid7(serial=serial) for serial in (1, 0)]


async def test_settings(store: Store) -> None:
    assert await store.write(insert_setting, "token", "one")
    assert not await store.write(insert_setting, "token", "two")
    assert await store.read(select_setting, "token") == "one"
    await store.write(put_setting, "token", "three")
    assert await store.read(select_setting, "token") == "three"
    assert await store.write(delete_setting, "token")
    assert not await store.write(delete_setting, "token")
