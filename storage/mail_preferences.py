"""Which optional mails users have turned off, and the time zone of their mails."""

import json
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class MailPreferencesRow:
    """`turned_off` are groups of mails. `time_zone`: "" for that of the settings."""

    user_id: str
    turned_off: tuple[str, ...]
    time_zone: str
    updated_at: int


async def select_mail_preferences(connection: Connection, user_id: str) -> MailPreferencesRow:
    """With nothing turned off if the user has stored none."""
    row = await connection.one(
        "SELECT user_id, turned_off, time_zone, updated_at FROM mail_preferences WHERE user_id = :user_id",
        user_id=user_id,
    )
    if row is None:
        return MailPreferencesRow(user_id, (), "", 0)
    return MailPreferencesRow(row[0], tuple(json.loads(row[1])), row[2], row[3])


async def put_mail_preferences(connection: Connection, row: MailPreferencesRow) -> None:
    """Insert or replace. Raises IntegrityError if the user does not exist."""
    await connection.execute(
        """
        INSERT INTO mail_preferences (user_id, turned_off, time_zone, updated_at)
        VALUES (:user_id, :turned_off, :time_zone, :updated_at)
        ON CONFLICT (user_id) DO UPDATE SET
            turned_off = excluded.turned_off, time_zone = excluded.time_zone,
            updated_at = excluded.updated_at
        """,
        user_id=row.user_id,
        turned_off=json.dumps(row.turned_off),
        time_zone=row.time_zone,
        updated_at=row.updated_at,
    )
