"""New costs of settled requests, on both engines: posted once, and proven by the ledger."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesminds.accounts import repricing
from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry, Ledger
from bluesminds.accounts.repricing import Repricing, RepricingQuery, RepricingResult
from bluesminds.common.prices import NewCost
from storage import Store
from storage.base import Connection
from storage.usage import DAY, UsageRow, insert_batch
from storage.usage_stats import StatsQuery, select_stats
from tests.storage.samples import NOON, usage
from tests.storage.store_thread import StoreThread
from tests.storage.test_ledger import USERS, FixedClock, with_users
from tests.storage.test_statements import clear

CREDIT = 10**6
COSTS = st.none() | st.integers(0, 50)
REQUESTS = st.lists(
    st.tuples(st.sampled_from(USERS), COSTS, st.booleans(), st.sampled_from(("ok", "stopped"))), max_size=8
)
PRICES = st.lists(st.lists(st.none() | st.integers(0, 50), min_size=8, max_size=8), min_size=1, max_size=4)


async def clear_all(connection: Connection) -> None:
    for table in ("hourly", "daily", "site_hourly", "site_daily", "key_daily", "adjustments"):
        await connection.execute(f"DELETE FROM usage_{table}")  # type: ignore[arg-type] # noqa: S608
    await clear(connection)
    await with_users(connection)


@settings(max_examples=25)
@given(requests=REQUESTS, prices=PRICES, page=st.integers(1, 9))
def test_any_sequence_of_prices_is_posted_once_and_proven(
    thread: StoreThread, requests: list[Any], prices: list[Any], page: int
) -> None:
    thread.call(thread.store.write, clear_all)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repricing, "ROWS_PER_PAGE", page)
        thread.call(reprice_all, thread.store, requests, prices)


async def reprice_all(store: Store, requests: list[Any], prices: list[Any]) -> None:
    clock = FixedClock()
    ledger = Ledger(store, clock=clock)
    for user_id in USERS:
        await ledger.post(OPERATOR, user_id, CreditEntry("topup", CREDIT))
    rows = [
        usage(
            number,
            at=NOON + number % 3,
            user_id=user_id,
            cost_nano=cost,
            charged_nano=(cost or 0) if prepaid else None,
            outcome=outcome,
        )
        for number, (user_id, cost, prepaid, outcome) in enumerate(requests)
    ]
    rows = [replace(row, price_version="" if row.cost_nano is None else "first") for row in rows]
    await store.write(insert_batch, rows)
    current = {row.id: row.cost_nano for row in rows}
    repriced = Repricing(store, ledger, clock=clock)
    for version, costs in enumerate(prices):
        new = {row.id: cost for row, cost in zip(rows, costs, strict=False)}
        expected = {
            row.id: (
                new[row.id]
                if row.outcome == "ok" or current[row.id] is None
                else min(new[row.id], current[row.id])
            )
            for row in rows
            if new[row.id] is not None
        }
        changed = {id_: cost for id_, cost in expected.items() if cost != current[id_]}
        dry = await run(repriced, new, str(version), dry_run=True)
        done = await run(repriced, new, str(version))
        assert (dry.changed, done.changed, dry.accounts) == (len(changed), len(changed), done.accounts)
        assert done.skipped == sum(cost is None for cost in new.values())
        again = await run(repriced, new, str(version))
        assert (again.changed, again.accounts) == (0, {})
        current |= changed
        await check_books(store, ledger, rows, current)


async def check_books(
    store: Store, ledger: Ledger, rows: list[UsageRow], current: Mapping[str, int | None]
) -> None:
    proof = await ledger.verify()
    assert proof.problem is None
    for user_id in USERS:
        paid = sum(
            current[row.id] or 0 for row in rows if row.user_id == user_id and row.charged_nano is not None
        )
        wallet = await ledger.balance(user_id)
        assert wallet is not None and wallet.balance_nano == CREDIT - paid
    start = NOON - NOON % DAY
    for groups, since in (
        ((), start),
        (("key",), start),
        (("model",), start),
        (("hour",), start),
        (("user", "model"), start),
    ):
        found = await store.read(select_stats, StatsQuery(since, start + DAY, groups))  # type: ignore[arg-type]
        assert sum(row.cost_nano for row in found) == sum(cost or 0 for cost in current.values())
        assert sum(row.unpriced for row in found) == sum(cost is None for cost in current.values())


async def run(
    repriced: Repricing, costs: Mapping[str, int | None], version: str, *, dry_run: bool = False
) -> RepricingResult:
    def find(row: UsageRow) -> NewCost | None:
        nano = costs[row.id]
        return None if nano is None else NewCost(nano, version)

    total = RepricingResult()
    query = RepricingQuery(NOON, NOON + DAY, dry_run=dry_run)
    while True:
        found = await repriced.run(OPERATOR, query, find)
        total.requests += found.requests
        total.changed += found.changed
        total.skipped += found.skipped
        for user_id, one in found.accounts.items():
            sums = total.accounts.setdefault(user_id, repricing.AccountDifference())
            sums.requests += one.requests
            sums.before += one.before
            sums.after += one.after
            sums.credit += one.credit
        if found.next is None:
            return total
        query = RepricingQuery(NOON, NOON + DAY, after=found.next, dry_run=dry_run)


async def test_limits_are_told_of_the_credit_and_of_its_last_revision(store: Store) -> None:
    store.chain_key = b"key"
    await store.write(with_users)
    clock = FixedClock()
    ledger = Ledger(store, clock=clock)
    await ledger.post(OPERATOR, "user-1", CreditEntry("topup", 100))
    rows = [replace(usage(n, cost_nano=10, charged_nano=10), price_version="first") for n in range(2)]
    await store.write(insert_batch, rows)
    seen: list[tuple[str, int, int]] = []
    ledger.subscribe(lambda *change: seen.append(change))
    query = RepricingQuery(NOON, NOON + 1)
    await Repricing(store, ledger, clock=clock).run(OPERATOR, query, lambda _: NewCost(4, "second"))
    assert seen == [("user-1", 12, 3)]
    other = RepricingQuery(NOON, NOON + 1, model="other")
    found = await Repricing(store, ledger, clock=clock).run(OPERATOR, other, lambda _: NewCost(5, "third"))
    assert (found.requests, found.changed) == (0, 0)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM usage_adjustments", "no changed cost matches"),
        ("UPDATE usage_adjustments SET posted_nano = 1", "is missing or has another amount"),
    ],
)
async def test_verification_finds_an_adjustment_that_differs_from_its_entry(
    store: Store, statement: Any, problem: str
) -> None:
    store.chain_key = b"key"
    await store.write(with_users)
    clock = FixedClock()
    ledger = Ledger(store, clock=clock)
    await ledger.post(OPERATOR, "user-1", CreditEntry("topup", 100))
    await store.write(insert_batch, [replace(usage(1, cost_nano=9, charged_nano=9), price_version="first")])
    query = RepricingQuery(NOON, NOON + 1)
    await Repricing(store, ledger, clock=clock).run(OPERATOR, query, lambda _: NewCost(12, "second"))
    assert (await ledger.verify()).problem is None

    async def change(connection: Connection) -> None:
        await connection.execute(statement)

    await store.write(change)
    assert problem in ((await ledger.verify()).problem or "")
