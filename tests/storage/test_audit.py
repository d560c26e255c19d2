"""The audit log and its hash chain: rows are found, and every kind of tampering is detected."""

import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import Connection, IntegrityError, Store
from storage.audit import (
    CHAIN,
    AuditQuery,
    AuditRow,
    audit_statement,
    check_audit,
    insert_audit,
    lock_audit_head,
    select_audit,
)
from storage.chain import START, ChainCheck, ChainPosition, row_hash
from storage.settings import put_setting, select_setting
from storage.store import open_store
from tests.storage.samples import NOON, uuid7
from tests.storage.store_thread import StoreThread

COLUMNS = ("id", "at", "actor", "action", "subject", "detail", "address", "hash")
Tamper = Callable[[Connection], Coroutine[Any, Any, object]]


def act(serial: int, *, actor: str = "ada", action: str = "server.add", subject: str = "alpha") -> AuditRow:
    return AuditRow(uuid7(NOON, serial), NOON + serial, actor, action, subject, '{"after":{"é":1}}', "::1")


async def filled(store: Store, count: int) -> ChainPosition:
    """Append `count` rows. Returns the end of the chain."""
    store.chain_key = b"secret"
    for serial in range(1, count + 1):
        await store.write(insert_audit, act(serial))
    return (await check(store)).at


async def check(store: Store, expected: ChainPosition | None = None, limit: int = 3) -> ChainCheck:
    return await store.read(check_all, expected, limit)


async def check_all(
    connection: Connection, expected: ChainPosition | None = None, limit: int = 3
) -> ChainCheck:
    """Check in steps, as the product does."""
    found = ChainCheck(START, None, done=False)
    while not found.done:
        found = await check_audit(connection, found.at, expected, limit)
    return found


class Undone(Exception):
    """Returns a result from a transaction that is rolled back."""


async def after(
    store: Store, tamper: Tamper, expected: ChainPosition | None = None
) -> tuple[str | None, int]:
    """The damage and the last valid row after `tamper`, which is rolled back."""

    async def unit(connection: Connection) -> None:
        await tamper(connection)
        raise Undone(await check_all(connection, expected))

    with pytest.raises(Undone) as caught:
        await store.write(unit)
    found: ChainCheck = caught.value.args[0]
    return found.damage, found.at.seq


async def rewrite(connection: Connection, key: bytes, first: int) -> None:
    """Compute the hashes of all rows from `first` on with a key, and set the head."""
    previous = await connection.value("SELECT hash FROM audit WHERE seq = :seq", seq=first - 1)
    rows = await connection.all(
        """
        SELECT seq, id, at, actor, action, subject, detail, address FROM audit
        WHERE seq >= :first ORDER BY seq
        """,
        first=first,
    )
    for seq, *fields in rows:
        previous = row_hash(key, CHAIN, str(previous or ""), seq, fields)
        await connection.execute("UPDATE audit SET hash = :hash WHERE seq = :seq", hash=previous, seq=seq)
        await set_head(connection, seq, previous)


async def set_head(connection: Connection, seq: int, hash_: str) -> None:
    await connection.execute("UPDATE chain_heads SET seq = :seq, hash = :hash", seq=seq, hash=hash_)


async def delete_head(connection: Connection) -> None:
    await connection.execute("DELETE FROM chain_heads")


async def head(connection: Connection) -> tuple[object, ...]:
    sql = "SELECT chain, seq, hash FROM chain_heads WHERE chain = :chain"
    return tuple(await connection.one(sql, chain=CHAIN) or ())


async def test_audit_rows_are_numbered_chained_and_found(store: Store) -> None:
    assert await check(store) == ChainCheck(START, None, done=True)
    end = await filled(store, 7)
    assert end.seq == 7
    assert await store.read(head) == (CHAIN, 7, end.hash)
    await store.write(insert_audit, act(8, actor="bob", action="key.create", subject="k"))
    for limit in (1, 3, 8, 100):
        found = await check(store, limit=limit)
        assert (found.damage, found.at.seq) == (None, 8)

    async def numbers(**filters: Any) -> list[int]:
        query = AuditQuery(**({"before": 2**62, "limit": 100} | filters))
        return [entry.position.seq for entry in await store.read(select_audit, query)]

    assert await numbers(limit=3) == [8, 7, 6]
    assert await numbers(before=6, limit=3) == [5, 4, 3]
    assert (
        await numbers(actor="bob") == await numbers(action="key.create") == await numbers(subject="k") == [8]
    )
    assert await numbers(actor="bob", action="server.add") == []
    assert await numbers(since=NOON + 3, until=NOON + 5) == [4, 3]
    (entry,) = await store.read(select_audit, AuditQuery(before=9, limit=1))
    assert entry.row == act(8, actor="bob", action="key.create", subject="k")


