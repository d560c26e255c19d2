"""Mails that wait to be sent. Address and content are encrypted (sealed) by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """`attempts`: how often sending was started. It is not started before `due_at`, nor after `expires_at`.
    Mails with a lower `priority` are sent first. A `decoy` is never sent.
    """

    id: str
    kind: str
    sealed: bytes
    decoy: bool
    priority: int
    attempts: int
    due_at: int
    expires_at: int
    created_at: int


async def insert_mail(connection: Connection, row: OutboxRow, limit: int) -> bool:
    """False if `limit` mails wait already."""
    if int(str(await connection.value("SELECT count(*) FROM mail_outbox"))) >= limit:
        return False
    await connection.execute(
        """
        INSERT INTO mail_outbox (
            id, kind, sealed, decoy, priority, attempts, due_at, expires_at, created_at
        ) VALUES (
            :id, :kind, :sealed, :decoy, :priority, :attempts, :due_at, :expires_at, :created_at
        )
        """,
        id=row.id,
        kind=row.kind,
        sealed=row.sealed,
        decoy=int(row.decoy),
        priority=row.priority,
        attempts=row.attempts,
        due_at=row.due_at,
        expires_at=row.expires_at,
        created_at=row.created_at,
    )
    return True


async def count_mails(connection: Connection) -> tuple[int, int | None]:
    """How many mails wait, without decoys, and when the next mail or decoy is due."""
    row = await connection.one("SELECT coalesce(sum(1 - decoy), 0), min(due_at) FROM mail_outbox")
    return (0, None) if row is None else (int(row[0]), row[1])


async def claim_mail(connection: Connection, now: int, pauses: Sequence[int]) -> OutboxRow | None:
    """The next mail that is due. The attempt is counted first: after a crash the mail is due again when the
    pause has passed. `pauses` are milliseconds; the last one is also for all later attempts.
    """
    found = await connection.one(
        """
        SELECT id, kind, sealed, decoy, priority, attempts, due_at, expires_at, created_at FROM mail_outbox
        WHERE due_at <= :now ORDER BY priority, due_at, id LIMIT 1
        """,
        now=now,
    )
    if found is None:
        return None
    mail_id, kind, sealed, decoy, *others = found
    row = OutboxRow(mail_id, kind, bytes(sealed), bool(decoy), *others)
    pause = pauses[min(row.attempts, len(pauses) - 1)]
    await connection.execute(
        "UPDATE mail_outbox SET attempts = attempts + 1, due_at = :due_at WHERE id = :id",
        id=row.id,
        due_at=now + pause,
    )
    return row


async def delay_mail(connection: Connection, mail_id: str, due_at: int) -> None:
    """Do not send the mail before this time."""
    await connection.execute(
        "UPDATE mail_outbox SET due_at = :due_at WHERE id = :id AND due_at < :due_at",
        id=mail_id,
        due_at=due_at,
    )


async def delete_mail(connection: Connection, mail_id: str) -> None:
    await connection.execute("DELETE FROM mail_outbox WHERE id = :id", id=mail_id)
