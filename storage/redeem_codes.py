"""Redeem codes: batches of codes, each of which gives credit once. Only digests of codes are stored."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class RedeemBatchRow:
    """Codes of one amount. `expires_at`: until when they can be redeemed. `ends_at`: when what is left of the
    credit ends. `revoked_at`: since when the codes that were left cannot be redeemed. All in milliseconds.
    """

    id: str
    name: str
    amount_nano: int
    codes: int
    created_at: int
    expires_at: int | None
    ends_at: int | None
    revoked_at: int | None = None
    redeemed: int = 0


@dataclass(frozen=True, slots=True)
class RedeemCodeRow:
    """`digest`: SHA-256 of the code, 32 bytes. `number` counts the codes of the batch from 1."""

    digest: bytes
    batch_id: str
    number: int
    last_four: str


@dataclass(frozen=True, slots=True)
class RedeemedCodeRow:
    number: int
    last_four: str
    redeemed_at: int
    user_id: str


async def insert_redeem_batch(
    connection: Connection, batch: RedeemBatchRow, codes: Sequence[RedeemCodeRow]
) -> None:
    await connection.many(
        """
        INSERT INTO redeem_batches (
            id, name, amount_nano, codes, created_at, expires_at, ends_at, revoked_at, redeemed
        ) VALUES (
            :id, :name, :amount_nano, :codes, :created_at, :expires_at, :ends_at, NULL, 0
        )
        """,
        [batch],
    )
    await connection.many(
        """
        INSERT INTO redeem_codes (digest, batch_id, number, last_four, redeemed_at, user_id)
        VALUES (:digest, :batch_id, :number, :last_four, NULL, NULL)
        """,
        codes,
    )


async def select_redeem_batches(
    connection: Connection, after_id: str, limit: int
) -> Sequence[RedeemBatchRow]:
    """Oldest first, those with an id above `after_id`."""
    rows = await connection.all(
        """
        SELECT id, name, amount_nano, codes, created_at, expires_at, ends_at, revoked_at, redeemed
        FROM redeem_batches WHERE id > :after_id ORDER BY id LIMIT :limit
        """,
        after_id=after_id,
        limit=limit,
    )
    return [RedeemBatchRow(*row) for row in rows]


async def select_redeem_batch(connection: Connection, batch_id: str) -> RedeemBatchRow | None:
    row = await connection.one(
        """
        SELECT id, name, amount_nano, codes, created_at, expires_at, ends_at, revoked_at, redeemed
        FROM redeem_batches WHERE id = :batch_id
        """,
        batch_id=batch_id,
    )
    return None if row is None else RedeemBatchRow(*row)


async def select_redeemed_codes(
    connection: Connection, batch_id: str, after: int, limit: int
) -> Sequence[RedeemedCodeRow]:
    """The redeemed codes of a batch with a number above `after`, in their order."""
    rows = await connection.all(
        """
        SELECT number, last_four, redeemed_at, user_id FROM redeem_codes
        WHERE batch_id = :batch_id AND number > :after AND redeemed_at IS NOT NULL
        ORDER BY number LIMIT :limit
        """,
        batch_id=batch_id,
        after=after,
        limit=limit,
    )
    return [RedeemedCodeRow(*row) for row in rows]


async def select_code_batch(connection: Connection, digest: bytes) -> RedeemBatchRow | None:
    """The batch of a code; None for an unknown code."""
    row = await connection.one(
        """
        SELECT id, name, amount_nano, codes, created_at, expires_at, ends_at, revoked_at, redeemed
        FROM redeem_batches WHERE id = (SELECT batch_id FROM redeem_codes WHERE digest = :digest)
        """,
        digest=digest,
    )
    return None if row is None else RedeemBatchRow(*row)


async def use_redeem_code(connection: Connection, digest: bytes, user_id: str, now: int) -> int | None:
    """Mark a code as redeemed. Returns its number, for only one of several concurrent calls."""
    used = await connection.one(
        """
        UPDATE redeem_codes SET redeemed_at = :now, user_id = :user_id
        WHERE digest = :digest AND redeemed_at IS NULL RETURNING number
        """,
        digest=digest,
        user_id=user_id,
        now=now,
    )
    if used is None:
        return None
    await connection.execute(
        """
        UPDATE redeem_batches SET redeemed = redeemed + 1
        WHERE id = (SELECT batch_id FROM redeem_codes WHERE digest = :digest)
        """,
        digest=digest,
    )
    number: int = used[0]
    return number


async def revoke_redeem_batch(connection: Connection, batch_id: str, now: int) -> None:
    """The codes of the batch can no longer be redeemed."""
    await connection.execute(
        "UPDATE redeem_batches SET revoked_at = :now WHERE id = :batch_id AND revoked_at IS NULL",
        batch_id=batch_id,
        now=now,
    )