async def test_audit_page_is_ordered_by_time_and_number(store: Store) -> None:
    """The clock may go backwards, and entries may be on any page."""
    store.chain_key = b"secret"
    times = [5, 3, 3, 9, 3, 4, 9, 1]
    for serial, at in enumerate(times, 1):
        await store.write(insert_audit, replace(act(serial), at=at))

    async def pages(limit: int, **times: Any) -> list[int]:
        query, found = AuditQuery(before=2**62, limit=limit, **times), list[int]()
        while page := await store.read(select_audit, query):
            found += [entry.position.seq for entry in page]
            query = replace(query, before=found[-1])
        return found

    listed = [7, 4, 1, 6, 5, 3, 2, 8]
    for limit in range(1, 9):
        assert await pages(limit) == listed
        assert await pages(limit, since=3, until=9) == [1, 6, 5, 3, 2]
        assert await pages(limit, until=3) == [8]

    async def remove(connection: Connection) -> None:
        await connection.execute("DELETE FROM audit WHERE seq = 5")

    await store.write(remove)
    rest = await store.read(select_audit, AuditQuery(before=5, limit=9))
    assert [entry.position.seq for entry in rest] == [3, 2, 8], "a page also follows a row that is gone"


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ((), "audit_at"),
        (("actor",), "audit_actor"),
        (("action",), "audit_action"),
        (("subject",), "audit_subject"),
        (("actor", "action"), "audit_actor_action"),
        (("actor", "subject"), "audit_actor_subject"),
        (("subject", "action"), "audit_subject_action"),
        (("actor", "subject", "action"), "audit_subject_action"),
    ],
)
async def test_audit_filters_use_an_index(store: Store, filters: tuple[str, ...], index: str) -> None:
    """The index also contains the bounds of time, and has the order of the list."""
    query = AuditQuery(before=2**62, limit=1, **dict.fromkeys(filters, "x"))  # type: ignore[arg-type]
    values = {"limit": 1, "since": 5, "end_at": 9, "end_seq": 0, **dict.fromkeys(filters, "x")}

    async def plan(connection: Connection) -> str:
        if store.engine == "postgres":
            for way in ("seqscan", "bitmapscan"):  # as the planner does for a large table
                await connection.execute(f"SET LOCAL enable_{way} = off")  # type: ignore[arg-type]
            return str(await connection.all("EXPLAIN " + audit_statement(query), **values))
        return str(await connection.all("EXPLAIN QUERY PLAN " + audit_statement(query), **values))

    found = await store.write(plan)
    assert re.search(rf"\b{index}\b", found)
    assert "Sort" not in found and "TEMP B-TREE" not in found
    assert "at>? AND at<?" in found or re.search(r"Index Cond: .*at >= .*ROW\(at, seq\) <", found)


async def test_audit_entry_of_failed_transaction_is_rolled_back(store: Store) -> None:
    async def unit(connection: Connection, name: str) -> None:
        await insert_audit(connection, act(1))
        await connection.execute("INSERT INTO settings (name, value) VALUES (:name, '')", name=name)

    await store.write(unit, "a")
    with pytest.raises(IntegrityError):
        await store.write(unit, "a")
    await store.write(unit, "b")
    found = await check(store)
    assert (found.damage, found.at.seq) == (None, 2)


async def test_audit_changed_column_is_detected(store: Store) -> None:
    await filled(store, 4)
    for seq in range(1, 5):
        for column in COLUMNS:

            async def change(connection: Connection, seq: int = seq, column: str = column) -> None:
                value = f"{column} + 1" if column == "at" else f"{column} || 'x'"
                changed = await connection.execute(
                    f"UPDATE audit SET {column} = {value} WHERE seq = {seq}"  # type: ignore[arg-type]  # noqa: S608
                )
                assert changed == 1

            assert await after(store, change) == ("altered", seq - 1), (seq, column)


async def test_audit_removed_row_is_detected(store: Store) -> None:
    await filled(store, 5)
    for bits in range(1, 2**5):
        gone = [seq for seq in range(1, 6) if bits & 1 << seq - 1]

        async def remove(connection: Connection, gone: list[int] = gone) -> None:
            for seq in gone:
                await connection.execute("DELETE FROM audit WHERE seq = :seq", seq=seq)

        tail = gone == list(range(gone[0], 6))
        assert await after(store, remove) == ("truncated" if tail else "removed", gone[0] - 1), gone


async def test_audit_exchanged_rows_are_detected(store: Store) -> None:
    await filled(store, 4)
    for order in permutations(range(1, 5)):

        async def move(connection: Connection, order: tuple[int, ...] = order) -> None:
            await connection.execute("UPDATE audit SET seq = -seq")
            for old, new in enumerate(order, 1):
                await connection.execute("UPDATE audit SET seq = :new WHERE seq = :old", new=new, old=-old)

        damage, _ = await after(store, move)
        assert damage == (None if order == (1, 2, 3, 4) else "altered"), order


async def test_audit_renumbered_rows_are_detected(store: Store) -> None:
    await filled(store, 4)

    async def close_up(connection: Connection) -> None:
        await connection.execute("DELETE FROM audit WHERE seq = 2")
        await connection.execute("UPDATE audit SET seq = 2 WHERE seq = 3")
        await connection.execute("UPDATE audit SET seq = 3 WHERE seq = 4")

    assert await after(store, close_up) == ("altered", 1)


