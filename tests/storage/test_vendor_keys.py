"""Keys of users for vendors on both engines."""

from dataclasses import replace

import pytest

from storage import Connection, Store
from storage.base import IntegrityError
from storage.users import delete_user, insert_user
from storage.vendor_keys import (
    VendorKeyRow,
    delete_vendor_key,
    insert_vendor_key,
    select_vendor_key,
    select_vendor_keys,
    update_vendor_key,
)
from tests.storage.samples import NOON, user, uuid7

ADA, BOB = user(1), user(2)
FIRST = VendorKeyRow(
    id=uuid7(NOON, 1),
    user_id=ADA.id,
    vendor="openai",
    sealed_api_key=b"sealed",
    last4="1234",
    mode="first",
    models=("gpt-5",),
    listed=("gpt-5", "gpt-6"),
    problem=None,
    tested_at=NOON,
    created_at=NOON,
    updated_at=NOON,
)
SECOND = replace(FIRST, id=uuid7(NOON, 2), vendor="groq", mode="only", models=(), problem="no credit")


async def fill(connection: Connection) -> None:
    for one in (ADA, BOB):
        await insert_user(connection, one)
    for row in (SECOND, FIRST):
        await insert_vendor_key(connection, row)


async def test_vendor_keys_of_a_user_are_read_in_order(store: Store) -> None:
    await store.write(fill)
    assert list(await store.read(select_vendor_keys, ADA.id)) == [FIRST, SECOND]
    assert list(await store.read(select_vendor_keys, BOB.id)) == []
    assert await store.read(select_vendor_key, ADA.id, FIRST.id) == FIRST
    assert await store.read(select_vendor_key, BOB.id, FIRST.id) is None


async def test_second_key_for_a_vendor_is_rejected(store: Store) -> None:
    await store.write(fill)
    other = replace(FIRST, id=uuid7(NOON, 3))
    with pytest.raises(IntegrityError):
        await store.write(insert_vendor_key, other)
    await store.write(insert_vendor_key, replace(other, user_id=BOB.id))


async def test_update_writes_what_may_change(store: Store) -> None:
    await store.write(fill)
    changed = replace(
        FIRST,
        sealed_api_key=b"other",
        last4="",
        mode="only",
        models=(),
        listed=(),
        problem="models: 503",
        tested_at=NOON + 1,
        updated_at=NOON + 2,
    )
    await store.write(update_vendor_key, changed)
    assert list(await store.read(select_vendor_keys, ADA.id)) == [changed, SECOND]


async def test_vendor_keys_are_deleted_alone_and_with_their_user(store: Store) -> None:
    await store.write(fill)
    await store.write(delete_vendor_key, FIRST.id)
    assert list(await store.read(select_vendor_keys, ADA.id)) == [SECOND]
    await store.write(delete_user, ADA.id)
    assert list(await store.read(select_vendor_keys, ADA.id)) == []
