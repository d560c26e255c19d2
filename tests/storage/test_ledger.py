"""The ledger on both engines: any sequence of operations is proven, and every entry counts once."""

from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry, Ledger
from bluesminds.common.clock import Clock
from bluesminds.common.errors import Conflict, NotFound
from storage import open_store
from storage.base import Connection, Store
from storage.ledger import LedgerRow, post, select_wallet, wallet_account
from storage.usage import insert_batch
from storage.users import insert_user
from tests.storage.samples import NOON, usage, user

USERS = ("user-1", "user-2")


class FixedClock(Clock):
    def __init__(self) -> None:
        self.now = NOON

    def now_ms(self) -> int:
        return self.now


async def clear(connection: Connection) -> None:
    await connection.execute("DELETE FROM usage")
    await connection.execute("DELETE FROM ledger")
    await connection.execute("DELETE FROM wallets")
    await connection.execute("DELETE FROM users")
    await connection.execute("UPDATE chain_heads SET seq = 0, hash = '' WHERE chain = 'ledger'")


async def with_users(connection: Connection) -> None:
    for number, name in enumerate(USERS):
        await insert_user(connection, replace(user(number, f"{name}@example.com"), id=name))


AMOUNTS = st.integers(1, 10**12)
OPERATIONS = st.one_of(
    st.tuples(st.just("topup"), st.sampled_from(USERS), AMOUNTS),
    st.tuples(st.just("grant"), st.sampled_from(USERS), AMOUNTS, st.none() | st.integers(1, 50)),
    st.tuples(st.just("refund"), st.sampled_from(USERS), AMOUNTS),
    st.tuples(st.just("adjustment"), st.sampled_from(USERS), AMOUNTS | AMOUNTS.map(lambda one: -one)),
    st.tuples(st.just("charge"), st.sampled_from(USERS), AMOUNTS),
    st.tuples(st.just("wait"), st.just(""), st.integers(1, 60)),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(OPERATIONS, max_size=12))
def test_any_sequence_of_operations_is_proven(url: str, steps: list[Any]) -> None:
    async def check() -> None:
        async with open_store(url) as store:
            store.chain_key = b"key"
            await store.write(clear)
            await store.write(with_users)
            await replay(store, steps)

    trio.run(check)


async def replay(store: Store, steps: list[Any]) -> None:
    clock = FixedClock()
    ledger = Ledger(store, clock=clock)
    told: dict[str, int] = {}
    ledger.subscribe(lambda user_id, nano, _: told.__setitem__(user_id, told.get(user_id, 0) + nano))
    charged: dict[str, int] = {}
    for number, (kind, user_id, amount, *more) in enumerate(steps):
        if kind == "wait":
            clock.now += amount
            await ledger.expire()
        elif kind == "charge":
            row = usage(number, user_id=user_id, cost_nano=amount, charged_nano=amount)
            for _ in range(2):
                await store.write(insert_batch, [row, row])  # as after a commit with unknown result
            charged[user_id] = charged.get(user_id, 0) + amount
        else:
            ends_at = clock.now + more[0] if more and more[0] else None
            entry = CreditEntry(kind, amount, ends_at, key=f"key-{number}")
            for _ in range(2):
                await ledger.post(OPERATOR, user_id, entry)
    proof = await ledger.verify()
    assert proof.problem is None
    assert sum(proof.sums.values()) == 0
    for user_id in USERS:
        wallet = await store.read(select_wallet, user_id)
        balance = told.get(user_id, 0) - charged.get(user_id, 0)
        assert (wallet.balance_nano if wallet else 0) == balance
        if wallet is not None:
            assert all(one.left_nano > 0 for one in wallet.grants)


async def test_grants_are_used_first_and_the_one_that_ends_first_before_others(store: Store) -> None:
    store.chain_key = b"key"
    await store.write(with_users)
    clock = FixedClock()
    ledger = Ledger(store, clock=clock)
    for key, ends_at in (("never", None), ("late", NOON + 9), ("soon", NOON + 5)):
        await ledger.post(OPERATOR, "user-1", CreditEntry("grant", 10, ends_at, key=key))
    await ledger.post(OPERATOR, "user-1", CreditEntry("topup", 100))
    await store.write(insert_batch, [usage(1, cost_nano=12, charged_nano=12)])
    wallet = await ledger.balance("user-1")
    assert wallet is not None
    assert [(one.id, one.left_nano) for one in wallet.grants] == [("grant:late", 8), ("grant:never", 10)]
    clock.now = NOON + 9
    assert await ledger.expire() == 1
    assert await ledger.expire() == 0
    wallet = await ledger.balance("user-1")
    assert wallet is not None
    assert (wallet.balance_nano, [one.id for one in wallet.grants]) == (110, ["grant:never"])
    assert (await ledger.verify()).problem is None


async def test_key_of_another_entry_and_unknown_user_are_refused(store: Store) -> None:
    store.chain_key = b"key"
    await store.write(with_users)
    ledger = Ledger(store, clock=FixedClock())
    await ledger.post(OPERATOR, "user-1", CreditEntry("topup", 5, key="one"))
    for user_id, nano in (("user-2", 5), ("user-1", 6)):
        with pytest.raises(Conflict):
            await ledger.post(OPERATOR, user_id, CreditEntry("topup", nano, key="one"))
    with pytest.raises(NotFound):
        await ledger.post(OPERATOR, "missing", CreditEntry("topup", 5))


DAMAGES = {
    "UPDATE ledger SET amount_nano = 7 WHERE seq = 1": "entry 1 is wrong: altered",
    "DELETE FROM ledger WHERE seq = 2": "entry 2 is wrong: truncated",
    "UPDATE wallets SET balance_nano = 1": "is not the sum of its entries",
    "DELETE FROM wallets": "a wallet is missing",
    "UPDATE usage SET charged_nano = 4": "has no charge of its amount",
    "DELETE FROM usage": "has no usage record of its amount",
}


@pytest.mark.parametrize("statement", DAMAGES)
async def test_damage_is_found(store: Store, statement: Any) -> None:
    store.chain_key = b"key"
    await store.write(with_users)
    ledger = Ledger(store, clock=FixedClock())
    await ledger.post(OPERATOR, "user-1", CreditEntry("topup", 50))
    await store.write(insert_batch, [usage(1, cost_nano=5, charged_nano=5)])
    assert (await ledger.verify()).problem is None

    async def damage(connection: Connection) -> None:
        await connection.execute(statement)

    await store.write(damage)
    assert DAMAGES[statement] in str((await ledger.verify()).problem)


async def test_two_entries_of_one_transaction_are_one_chain(store: Store) -> None:
    store.chain_key = b"key"
    rows = [
        LedgerRow(f"topup:{number}", NOON, "topup", "payments:x", wallet_account("u"), 5, "u", "", "{}")
        for number in range(3)
    ]
    await store.write(post, [*rows, rows[0]])
    proof = await Ledger(store, clock=FixedClock()).verify()
    assert (proof.entries, proof.problem, proof.sums["wallets"]) == (3, None, 15)