async def test_audit_chain_recomputed_without_the_key_is_detected(store: Store) -> None:
    await filled(store, 4)

    async def forge(connection: Connection, key: bytes = b"") -> None:
        await connection.execute("UPDATE audit SET actor = 'eve' WHERE seq = 2")
        await rewrite(connection, key, 2)

    assert await after(store, forge) == ("altered", 1)

    # With the key it is not detected, except by a position that was noted before.
    async def with_key(connection: Connection) -> None:
        await forge(connection, b"secret")

    assert await after(store, with_key) == (None, 4)
    noted = ChainPosition(3, "00" * 32)
    assert await after(store, with_key, noted) == ("rewritten", 2)


async def test_audit_head_missing_or_wrong_is_reported_permanently(store: Store) -> None:
    end = await filled(store, 3)

    async def cut(connection: Connection) -> None:
        """Remove the last row and set the head back: only a noted position detects this."""
        await connection.execute("DELETE FROM audit WHERE seq = 3")
        last = await connection.value("SELECT hash FROM audit WHERE seq = 2")
        await set_head(connection, 2, str(last))

    assert await after(store, cut) == (None, 2)
    assert await after(store, cut, end) == ("truncated", 2)

    async def restore(connection: Connection) -> None:
        await connection.execute("DELETE FROM audit WHERE seq > 3")
        await set_head(connection, 3, end.hash)

    for position, damage in (
        (None, "head_gone"),
        (ChainPosition(9, end.hash), "truncated"),
        (ChainPosition(2**63 - 1, end.hash), "truncated"),
        (ChainPosition(2, end.hash), "head_differs"),
        (ChainPosition(3, "00"), "head_differs"),
    ):
        if position is None:
            await store.write(delete_head)
            await store.write(lock_audit_head)
        else:
            await store.write(set_head, position.seq, position.hash)
        assert (await check(store)).damage == damage
        await store.write(insert_audit, act(9))
        found = await check(store)
        assert (found.damage, found.at.seq) == ("removed", 3), "the row is stored, and the damage stays"
        await store.write(restore)


async def test_audit_all_rows_and_head_removed_is_detected(store: Store) -> None:
    await filled(store, 2)

    async def clear(connection: Connection) -> None:
        await connection.execute("DELETE FROM audit")
        await delete_head(connection)

    assert await after(store, clear) == ("head_gone", 0)
    await store.write(clear)
    await store.write(insert_audit, act(1))
    found = await check(store)
    assert (found.damage, found.at.seq) == ("removed", 0)


@st.composite
def tampering(draw: st.DrawFn) -> list[tuple[str, int, str]]:
    step = st.tuples(
        st.sampled_from(["alter", "delete", "blank"]), st.integers(1, 6), st.sampled_from(COLUMNS)
    )
    return draw(st.lists(step, min_size=1, max_size=4))


@settings(
    max_examples=60,
)
@given(steps=tampering(), recompute=st.booleans())
def test_audit_any_sequence_of_changes_is_detected(
    thread: StoreThread, steps: list[tuple[str, int, str]], recompute: bool
) -> None:
    """Up to four changes, with the hashes after them rewritten without the key or not."""

    async def tamper(connection: Connection) -> None:
        for what, seq, column in steps:
            if what == "delete":
                await connection.execute("DELETE FROM audit WHERE seq = :seq", seq=seq)
            elif what == "blank":
                await connection.execute("UPDATE audit SET hash = '' WHERE seq = :seq", seq=seq)
            else:
                value = f"{column} + 1" if column == "at" else f"{column} || 'x'"
                await connection.execute(f"UPDATE audit SET {column} = {value} WHERE seq = {seq}")  # type: ignore[arg-type]  # noqa: S608
        if recompute:
            await rewrite(connection, b"", min(seq for _, seq, _ in steps))

    async def run(store: Store) -> tuple[str | None, int]:
        if (await check(store)).at.seq == 0:
            await filled(store, 6)
        return await after(store, tamper)

    damage, good = thread.call(run, thread.store)
    assert damage is not None
    assert good < min(seq for _, seq, _ in steps)


async def test_audit_concurrent_writers_keep_one_chain(url: str) -> None:
    """Fifty writers, on PostgreSQL in two instances. Each changes the same rows in a different order."""

    async def unit(connection: Connection, serial: int) -> None:
        if serial % 2:
            await insert_audit(connection, act(serial))
        else:
            await lock_audit_head(connection)
            await select_setting(connection, "a")
            await insert_audit(connection, act(serial))
        for name in ("a", "b") if serial % 3 else ("b", "a"):
            await put_setting(connection, name, str(serial))

    async with open_store(url) as one:
        one.chain_key = b"secret"
        stores = [one]
        if one.engine == "sqlite":
            await race(stores, unit)
        else:
            async with open_store(url) as two:
                two.chain_key = b"secret"
                await race([one, two], unit)
        found = await check(one, limit=100)
    assert (found.damage, found.at.seq) == (None, 50)


async def race(stores: list[Store], unit: Callable[[Connection, int], Coroutine[Any, Any, None]]) -> None:
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for serial in range(50):
                nursery.start_soon(stores[serial % len(stores)].write, unit, serial)
