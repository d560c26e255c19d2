"""Trials and referrals of accounts. Times are in milliseconds, amounts in nano-USD."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class TrialRow:
    """`person`: SHA-256 of the normalised address. `due_at`: when the next event is due."""

    person: bytes
    user_id: str
    started_at: int
    ends_at: int
    due_at: int | None


@dataclass(frozen=True, slots=True)
class ReferralRow:
    """`payment_id`: the first payment, "" until there is one. `earned_nano`: by the referrer."""

    user_id: str
    referrer_id: str
    at: int
    payment_id: str = ""
    earned_nano: int = 0


async def insert_trial(connection: Connection, row: TrialRow) -> bool:
    """False: the person or the user had a trial already."""
    changed = await connection.execute(
        """
        INSERT INTO trials (person, user_id, started_at, ends_at, due_at)
        VALUES (:person, :user_id, :started_at, :ends_at, :due_at) ON CONFLICT DO NOTHING
        """,
        person=row.person,
        user_id=row.user_id,
        started_at=row.started_at,
        ends_at=row.ends_at,
        due_at=row.due_at,
    )
    return changed > 0


async def select_trial(connection: Connection, user_id: str) -> TrialRow | None:
    row = await connection.one(
        "SELECT person, user_id, started_at, ends_at, due_at FROM trials WHERE user_id = :user_id",
        user_id=user_id,
    )
    return None if row is None else TrialRow(*row)


async def select_due_trials(connection: Connection, now: int, limit: int) -> Sequence[TrialRow]:
    rows = await connection.all(
        """
        SELECT person, user_id, started_at, ends_at, due_at FROM trials
        WHERE due_at <= :now ORDER BY due_at LIMIT :limit
        """,
        now=now,
        limit=limit,
    )
    return [TrialRow(*row) for row in rows]


async def set_trial_due(connection: Connection, user_id: str, before: int | None, due_at: int | None) -> bool:
    """False: another call has changed it."""
    changed = await connection.execute(
        "UPDATE trials SET due_at = :due_at WHERE user_id = :user_id AND due_at = :before",
        user_id=user_id,
        before=before,
        due_at=due_at,
    )
    return changed > 0


async def put_referral_code(connection: Connection, user_id: str, code: str) -> str:
    """The code of a user; `code` if there is none yet."""
    await connection.execute(
        "INSERT INTO referral_codes (user_id, code) VALUES (:user_id, :code) ON CONFLICT DO NOTHING",
        user_id=user_id,
        code=code,
    )
    return str(
        await connection.value("SELECT code FROM referral_codes WHERE user_id = :user_id", user_id=user_id)
    )


async def select_code_user(connection: Connection, code: str) -> str | None:
    found = await connection.value("SELECT user_id FROM referral_codes WHERE code = :code", code=code)
    return None if found is None else str(found)


async def insert_referral(connection: Connection, row: ReferralRow) -> bool:
    """False: the user was invited already."""
    changed = await connection.execute(
        """
        INSERT INTO referrals (user_id, referrer_id, at, payment_id, earned_nano)
        VALUES (:user_id, :referrer_id, :at, '', 0) ON CONFLICT (user_id) DO NOTHING
        """,
        user_id=row.user_id,
        referrer_id=row.referrer_id,
        at=row.at,
    )
    return changed > 0


async def select_referral(connection: Connection, user_id: str) -> ReferralRow | None:
    row = await connection.one(
        "SELECT user_id, referrer_id, at, payment_id, earned_nano FROM referrals WHERE user_id = :user_id",
        user_id=user_id,
    )
    return None if row is None else ReferralRow(*row)


async def set_referral(connection: Connection, row: ReferralRow) -> None:
    """Store the payment and what was earned."""
    await connection.many(
        """
        UPDATE referrals SET payment_id = :payment_id, earned_nano = :earned_nano WHERE user_id = :user_id
        """,
        [row],
    )


async def sum_referrals(connection: Connection, referrer_id: str) -> tuple[int, int]:
    """The number of invited users, and what the referrer has earned."""
    row = await connection.one(
        """
        SELECT count(*), CAST(coalesce(sum(earned_nano), 0) AS BIGINT)
        FROM referrals WHERE referrer_id = :referrer_id
        """,
        referrer_id=referrer_id,
    )
    return (0, 0) if row is None else (row[0], row[1])
