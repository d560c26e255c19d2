"""Stored responses, and objects at servers."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from storage import IntegrityError, Store
from storage.responses import (
    MAX_TURNS,
    StoredConversation,
    StoredResponseRow,
    delete_expired_responses,
    delete_response,
    delete_responses_above,
    insert_response,
    select_accounts_above,
    select_conversation,
    select_response,
    select_with_items,
)
from storage.server_objects import (
    ServerObjectRow,
    delete_expired_objects,
    delete_object,
    has_objects,
    insert_objects,
    select_objects,
)
from storage.users import delete_user, insert_user
from tests.storage.samples import NOON, user, uuid7

ADA, BOB = user(1), user(2)
DAY = 86_400_000


def response(
    serial: int, *, previous: int | None = None, owner: str = ADA.id, **more: int
) -> StoredResponseRow:
    made = StoredResponseRow(
        id=f"resp_{serial}",
        user_id=owner,
        key_id=uuid7(serial=7),
        previous_id=None if previous is None else f"resp_{previous}",
        sealed=b"\x00\xff%d" % serial,
        size=100,
        created_at=NOON + serial,
        expires_at=NOON + DAY,
    )
    return replace(made, **more)


def server_object(name: str, **more: object) -> ServerObjectRow:
    made = ServerObjectRow(
        id=name,
        server="alpha",
        kind="files",
        user_id=ADA.id,
        key_id=uuid7(serial=7),
        created_at=NOON,
        expires_at=None,
    )
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
async def accounts(store: Store) -> Store:
    await store.write(insert_user, ADA)
    await store.write(insert_user, BOB)
    return store


async def store_response(
    store: Store, row: StoredResponseRow, *items: str, continued: Sequence[str] = ()
) -> None:
    await store.write(insert_response, row, items, continued)


async def test_response_inserted_is_read_by_its_account_only(accounts: Store) -> None:
    row = response(1)
    await store_response(accounts, row)
    assert await accounts.read(select_response, row.id, ADA.id, NOON) == row
    assert await accounts.read(select_response, row.id, BOB.id, NOON) is None
    assert await accounts.read(select_response, row.id, ADA.id, row.expires_at) is None
    assert not await accounts.write(delete_response, row.id, BOB.id)
    assert await accounts.write(delete_response, row.id, ADA.id)
    assert not await accounts.write(delete_response, row.id, ADA.id)


async def test_response_with_a_taken_id_is_a_conflict(accounts: Store) -> None:
    await store_response(accounts, response(1))
    with pytest.raises(IntegrityError):
        await store_response(accounts, response(1, owner=BOB.id))
    with pytest.raises(IntegrityError):
        await store_response(accounts, response(2, owner=uuid7(serial=9)))


async def test_conversation_continued_is_read_oldest_first(accounts: Store) -> None:
    rows = [response(1), response(2, previous=1), response(3, previous=2), response(4, previous=1)]
    for row in rows:
        await store_response(accounts, row)
    found = await accounts.read(select_conversation, "resp_3", ADA.id, NOON, 300)
    assert (found.rows, found.too_long) == (rows[:3], False)
    found = await accounts.read(select_conversation, "resp_4", ADA.id, NOON, 300)
    assert found.rows == [rows[0], rows[3]]
    found = await accounts.read(select_conversation, "resp_3", ADA.id, NOON, 299)
    assert found == StoredConversation((), too_long=True)
    for response_id, owner in (("resp_3", BOB.id), ("resp_9", ADA.id)):
        found = await accounts.read(select_conversation, response_id, owner, NOON, 300)
        assert found == StoredConversation(())


async def test_conversation_with_a_deleted_response_is_missing(accounts: Store) -> None:
    for row in (response(1), response(2, previous=1), response(3, previous=2)):
        await store_response(accounts, row)
    await accounts.write(delete_response, "resp_1", ADA.id)
    found = await accounts.read(select_conversation, "resp_3", ADA.id, NOON, 300)
    assert found == StoredConversation(())


async def test_conversation_never_includes_the_response_of_another_account(accounts: Store) -> None:
    await store_response(accounts, response(1))
    later = response(2, previous=1, owner=BOB.id, expires_at=NOON + 2 * DAY)
    await store_response(accounts, later, continued=["resp_1"])
    found = await accounts.read(select_conversation, "resp_2", BOB.id, NOON, 300)
    assert found == StoredConversation(())
    row = await accounts.read(select_response, "resp_1", ADA.id, NOON)
    assert row is not None and row.expires_at == NOON + DAY


async def test_response_continued_is_kept_as_long_as_the_later_one(accounts: Store) -> None:
    later = NOON + 3 * DAY
    await store_response(accounts, response(1))
    await store_response(accounts, response(2, previous=1), continued=["resp_1"])
    await store_response(accounts, response(4, previous=1), continued=["resp_1"])
    await store_response(accounts, response(3, previous=2, expires_at=later), continued=["resp_1", "resp_2"])
    assert await accounts.write(delete_expired_responses, NOON + DAY, 100) == 1
    found = await accounts.read(select_conversation, "resp_3", ADA.id, NOON + DAY, 300)
    assert [row.expires_at for row in found.rows] == [later, later, later]


async def test_item_is_found_in_the_responses_of_its_account(accounts: Store) -> None:
    rows = [response(1), response(2), response(3)]
    for row, items in zip(rows, (["msg_a", "msg_b", "msg_a"], ["msg_b"], ["msg_c"]), strict=True):
        await store_response(accounts, row, *items)
    await store_response(accounts, response(9, owner=BOB.id), "msg_b")
    found = await accounts.read(select_with_items, ["msg_b", "msg_x"], ADA.id, NOON, 200)
    assert found == StoredConversation(rows[:2])
    found = await accounts.read(select_with_items, ["msg_b", "msg_x"], ADA.id, NOON, 199)
    assert found == StoredConversation((), too_long=True)
    await accounts.write(delete_response, "resp_1", ADA.id)
    found = await accounts.read(select_with_items, ["msg_a"], ADA.id, NOON, 200)
    assert found == StoredConversation([])


async def test_conversation_of_a_cycle_ends(accounts: Store) -> None:
    await store_response(accounts, response(1, previous=1))
    found = await accounts.read(select_conversation, "resp_1", ADA.id, NOON, 100 * MAX_TURNS)
    assert found == StoredConversation((), too_long=True)


async def test_expired_responses_are_deleted_in_parts(accounts: Store) -> None:
    for serial in range(5):
        await store_response(accounts, response(serial, expires_at=NOON + serial))
    assert await accounts.write(delete_expired_responses, NOON + 3, 3) == 3
    assert await accounts.write(delete_expired_responses, NOON + 3, 3) == 1
    assert await accounts.write(delete_expired_responses, NOON + 3, 3) == 0
    assert await accounts.read(select_response, "resp_4", ADA.id, NOON) is not None


async def test_account_above_its_size_loses_its_oldest_responses(accounts: Store) -> None:
    for serial in range(5):
        await store_response(accounts, response(serial))
    await store_response(accounts, response(9, owner=BOB.id))
    assert await accounts.read(select_accounts_above, 499) == [ADA.id]
    assert await accounts.read(select_accounts_above, 500) == []
    assert await accounts.write(delete_responses_above, ADA.id, 250) == 3
    assert await accounts.read(select_response, "resp_2", ADA.id, NOON) is None
    assert await accounts.read(select_response, "resp_3", ADA.id, NOON) is not None
    assert await accounts.read(select_response, "resp_9", BOB.id, NOON) is not None


async def test_object_inserted_is_read_with_its_account(accounts: Store) -> None:
    rows = [server_object("file-1"), server_object("file-2", kind="batches", expires_at=NOON + 9)]
    assert await accounts.write(insert_objects, rows) == []
    assert await accounts.write(insert_objects, rows) == []
    assert await accounts.read(select_objects, ["file-2", "file-1", "file-3"], NOON) == rows
    assert await accounts.read(select_objects, ["file-2", "file-1"], NOON + 9) == rows[:1]
    assert await accounts.read(select_objects, [], NOON) == []
    assert await accounts.read(has_objects, ADA.id, "alpha", "files")
    assert not await accounts.read(has_objects, ADA.id, "alpha", "videos")
    assert not await accounts.read(has_objects, BOB.id, "alpha", "files")
    assert await accounts.write(delete_expired_objects, NOON + 9) == 1
    assert not await accounts.write(delete_object, "file-1", "alpha", BOB.id)
    assert not await accounts.write(delete_object, "file-1", "beta", ADA.id)
    assert await accounts.write(delete_object, "file-1", "alpha", ADA.id)


async def test_object_of_another_account_is_not_taken_over(accounts: Store) -> None:
    await accounts.write(insert_objects, [server_object("file-1")])
    taken, new = server_object("file-1", user_id=BOB.id), server_object("file-2", user_id=BOB.id)
    elsewhere = server_object("file-1", user_id=BOB.id, server="beta")
    assert await accounts.write(insert_objects, [taken, new, elsewhere]) == ["file-1"]
    found = await accounts.read(select_objects, ["file-1", "file-2"], NOON)
    assert [(row.id, row.server, row.user_id) for row in found] == [
        ("file-1", "alpha", ADA.id),
        ("file-1", "beta", BOB.id),
        ("file-2", "alpha", BOB.id),
    ]


async def test_user_deleted_leaves_no_response_and_objects_without_account(accounts: Store) -> None:
    await store_response(accounts, response(1))
    await accounts.write(insert_objects, [server_object("file-1")])
    await accounts.write(delete_user, ADA.id)
    assert await accounts.read(select_response, "resp_1", ADA.id, NOON) is None
    (row,) = await accounts.read(select_objects, ["file-1"], NOON)
    assert row.user_id is None
    assert await accounts.write(insert_objects, [server_object("file-1", user_id=BOB.id)]) == ["file-1"]
