"""Hash chains: tables in which altered, removed, moved or added rows are detected.

Row `seq` of a chain stores HMAC-SHA256(key, JSON of [chain, hash of the row before, seq, fields...]) in
hexadecimal; `seq` starts at 1 and has no gaps. The table `chain_heads` repeats the position of the last row
of each chain, so that missing last rows are detected too. A chain starts with a head (0, '').

To append a row, lock the head, read the last row, store the new row at `next_position`. The lock makes the
writers of a chain run one after another, on both engines. It avoids deadlocks only if the head is the first
thing that a unit of work locks.
"""

import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from storage.base import Connection, Row

Fields: TypeAlias = Sequence[object]  # the values that a row's hash covers: text, integers, None


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """A row's number and hash."""

    seq: int
    hash: str


START = ChainPosition(0, "")
"""The position before the first row."""

ChainDamage = Literal["altered", "removed", "truncated", "rewritten", "head_gone", "head_differs"]
"""altered: a row's hash is wrong. removed: a number is missing between rows. truncated: the last rows are
missing. rewritten: a row's hash is valid but not the expected one. head_differs: it is not the last row.
"""


@dataclass(frozen=True, slots=True)
class ChainCheck:
    """A check up to the row `at`. `damage` concerns the row after it. `done`: no rows are left to check."""

    at: ChainPosition
    damage: ChainDamage | None
    done: bool


async def lock_head(connection: Connection, chain: str) -> ChainPosition | None:
    """Lock the head until the unit ends. None: there was no head."""
    sql = """
        INSERT INTO chain_heads (chain, seq, hash) VALUES (:chain, -1, '')
        ON CONFLICT (chain) DO UPDATE SET seq = chain_heads.seq RETURNING seq, hash
    """
    return _head(await connection.one(sql, chain=chain))


async def next_position(
    connection: Connection, chain: str, head: ChainPosition | None, last: ChainPosition, fields: Fields
) -> ChainPosition:
    """Move the locked head to a new row after `last`, the last row of the table; the new row's position.

    If the head is not at `last`, the chain was tampered with. Then one number is skipped, so that the damage
    stays visible. The head's own number is not used, because it may have been set to any value.
    """
    (position,) = await next_positions(connection, chain, head, last, [fields])
    return position


async def next_positions(
    connection: Connection,
    chain: str,
    head: ChainPosition | None,
    last: ChainPosition,
    rows: Iterable[Fields],
) -> list[ChainPosition]:
    """As `next_position`, for several rows that follow each other."""
    positions: list[ChainPosition] = []
    for fields in rows:
        seq = last.seq + (1 if head == last else 2)
        head = last = ChainPosition(seq, row_hash(connection.chain_key, chain, last.hash, seq, fields))
        positions.append(last)
    if positions:
        sql = "UPDATE chain_heads SET seq = :seq, hash = :hash WHERE chain = :chain"
        await connection.execute(sql, seq=last.seq, hash=last.hash, chain=chain)
    return positions


def row_hash(key: bytes, chain: str, previous: str, seq: int, fields: Fields) -> str:
    text = json.dumps([chain, previous, seq, *fields], separators=(",", ":"))
    return hmac.digest(key, text.encode(), "sha256").hex()


async def check_rows(
    connection: Connection,
    chain: str,
    at: ChainPosition,
    rows: Iterable[tuple[ChainPosition, Fields]],
    *,
    expected: ChainPosition | None,
    last: bool,
) -> ChainCheck:
    """Check the rows that follow `at`, which was checked before, and with `last` the end of the chain.

    `expected` is a position from an earlier check, which must still be in the chain.
    """
    for position, fields in rows:
        damage: ChainDamage | None = None
        if position.seq != at.seq + 1:
            damage = "removed"
        elif position.hash != row_hash(connection.chain_key, chain, at.hash, position.seq, fields):
            damage = "altered"
        elif expected is not None and position.seq == expected.seq and position != expected:
            damage = "rewritten"
        if damage is not None:
            return ChainCheck(at, damage, done=True)
        at = position
    damage = await _damage_at_end(connection, chain, at, expected) if last else None
    return ChainCheck(at, damage, done=last)


async def _damage_at_end(
    connection: Connection, chain: str, at: ChainPosition, expected: ChainPosition | None
) -> ChainDamage | None:
    select = "SELECT seq, hash FROM chain_heads WHERE chain = :chain"
    head = _head(await connection.one(select, chain=chain))
    if head is None:
        return "head_gone"
    if max(head.seq, expected.seq if expected else 0) > at.seq:
        return "truncated"
    return None if head == at else "head_differs"


def _head(row: Row | None) -> ChainPosition | None:
    # -1: lock_head had to create it, and no row was appended
    return None if row is None or row[0] == -1 else ChainPosition(*row)
