"""The table of keys: what comes back is what went in, pages, and whose a key is."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from storage import Connection, IntegrityError, Store, open_store
from storage.keys import (
    KeyHolder,
    KeyQuery,
    KeyRow,
    KeyUse,
    count_active_keys,
    count_replaced,
    end_replaced,
    forget_replaced,
    insert_key,
    renew_key,
    replace_digest,
    revoke_key,
    select_key,
    select_key_by_digest,
    select_keys,
    select_replaced,
    touch_keys,
    update_key,
)
from storage.migrate import shipped
from storage.users import insert_user, update_user
from tests.storage.samples import NOON, key, user

NARROW = replace(
    key(user(1)),
    scopes=("models",),
    allowed_models=("gpt-5*", "größe"),
    allowed_ips=("10.0.0.0/8", "2001:db8::/32"),
    allowed_origins=("https://app.example.com",),
    limits=None,
    metadata={"team": "blues\x00\n"},
    expires_at=NOON + 5,
    rotated_at=NOON + 3,
)


async def listed(store: Store, **query: object) -> Sequence[KeyRow]:
    return await store.read(select_keys, KeyQuery(NOON, **query))  # type: ignore[arg-type]


async def test_keys(store: Store) -> None:
    owner, other = user(1), replace(user(2), tier="pro", limits='{"rpm": 5}')
    first, second, theirs = NARROW, key(owner, 2), key(other, 3)
    for row in (owner, other):
        await store.write(insert_user, row)
    for secret in (first, second, theirs):
        await store.write(insert_key, secret)
    assert await listed(store) == [first, second, theirs]
    assert await listed(store, user_id=owner.id) == [first, second]
    assert await store.read(select_key, second.id) == second
    assert await store.read(select_key, "gone") is None
    assert await store.read(select_key_by_digest, first.digest) == KeyHolder(first, None, None, None, None)
    assert await store.read(select_key_by_digest, theirs.digest) == KeyHolder(
        theirs, None, "pro", '{"rpm": 5}', None
    )
    assert await store.read(select_key_by_digest, bytes(32)) is None

    await store.write(update_user, replace(owner, disabled_at=NOON))
    holder = await store.read(select_key_by_digest, first.digest)
    assert holder is not None and holder.user_disabled_at == NOON


async def test_pages_of_active_and_of_ended_keys(store: Store) -> None:
    owner, other = user(1), user(2)
    for row in (owner, other):
        await store.write(insert_user, row)
    active = [key(owner, 1), replace(key(owner, 2), expires_at=NOON + 1), key(owner, 3)]
    ended = [replace(key(owner, 4), revoked_at=1), replace(key(owner, 5), expires_at=NOON)]
    theirs = key(other, 6)
    for secret in (*active, *ended, theirs):
        await store.write(insert_key, secret)
    for owned in (None, owner.id):
        whose = [theirs] if owned is None else []
        assert await listed(store, user_id=owned, active=True) == [*active, *whose]
        assert await listed(store, user_id=owned, active=False) == ended
        assert await listed(store, user_id=owned, limit=2) == active[:2]
        assert await listed(store, user_id=owned, limit=2, after=active[1].id) == [active[2], ended[0]]
    assert await store.read(count_active_keys, owner.id, NOON) == 3
    assert await store.read(count_active_keys, owner.id, NOON + 1) == 2
    assert await store.read(count_active_keys, "nobody", NOON) == 0


async def test_a_key_is_changed_by_its_owner_while_it_is_not_revoked(store: Store) -> None:
    owner, other = user(1), user(2)
    mine = key(owner)
    for row in (owner, other):
        await store.write(insert_user, row)
    await store.write(insert_key, mine)
    assert not await store.write(update_key, replace(NARROW, user_id=other.id))
    assert await listed(store) == [mine]
    assert await store.write(update_key, NARROW)
    assert await listed(store) == [replace(NARROW, rotated_at=None)], "when it was rotated is no setting"
    await store.write(revoke_key, owner.id, mine.id, NOON)
    assert not await store.write(update_key, mine)


async def test_a_key_is_somebodys(store: Store) -> None:
    owner, other = user(1), user(2)
    mine = key(owner)
    for row in (owner, other):
        await store.write(insert_user, row)
    await store.write(insert_key, mine)
    assert await store.read(select_key, mine.id, owner.id) == mine
    assert await store.read(select_key, mine.id, other.id) is None


async def test_a_key_needs_an_owner_and_a_digest_of_its_own(store: Store) -> None:
    owner = user(1)
    with pytest.raises(IntegrityError):
        await store.write(insert_key, key(owner))
    await store.write(insert_user, owner)
    await store.write(insert_key, key(owner, 1))
    with pytest.raises(IntegrityError):
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
    assert await listed(store) == [replace(mine, revoked_at=NOON)]


async def test_a_key_is_found_by_what_it_was_before(store: Store) -> None:
    owner = user(1)
    first, other = key(owner, 1), key(owner, 2)
    await store.write(insert_user, owner)
    for row in (first, other):
        await store.write(insert_key, row)
    second = replace(first, digest=bytes(31) + b"x", prefix="bm_Cd34", last4="abcd", rotated_at=NOON)
    third = replace(second, digest=bytes(31) + b"y")
    for before, after, ends_at in ((first, second, NOON + 9), (second, third, NOON + 5)):
        await store.write(partial(replace_digest, at=NOON, ends_at=ends_at), before.id, before.digest)
        assert await store.write(renew_key, after)
    third = replace(third, previous_until=NOON + 9)
    assert await listed(store) == [third, other]
    for digest, ends_at in ((first.digest, NOON + 9), (second.digest, NOON + 5), (third.digest, None)):
        found = await store.read(select_key_by_digest, digest)
        assert found == KeyHolder(third, None, None, None, ends_at)
    assert set(await store.read(select_replaced, first.id)) == {first.digest, second.digest}
    assert await store.read(select_replaced, other.id) == []

    for ends_at in (NOON + 6, 0):
        await store.write(end_replaced, first.id, ends_at)
        assert (await store.read(select_key, first.id)) == replace(third, previous_until=ends_at or None)
    ended = partial(forget_replaced, but=2)
    for serial, ends_at in enumerate((NOON + 1, 0, NOON, 0)):
        remember = partial(replace_digest, at=NOON + 1 + serial, ends_at=ends_at)
        await store.write(remember, first.id, bytes([serial]) * 32)
    await store.write(partial(replace_digest, at=1, ends_at=1), other.id, b"o" * 32)
    assert await store.read(count_replaced, first.id, NOON) == 1
    await store.write(ended, first.id, NOON)
    assert set(await store.read(select_replaced, first.id)) == {b"\0" * 32, b"\2" * 32, b"\3" * 32}
    assert await store.read(select_replaced, other.id) == [b"o" * 32]
    await store.write(revoke_key, owner.id, first.id, NOON)
    assert not await store.write(renew_key, first)


async def test_a_keys_last_use_only_moves_forward(store: Store) -> None:
    owner = user(1)
    mine = key(owner)
    await store.write(insert_user, owner)
    await store.write(insert_key, mine)
    await store.write(touch_keys, [KeyUse(mine.id, 5), KeyUse(mine.id, 3), KeyUse("gone", 9)])
    assert await listed(store) == [replace(mine, last_used_at=5)]


async def test_limits_of_older_keys_move_into_one_object(url: str, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    for file in shipped().iterdir():
        if file.name < "0003":
            (older / file.name).write_bytes(file.read_bytes())

    async def insert(connection: Connection, serial: int, rpm: int | None, concurrency: int | None) -> None:
        await connection.execute(
            """
            INSERT INTO api_keys (id, user_id, name, digest, prefix, last4, rpm, concurrency, created_at)
            VALUES (:id, :owner, 'old', :digest, 'bm_Ab12', 'wxyz', :rpm, :concurrency, 0)
            """,
            id=str(serial),
            owner=user(1).id,
            digest=bytes([serial]),
            rpm=rpm,
            concurrency=concurrency,
        )

    async with open_store(url, schema=older) as store:
        await store.write(insert_user, user(1))
        for serial, figures in enumerate([(5, 2), (5, 0), (None, 2), (0, 0), (None, None)]):
            await store.write(insert, serial, *figures)
    async with open_store(url) as store:
        rows = await listed(store)
    found = [None if row.limits is None else json.loads(row.limits) for row in rows]
    assert found == [{"rpm": 5, "concurrency": 2}, {"rpm": 5}, {"concurrency": 2}, None, None]
    assert {(row.scopes, row.allowed_ips, row.rotated_at) for row in rows} == {(None, None, None)}
    assert all(row.metadata == {} for row in rows)
