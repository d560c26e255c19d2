"""The second factor of accounts: the secret of one-time codes, sealed by the caller, and recovery codes."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class SecondFactorRow:
    """`confirmed_at` is None until the first code is entered: then it is asked for. `last_step` is the last
    accepted step of 30 seconds; earlier and equal ones are refused.
    """

    user_id: str
    sealed_secret: bytes
    confirmed_at: int | None
    last_step: int
    created_at: int


async def select_second_factor(connection: Connection, user_id: str) -> SecondFactorRow | None:
    row = await connection.one(
        """
        SELECT user_id, sealed_secret, confirmed_at, last_step, created_at
        FROM second_factors WHERE user_id = :user_id
        """,
        user_id=user_id,
    )
    return None if row is None else SecondFactorRow(row[0], bytes(row[1]), *row[2:])


async def insert_second_factor(connection: Connection, row: SecondFactorRow) -> None:
    """Raises IntegrityError if the user has one, or does not exist."""
    await connection.many(
        """
        INSERT INTO second_factors (user_id, sealed_secret, confirmed_at, last_step, created_at)
        VALUES (:user_id, :sealed_secret, :confirmed_at, :last_step, :created_at)
        """,
        [row],
    )


async def confirm_second_factor(connection: Connection, user_id: str, at: int, step: int) -> bool:
    """False if it is confirmed already."""
    changed = await connection.execute(
        """
        UPDATE second_factors SET confirmed_at = :at, last_step = :step
        WHERE user_id = :user_id AND confirmed_at IS NULL
        """,
        user_id=user_id,
        at=at,
        step=step,
    )
    return changed == 1


async def use_step(connection: Connection, user_id: str, step: int) -> bool:
    """Record that the code of a step was used. True for only one of several calls."""
    changed = await connection.execute(
        "UPDATE second_factors SET last_step = :step WHERE user_id = :user_id AND last_step < :step",
        user_id=user_id,
        step=step,
    )
    return changed == 1


async def delete_second_factor(connection: Connection, user_id: str) -> None:
    """With its recovery codes."""
    await connection.execute("DELETE FROM recovery_codes WHERE user_id = :user_id", user_id=user_id)
    await connection.execute("DELETE FROM second_factors WHERE user_id = :user_id", user_id=user_id)


async def replace_recovery_codes(connection: Connection, user_id: str, digests: Sequence[bytes]) -> None:
    """Store these, and delete the earlier ones."""
    await connection.execute("DELETE FROM recovery_codes WHERE user_id = :user_id", user_id=user_id)
    for digest in digests:
        await connection.execute(
            "INSERT INTO recovery_codes (user_id, digest) VALUES (:user_id, :digest)",
            user_id=user_id,
            digest=digest,
        )


async def use_recovery_code(connection: Connection, user_id: str, digest: bytes) -> bool:
    """Delete a code. True for only one of several calls."""
    used = await connection.execute(
        "DELETE FROM recovery_codes WHERE user_id = :user_id AND digest = :digest",
        user_id=user_id,
        digest=digest,
    )
    return used == 1


async def count_recovery_codes(connection: Connection, user_id: str) -> int:
    row = await connection.one(
        "SELECT count(*) FROM recovery_codes WHERE user_id = :user_id", user_id=user_id
    )
    return 0 if row is None else int(row[0])
