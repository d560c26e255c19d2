"""Mails that wait to be sent, on both engines."""

from dataclasses import replace

from storage import Store
from storage.mail_outbox import (
    OutboxRow,
    claim_mail,
    count_mails,
    delay_mail,
    delete_mail,
    insert_mail,
)
from tests.storage.samples import NOON, uuid7

FIRST = OutboxRow(uuid7(NOON, 1), "invite", b"sealed", False, 1, 0, NOON, NOON + 9, NOON)
SECOND = replace(FIRST, id=uuid7(NOON, 2), priority=0)
DECOY = replace(FIRST, id=uuid7(NOON, 3), decoy=True, due_at=NOON + 5)


async def test_mails_are_claimed_by_priority_and_again_after_a_pause(store: Store) -> None:
    for row in (FIRST, SECOND, DECOY):
        assert await store.write(insert_mail, row, 3)
    assert await store.read(count_mails) == (2, NOON)
    assert await store.write(claim_mail, NOON, [10, 20]) == SECOND
    assert await store.write(claim_mail, NOON, [10, 20]) == FIRST
    assert await store.write(claim_mail, NOON, [10, 20]) is None
    assert await store.read(count_mails) == (2, NOON + 5)
    assert await store.write(claim_mail, NOON + 5, [10, 20]) == DECOY
    await store.write(delete_mail, DECOY.id)
    again = replace(SECOND, attempts=1, due_at=NOON + 10)
    assert await store.write(claim_mail, NOON + 10, [10, 20]) == again
    await store.write(delete_mail, FIRST.id)
    assert await store.read(count_mails) == (1, NOON + 30)
    third = await store.write(claim_mail, NOON + 30, [10, 20])
    assert third is not None and third.attempts == 2
    assert await store.read(count_mails) == (1, NOON + 50), "the last pause is repeated"


async def test_mail_that_does_not_fit_is_not_inserted(store: Store) -> None:
    assert await store.write(insert_mail, FIRST, 1)
    assert not await store.write(insert_mail, SECOND, 1)
    assert await store.read(count_mails) == (1, NOON)


async def test_delayed_mail_is_never_due_earlier(store: Store) -> None:
    await store.write(insert_mail, FIRST, 1)
    await store.write(delay_mail, FIRST.id, NOON + 7)
    await store.write(delay_mail, FIRST.id, NOON + 3)
    assert await store.read(count_mails) == (1, NOON + 7)
