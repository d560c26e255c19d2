"""Single-use tokens of links in mail. Only digests are stored; a single UPDATE marks a token as used."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

from storage.base import Connection

Purpose = Literal["verify_email", "reset_password", "invite"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """`digest` is the token's 32-byte SHA-256, `email` the address it was sent to, `id` is shown in lists."""

    id: str
    digest: bytes
    purpose: Purpose
    user_id: str | None
    email: str
    created_at: int
    expires_at: int
    used_at: int | None = None


async def insert_token(connection: Connection, token: TokenRow) -> None:
    """Raises IntegrityError if the user does not exist."""
    await connection.many(
        """
        INSERT INTO one_time_tokens (id, digest, purpose, user_id, email, created_at, expires_at, used_at)
        VALUES (:id, :digest, :purpose, :user_id, :email, :created_at, :expires_at, :used_at)
        """,
        [token],
    )


async def select_token(connection: Connection, digest: bytes, purpose: Purpose, now: int) -> TokenRow | None:
    """A token that is neither used nor expired."""
    row = await connection.one(
        """
        SELECT id, digest, purpose, user_id, email, created_at, expires_at, used_at FROM one_time_tokens
        WHERE digest = :digest AND purpose = :purpose AND used_at IS NULL AND expires_at > :now
        """,
        digest=digest,
        purpose=purpose,
        now=now,
    )
    return None if row is None else TokenRow(*row)


async def select_invites(
    connection: Connection, now: int, email: str | None, after_id: str, limit: int
) -> Sequence[TokenRow]:
    """Invitations that are neither used nor expired, with an ID above `after_id`, oldest first."""
    rows = await connection.all(
        """
        SELECT id, digest, purpose, user_id, email, created_at, expires_at, used_at FROM one_time_tokens
        WHERE purpose = 'invite' AND used_at IS NULL AND expires_at > :now AND id > :after_id
            AND (CAST(:email AS TEXT) IS NULL OR lower(email) = lower(:email))
        ORDER BY id LIMIT :limit
        """,
        now=now,
        email=email,
        after_id=after_id,
        limit=limit,
    )
    return [TokenRow(*row) for row in rows]


async def select_invite(connection: Connection, invite_id: str, now: int) -> TokenRow | None:
    """An invitation that is neither used nor expired."""
    row = await connection.one(
        """
        SELECT id, digest, purpose, user_id, email, created_at, expires_at, used_at FROM one_time_tokens
        WHERE id = :invite_id AND purpose = 'invite' AND used_at IS NULL AND expires_at > :now
        """,
        invite_id=invite_id,
        now=now,
    )
    return None if row is None else TokenRow(*row)


async def use_token(connection: Connection, digest: bytes, purpose: Purpose, now: int) -> bool:
    """Mark a token as used. True for only one of several concurrent calls."""
    used = await connection.execute(
        """
        UPDATE one_time_tokens SET used_at = :now
        WHERE digest = :digest AND purpose = :purpose AND used_at IS NULL AND expires_at > :now
        """,
        digest=digest,
        purpose=purpose,
        now=now,
    )
    return used == 1


async def delete_invite(connection: Connection, invite_id: str) -> None:
    """Delete an invitation."""
    await connection.execute("DELETE FROM one_time_tokens WHERE id = :invite_id", invite_id=invite_id)


async def delete_invites(connection: Connection, email: str, now: int) -> Sequence[TokenRow]:
    """Delete the invitations to an address that are neither used nor expired. Returns them, oldest first."""
    # An invitation has no user_id; with this condition the index is used.
    rows = await connection.all(
        """
        DELETE FROM one_time_tokens
        WHERE user_id IS NULL AND purpose = 'invite' AND used_at IS NULL AND expires_at > :now
            AND lower(email) = lower(:email)
        RETURNING id, digest, purpose, user_id, email, created_at, expires_at, used_at
        """,
        email=email,
        now=now,
    )
    return [TokenRow(*row) for row in sorted(rows, key=itemgetter(0))]


async def delete_tokens(connection: Connection, user_id: str, purpose: Purpose) -> None:
    """Delete the tokens of a user for a purpose."""
    await connection.execute(
        "DELETE FROM one_time_tokens WHERE user_id = :user_id AND purpose = :purpose",
        user_id=user_id,
        purpose=purpose,
    )


async def delete_ended_tokens(connection: Connection, now: int) -> int:
    """Delete expired tokens. Returns how many."""
    return await connection.execute("DELETE FROM one_time_tokens WHERE expires_at <= :now", now=now)
