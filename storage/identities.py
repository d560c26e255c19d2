"""Identities of users at services that they sign in with. An identity is an issuer and a subject."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """`provider` is the name in the settings at the time of the link, `email` what the provider last said."""

    id: str
    user_id: str
    provider: str
    issuer: str
    subject: str
    email: str | None
    created_at: int
    last_used_at: int


async def insert_identity(connection: Connection, row: IdentityRow) -> None:
    """Raises IntegrityError if the identity is linked already, or the user does not exist."""
    await connection.many(
        """
        INSERT INTO identities (id, user_id, provider, issuer, subject, email, created_at, last_used_at)
        VALUES (:id, :user_id, :provider, :issuer, :subject, :email, :created_at, :last_used_at)
        """,
        [row],
    )


async def select_identity(connection: Connection, issuer: str, subject: str) -> IdentityRow | None:
    row = await connection.one(
        """
        SELECT id, user_id, provider, issuer, subject, email, created_at, last_used_at
        FROM identities WHERE issuer = :issuer AND subject = :subject
        """,
        issuer=issuer,
        subject=subject,
    )
    return None if row is None else IdentityRow(*row)


async def select_identities(connection: Connection, user_id: str) -> Sequence[IdentityRow]:
    """All identities of a user, in the order of their links."""
    rows = await connection.all(
        """
        SELECT id, user_id, provider, issuer, subject, email, created_at, last_used_at
        FROM identities WHERE user_id = :user_id ORDER BY id
        """,
        user_id=user_id,
    )
    return [IdentityRow(*row) for row in rows]


async def touch_identity(connection: Connection, identity_id: str, email: str | None, at: int) -> None:
    """Store the time of a sign-in and the address that came with it."""
    await connection.execute(
        "UPDATE identities SET email = :email, last_used_at = :at WHERE id = :identity_id",
        identity_id=identity_id,
        email=email,
        at=at,
    )


async def delete_identity(connection: Connection, identity_id: str) -> None:
    await connection.execute("DELETE FROM identities WHERE id = :identity_id", identity_id=identity_id)
