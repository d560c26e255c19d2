"""The ledger on both engines: order of grants, refused entries, and proof."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry, Ledger
from bluesminds.common.clock import Clock
from bluesminds.common.errors import Conflict, NotFound
from storage.base import Connection, Store
from storage.ledger import LedgerRow, check_charged_usage, check_charges, post, wallet_account
from storage.usage import insert_batch
from storage.usage_retention import delete_usage
from storage.users import insert_user
from tests.storage.samples import NOON, usage, user

USERS = ("user-1", "user-2")
ROOT = Path(__file__).resolve().parents[2]


class FixedClock(Clock):
    def __init__(self) -> None:
        self.now = NOON

    def now_ms(self) -> int:
        return self.now


async def with_users(connection: Connection) -> None:
    for number, name in enumerate(USERS):
        await insert_user(connection, replace(user(number, f"{name}@example.com"), id=name))


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
    "UPDATE usage SET charged_nano = 4": "no entry matches the charge of",
    "DELETE FROM usage": "no usage record matches",
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


async def test_ledger_is_proven_after_old_usage_was_deleted(store: Store) -> None:
    store.chain_key = b"key"
    await store.write(with_users)
    ledger = Ledger(store, clock=FixedClock())
    await ledger.post(OPERATOR, "user-1", CreditEntry("topup", 50))
    rows = [usage(number, at=NOON + number, cost_nano=5, charged_nano=5) for number in range(3)]
    await store.write(insert_batch, rows)
    assert await store.write(delete_usage, NOON + 2, 1) == 1
    assert await store.write(delete_usage, NOON + 2, 10) == 1
    assert (await ledger.verify()).problem is None

    async def damage(connection: Connection) -> None:
        await connection.execute("DELETE FROM usage")

    await store.write(damage)
    assert "no usage record matches" in str((await ledger.verify()).problem)


async def test_charges_are_compared_page_by_page(store: Store) -> None:
    store.chain_key = b"key"
    await store.write(with_users)
    await Ledger(store, clock=FixedClock()).post(OPERATOR, "user-1", CreditEntry("topup", 50))
    rows = [usage(number, at=NOON + number // 2, cost_nano=5, charged_nano=5) for number in range(5)]
    await store.write(insert_batch, rows)
    last = max(rows, key=lambda row: (row.at, row.id))

    async def usage_pages() -> list[str | None]:
        found: list[str | None] = []
        at: tuple[int, str] | None = (0, "")
        while at is not None:
            wrong, at = await store.read(check_charged_usage, at, 2)
            found.append(wrong)
        return found

    async def entry_pages() -> list[str | None]:
        found: list[str | None] = []
        at: int | None = 0
        while at is not None:
            wrong, at = await store.read(check_charges, at, 2)
            found.append(wrong)
        return found

    assert await usage_pages() == [None] * 3
    assert await entry_pages() == [None] * 4  # six entries: the last page is empty

    async def damage(connection: Connection) -> None:
        await connection.execute("UPDATE usage SET charged_nano = 4 WHERE id = :id", id=last.id)

    await store.write(damage)
    assert await usage_pages() == [None, None, last.id]
    assert [one for one in await entry_pages() if one] == [f"charge:{last.id}"]


def test_unit_that_locks_both_heads_locks_that_of_the_audit_log_first() -> None:
    """Two orders could block each other. Only PostgreSQL would show it, and seldom."""
    found = {}
    for path in (*(ROOT / "bluesminds").rglob("*.py"), *(ROOT / "storage").rglob("*.py")):
        text = path.read_text()
        if "audit" not in text or not ("post(" in text or "lock_ledger_head" in text):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.AsyncFunctionDef):
                continue
            calls = [one for one in ast.walk(node) if isinstance(one, ast.Call)]
            names = [(one.lineno, one.func.id) for one in calls if isinstance(one.func, ast.Name)]
            audit = [line for line, name in names if name in ("lock_audit_head", "insert_audit")]
            ledger = [line for line, name in names if name in ("lock_ledger_head", "post")]
            if audit and ledger:
                found[f"{path.relative_to(ROOT)}:{node.name}"] = min(audit) < min(ledger)
    assert found and all(found.values()), found


async def test_two_entries_of_one_transaction_are_one_chain(store: Store) -> None:
    store.chain_key = b"key"
    rows = [
        LedgerRow(f"topup:{number}", NOON, "topup", "payments:x", wallet_account("u"), 5, "u", "", "{}")
        for number in range(3)
    ]
    await store.write(post, [*rows, rows[0]])
    proof = await Ledger(store, clock=FixedClock()).verify()
    assert (proof.entries, proof.problem, proof.sums["wallets"]) == (3, None, 15)


async def test_ledger_that_grows_while_it_is_verified_is_proven(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a unit is limited, so a long ledger needs several. Entries may come between them."""
    store.chain_key = b"key"
    await store.write(with_users)
    ledger = Ledger(store, clock=FixedClock())
    for number in range(7):
        await ledger.post(OPERATOR, USERS[number % 2], CreditEntry("topup", 5))
    monkeypatch.setattr("bluesminds.accounts.ledger.ROWS_PER_CHECK", 2)
    read = store.read
    units = []

    async def read_and_post(*unit: Any) -> Any:
        found = await read(*unit)
        units.append(unit)
        if len(units) <= 5:
            await store.write(insert_batch, [usage(len(units), cost_nano=1, charged_nano=1)])
        return found

    monkeypatch.setattr(store, "read", read_and_post)
    proof = await ledger.verify()
    assert (proof.problem, proof.entries, proof.sums["wallets"]) == (None, 12, 30)
    assert len(units) > 6
