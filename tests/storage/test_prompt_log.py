"""Rows of the prompt log on both engines."""

import pytest

from storage import Connection, Store
from storage.base import IntegrityError
from storage.prompt_log import (
    PromptQuery,
    PromptRow,
    delete_old_prompts,
    delete_prompt,
    delete_prompts_above,
    delete_prompts_of,
    insert_prompts,
    select_prompt,
    select_prompt_accounts_above,
    select_prompts,
)
from storage.usage import insert_batch
from storage.users import delete_user, insert_user
from tests.storage.samples import NOON, usage, user, uuid7

ADA, BOB = user(1), user(2)


def prompt(serial: int, owner: str = ADA.id, **more: str) -> PromptRow:
    at = NOON + serial
    fields = {"key_id": "key-1", "model": "small"} | more
    return PromptRow(
        id=uuid7(at, serial),
        user_id=owner,
        at=at,
        endpoint="chat.completions",
        sealed_preview=b"p%d" % serial,
        sealed=b"s%d" % serial,
        size=100,
        **fields,
    )


async def ids(store: Store, query: PromptQuery) -> list[int]:
    return [row.at - NOON for row in await store.read(select_prompts, query)]


async def put(store: Store, *rows: PromptRow) -> None:
    async def insert(connection: Connection) -> None:
        for one in (ADA, BOB):
            await insert_user(connection, one)

    await store.write(insert)
    await store.write(insert_prompts, rows)


async def test_rows_are_listed_by_filter_newest_first(store: Store) -> None:
    await put(
        store,
        prompt(1),
        prompt(2, model="large"),
        prompt(3, key_id="key-2"),
        prompt(4, BOB.id),
        prompt(5),
    )
    assert await ids(store, PromptQuery(10)) == [5, 4, 3, 2, 1]
    assert await ids(store, PromptQuery(10, user_id=ADA.id)) == [5, 3, 2, 1]
    assert await ids(store, PromptQuery(2, user_id=ADA.id)) == [5, 3]
    assert await ids(store, PromptQuery(2, user_id=ADA.id, before=prompt(3).id)) == [2, 1]
    assert await ids(store, PromptQuery(10, model="large")) == [2]
    assert await ids(store, PromptQuery(10, key_id="key-2")) == [3]
    assert await ids(store, PromptQuery(10, since=prompt(4).id)) == [5, 4]


async def test_list_has_the_figures_of_the_usage_row(store: Store) -> None:
    await put(store, prompt(1))
    (before,) = await store.read(select_prompts, PromptQuery(1))
    assert (before.status, before.outcome, before.cost_nano) == (None, None, None)
    row = usage(1, at=NOON + 1)
    await store.write(insert_batch, [row])
    await store.write(insert_prompts, [PromptRow(row.id, ADA.id, "k", row.at, "e", "m", b"", b"x", 1)])
    found = {one.id: one for one in await store.read(select_prompts, PromptQuery(5))}
    assert (found[row.id].status, found[row.id].outcome) == (row.status, row.outcome)
    assert found[row.id].duration_ms == row.duration_ms


async def test_row_that_is_inserted_twice_is_kept_once(store: Store) -> None:
    await put(store, prompt(1))
    await store.write(insert_prompts, [prompt(1), prompt(2)])
    assert await ids(store, PromptQuery(10)) == [2, 1]


async def test_row_is_read_and_deleted_only_for_its_user(store: Store) -> None:
    await put(store, prompt(1))
    one = prompt(1)
    assert await store.read(select_prompt, one.id, ADA.id) == one
    assert await store.read(select_prompt, one.id, None) == one
    assert await store.read(select_prompt, one.id, BOB.id) is None
    assert not await store.write(delete_prompt, one.id, BOB.id)
    assert await store.write(delete_prompt, one.id, ADA.id)
    assert not await store.write(delete_prompt, one.id, None)


async def test_deletion_by_user_age_and_size_spares_other_rows(store: Store) -> None:
    await put(store, *(prompt(n) for n in range(1, 6)), prompt(6, BOB.id))
    assert await store.write(delete_prompts_above, ADA.id, 450) == 1
    assert await store.read(select_prompt_accounts_above, 399) == [ADA.id]
    assert await store.write(delete_old_prompts, prompt(4).id, 1) == 1
    assert await store.write(delete_old_prompts, prompt(4).id, 10) == 1
    assert await ids(store, PromptQuery(10)) == [6, 5, 4]
    assert await store.write(delete_prompts_of, ADA.id, 1) == 1
    assert await store.write(delete_prompts_of, ADA.id, 10) == 1
    assert await ids(store, PromptQuery(10)) == [6]


async def test_rows_are_deleted_with_their_account(store: Store) -> None:
    await put(store, prompt(1), prompt(2, BOB.id))
    await store.write(delete_user, ADA.id)
    assert await ids(store, PromptQuery(10)) == [2]
    with pytest.raises(IntegrityError):
        await store.write(insert_prompts, [prompt(3)])
