"""The table of keys: rows, pages and owners."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from storage import Connection, IntegrityError, Store
from storage.keys import (
    SELECT_HOLDER,
    SELECT_ORIGINS,
    KeyHolder,
    KeyQuery,
    KeyRow,
    KeyUse,
    count_active_keys,
    insert_key,
    select_allowed_origins,
    select_key,
    select_key_by_digest,
    select_keys,
    touch_keys,
    update_key,
)
from storage.store import open_store
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


async def test_key_inserted_is_read_back(store: Store) -> None:
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


async def test_key_pages_active_and_ended_are_separate(store: Store) -> None:
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
    assert await store.read(count_active_keys, "unknown", NOON) == 0


async def test_key_update_needs_its_owner_and_no_revocation(store: Store) -> None:
    owner, other = user(1), user(2)
    mine = key(owner)
    for row in (owner, other):
        await store.write(insert_user, row)
    await store.write(insert_key, mine)
    assert not await store.write(update_key, replace(NARROW, user_id=other.id))
    assert await listed(store) == [mine]
    assert await store.write(update_key, NARROW)
    assert await listed(store) == [NARROW]
    revoked = replace(mine, revoked_at=NOON)
    assert await store.write(update_key, revoked)
    assert not await store.write(update_key, replace(mine, revoked_at=NOON + 1))
    assert await listed(store) == [revoked]


async def test_key_of_another_user_is_not_found(store: Store) -> None:
    owner, other = user(1), user(2)
    mine = key(owner)
    for row in (owner, other):
        await store.write(insert_user, row)
    await store.write(insert_key, mine)
    assert await store.read(select_key, mine.id, owner.id) == mine
    assert await store.read(select_key, mine.id, other.id) is None


async def test_key_without_owner_or_with_known_digest_is_rejected(store: Store) -> None:
    owner = user(1)
    with pytest.raises(IntegrityError):
        await store.write(insert_key, key(owner))
    await store.write(insert_user, owner)
    await store.write(insert_key, key(owner, 1))
    with pytest.raises(IntegrityError):
        await store.write(insert_key, replace(key(owner, 2), digest=key(owner, 1).digest))


async def test_key_previous_secret_has_its_own_end(store: Store) -> None:
    owner = user(1)
    first, other = key(owner, 1), key(owner, 2)
    await store.write(insert_user, owner)
    for row in (first, other):
        await store.write(insert_key, row)
    rotated = replace(
        first,
        digest=b"x" * 32,
        prefix="bm_Cd34",
        last4="abcd",
        rotated_at=NOON,
        previous_digest=first.digest,
        previous_until=NOON + 9,
    )
    assert await store.write(update_key, rotated)
    assert await listed(store) == [rotated, other]
    for digest, ends_at in ((rotated.digest, None), (first.digest, NOON + 9)):
        holder = KeyHolder(rotated, None, None, None, ends_at)
        assert await store.read(select_key_by_digest, digest) == holder
    ended = replace(rotated, previous_until=None)
    assert await store.write(update_key, ended)
    assert await store.read(select_key_by_digest, first.digest) == KeyHolder(ended, None, None, None, 0)
    assert await store.write(update_key, replace(ended, digest=b"y" * 32, previous_digest=b"x" * 32))
    assert await store.read(select_key_by_digest, first.digest) is None


async def test_key_lookup_by_digest_uses_both_indexes(sqlite_url: str) -> None:
    async def plan(connection: Connection) -> str:
        return str(await connection.all("EXPLAIN QUERY PLAN " + SELECT_HOLDER, digest=b""))

    async with open_store(sqlite_url) as store:
        steps = await store.read(plan)
    assert "api_keys_digest" in steps and "api_keys_previous_digest" in steps and "SCAN" not in steps


async def test_allowed_origins_are_those_of_active_keys(store: Store) -> None:
    owner = user(1)
    await store.write(insert_user, owner)
    for number, (origins, ended) in enumerate(
        (
            (("https://a", "https://b"), {}),
            (("https://b", "https://c"), {"expires_at": NOON + 1}),
            (("https://d",), {"expires_at": NOON}),
            (("https://e",), {"revoked_at": 1}),
            (None, {}),
        )
    ):
        await store.write(insert_key, replace(key(owner, number), allowed_origins=origins, **ended))
    expected = {"https://a", "https://b", "https://c"}
    assert await store.read(select_allowed_origins, NOON) == expected


async def test_allowed_origins_are_read_from_an_index(sqlite_url: str) -> None:
    async def plan(connection: Connection) -> str:
        return str(await connection.all("EXPLAIN QUERY PLAN " + SELECT_ORIGINS, now=0))

    async with open_store(sqlite_url) as store:
        assert "USING INDEX api_keys_origins" in await store.read(plan)


async def test_key_last_use_only_moves_forward(store: Store) -> None:
    owner = user(1)
    mine = key(owner)
    await store.write(insert_user, owner)
    await store.write(insert_key, mine)
    await store.write(touch_keys, [KeyUse(mine.id, 5), KeyUse(mine.id, 3), KeyUse("gone", 9)])
    assert await listed(store) == [replace(mine, last_used_at=5)]
