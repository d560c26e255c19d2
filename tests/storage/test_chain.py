"""Hash chains that share a table, as a ledger with one chain for each instance does."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from storage import Connection, Store
from storage.chain import START, ChainCheck, ChainPosition, check_rows, lock_head, next_position
from storage.store import open_store


@dataclass(frozen=True, slots=True)
class Entry:
    chain: str
    amount: int


async def create(connection: Connection) -> None:
    await connection.execute(
        "CREATE TABLE entries (chain TEXT, seq BIGINT, amount BIGINT, hash TEXT, PRIMARY KEY (chain, seq))"
    )
    for chain in ("a", "b"):
        await connection.execute(
            "INSERT INTO chain_heads (chain, seq, hash) VALUES (:chain, 0, '')", chain=chain
        )


async def append(connection: Connection, entry: Entry) -> None:
    head = await lock_head(connection, entry.chain)
    newest = await connection.one(
        "SELECT seq, hash FROM entries WHERE chain = :chain ORDER BY seq DESC LIMIT 1", chain=entry.chain
    )
    last = START if newest is None else ChainPosition(*newest)
    position = await next_position(connection, entry.chain, head, last, [entry.amount])
    await connection.execute(
        "INSERT INTO entries (chain, seq, amount, hash) VALUES (:chain, :seq, :amount, :hash)",
        chain=entry.chain,
        seq=position.seq,
        amount=entry.amount,
        hash=position.hash,
    )


async def check(connection: Connection, chain: str) -> tuple[str | None, int]:
    rows = await connection.all(
        "SELECT seq, hash, amount FROM entries WHERE chain = :chain ORDER BY seq", chain=chain
    )
    links = [(ChainPosition(*row[:2]), row[2:]) for row in rows]
    found: ChainCheck = await check_rows(connection, chain, START, links, expected=None, last=True)
    return found.damage, found.at.seq


@pytest.fixture
async def chains(url: str) -> AsyncIterator[Store]:
    """Not the `store`, whose database is shared and must not get another table."""
    async with open_store(url) as store:
        store.chain_key = b"secret"
        await store.write(create)
        for amount, chain in enumerate("aabab"):
            await store.write(append, Entry(chain, amount))
        yield store


async def test_chains_in_one_table_are_checked_separately(chains: Store) -> None:
    assert await chains.read(check, "a") == (None, 3)
    assert await chains.read(check, "b") == (None, 2)


async def test_chain_damage_does_not_affect_another_chain(chains: Store) -> None:
    async def alter(connection: Connection) -> None:
        await connection.execute("UPDATE entries SET amount = 100 WHERE chain = 'a' AND seq = 2")

    await chains.write(alter)
    assert await chains.read(check, "a") == ("altered", 1)
    assert await chains.read(check, "b") == (None, 2)


async def test_chain_rows_moved_to_another_chain_are_detected(chains: Store) -> None:
    async def move(connection: Connection) -> None:
        await connection.execute("DELETE FROM entries WHERE chain = 'b'")
        await connection.execute("UPDATE entries SET chain = 'b' WHERE chain = 'a'")
        await connection.execute("DELETE FROM chain_heads WHERE chain = 'b'")
        await connection.execute("UPDATE chain_heads SET chain = 'b' WHERE chain = 'a'")

    await chains.write(move)
    assert await chains.read(check, "b") == ("altered", 0)


async def test_chain_unknown_has_no_head(chains: Store) -> None:
    assert await chains.read(check, "c") == ("head_gone", 0)
