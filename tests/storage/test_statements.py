"""Monthly statements on both engines: they agree with the ledger for any entries."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesminds.accounts import statements
from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry, Ledger
from bluesminds.accounts.statements import StatementLine, Statements
from storage import Store
from storage.base import Connection
from storage.usage import insert_batch
from tests.storage.samples import usage
from tests.storage.store_thread import StoreThread
from tests.storage.test_ledger import USERS, FixedClock, with_users

MONTHS = ("2026-12", "2027-01", "2027-02", "2027-03")
STARTS = [int(datetime.fromisoformat(f"{month}-01T00:00:00Z").timestamp()) * 1000 for month in MONTHS]
TIMES = st.one_of(
    st.integers(STARTS[0], STARTS[-1] - 1),
    st.sampled_from([start + step for start in STARTS[1:] for step in (-1, 0)]),
)
AMOUNTS = st.integers(1, 10**12)
POSTED = st.tuples(
    st.sampled_from(("topup", "grant", "refund", "adjustment", "charge")),
    st.sampled_from(USERS),
    AMOUNTS,
    TIMES,
)


async def clear(connection: Connection) -> None:
    await connection.execute("DELETE FROM usage")
    await connection.execute("DELETE FROM ledger")
    await connection.execute("DELETE FROM wallets")
    await connection.execute("DELETE FROM users")
    await connection.execute("UPDATE chain_heads SET seq = 0, hash = '' WHERE chain = 'ledger'")


@settings(max_examples=25)
@given(entries=st.lists(POSTED, max_size=12), page=st.integers(1, 4))
def test_statement_of_each_month_continues_the_one_before(
    thread: StoreThread, entries: list[Any], page: int
) -> None:
    async def check(store: Store) -> None:
        await store.write(clear)
        await store.write(with_users)
        clock = await post_all(store, entries)
        for user_id in USERS:
            await check_user(store, clock, user_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statements, "ENTRIES_PER_PAGE", page)
        thread.call(check, thread.store)


async def post_all(store: Store, entries: Sequence[Any]) -> FixedClock:
    clock = FixedClock()
    ledger = Ledger(store, clock=clock)
    for number, (kind, user_id, amount, at) in enumerate(entries):
        clock.now = at
        if kind == "charge":
            row = usage(number, at=at, user_id=user_id, cost_nano=amount, charged_nano=amount)
            await store.write(insert_batch, [row])
        else:
            await ledger.post(OPERATOR, user_id, CreditEntry(kind, amount, key=f"key-{number}"))
    return clock


async def check_user(store: Store, clock: FixedClock, user_id: str) -> None:
    reports = Statements(store, clock=clock)
    wallet = await Ledger(store, clock=clock).balance(user_id)
    balance = 0
    for month in MONTHS:
        found = await reports.statement(user_id, month)
        assert (found.opening is None) == (wallet is None)
        assert (found.opening or 0) == balance
        lines: list[StatementLine] = [line async for some in reports.lines(user_id, month) for line in some]
        balance = found.closing
        assert (lines[-1].balance if lines else found.opening or 0) == balance
        assert len(lines) == sum(one.entries for one in found.kinds)
        assert all(found.since <= line.row.at < found.until for line in lines)
        for one in found.kinds:
            assert sum(line.nano for line in lines if line.row.kind == one.kind) == one.nano
    assert balance == (wallet.balance_nano if wallet else 0)


async def test_statement_has_the_usage_by_model_without_prepaid_credit(store: Store) -> None:
    clock = FixedClock()
    start = STARTS[1]
    rows = [
        usage(1, at=start, cost_nano=7),
        usage(2, at=start + 5, cost_nano=None),
        usage(3, at=STARTS[2] - 1, model="large", cost_nano=9),
        usage(4, at=STARTS[2], cost_nano=50),
        usage(5, at=start, user_id="user-2", cost_nano=60),
    ]
    await store.write(insert_batch, rows)
    found = await Statements(store, clock=clock).statement("user-1", "2027-01")
    assert (found.opening, found.closing, found.kinds) == (None, 0, [])
    models = [(one.label, one.requests, one.cost_nano, one.unpriced) for one in found.models]
    assert models == [("large", 1, 9, 0), ("small", 2, 7, 1)]


def test_this_month_is_in_utc() -> None:
    clock = FixedClock()
    clock.now = int(datetime(2027, 1, 31, 23, 59, tzinfo=UTC).timestamp()) * 1000
    assert Statements(cast("Store", None), clock=clock).this_month() == "2027-01"
