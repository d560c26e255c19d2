"""Requests of a crashed process are charged their cost, as far as the prepaid credit lasts."""

from dataclasses import replace

import pytest

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry, Ledger
from storage import Store
from storage.open_requests import open_request, settle_open_requests, store_open_requests
from storage.usage import UsageRow, insert_batch
from tests.storage.samples import NOON, all_usage, usage
from tests.storage.test_ledger import FixedClock, with_users


def crashed(serial: int, cost: int, *, user_id: str = "user-1", prepaid: bool = True) -> UsageRow:
    row = usage(serial, at=NOON + serial, user_id=user_id, cost_nano=cost, outcome="crashed")
    return replace(row, charged_nano=cost if prepaid else None)


async def credited(store: Store, nano: int, *user_ids: str) -> Ledger:
    store.chain_key = b"key"
    await store.write(with_users)
    ledger = Ledger(store, clock=FixedClock())
    for user_id in user_ids:
        await ledger.post(OPERATOR, user_id, CreditEntry("topup", nano))
    return ledger


@pytest.mark.parametrize(
    ("credit", "charges"),
    [(100, [40, 50, None]), (90, [40, 50, None]), (70, [40, 30, None]), (40, [40, 0, None])],
)
async def test_crashed_requests_are_charged_what_the_credit_covers(
    store: Store, credit: int, charges: list[int | None]
) -> None:
    ledger = await credited(store, credit, "user-1", "user-2")
    rows = [crashed(1, 40), crashed(2, 50), crashed(3, 60, prepaid=False)]
    other = crashed(4, 7, user_id="user-2")
    await store.write(store_open_requests, [open_request(row) for row in (*reversed(rows), other)])
    assert await store.write(settle_open_requests) == 4
    assert await store.write(settle_open_requests) == 0
    settled = {row.id: row for row in await store.read(all_usage)}
    assert [settled[row.id].charged_nano for row in rows] == charges
    assert [settled[row.id].cost_nano for row in rows] == [40, 50, 60]
    assert settled[other.id].charged_nano == 7
    wallet = await ledger.balance("user-1")
    assert wallet is not None
    assert wallet.balance_nano == credit - sum(one or 0 for one in charges)
    assert (await ledger.verify()).problem is None


async def test_crashed_request_is_charged_nothing_by_an_overdrawn_wallet(store: Store) -> None:
    ledger = await credited(store, 10, "user-1")
    await ledger.post(OPERATOR, "user-1", CreditEntry("adjustment", -30))
    row = crashed(1, 40)
    await store.write(store_open_requests, [open_request(row)])
    assert await store.write(settle_open_requests) == 1
    (settled,) = await store.read(all_usage)
    assert (settled.cost_nano, settled.charged_nano) == (40, 0)
    wallet = await ledger.balance("user-1")
    assert wallet is not None
    assert wallet.balance_nano == -20
    assert (await ledger.verify()).problem is None


async def test_request_that_was_settled_before_the_crash_is_not_charged_again(store: Store) -> None:
    ledger = await credited(store, 100, "user-1")
    row = crashed(1, 40)
    await store.write(store_open_requests, [open_request(row)])
    await store.write(insert_batch, [replace(row, outcome="ok")])
    assert await store.write(settle_open_requests) == 0
    wallet = await ledger.balance("user-1")
    assert wallet is not None
    assert wallet.balance_nano == 60
