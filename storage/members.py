"""Users: the accounts that sign in and own keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.base import Connection

Role = Literal["user", "admin"]


@dataclass(frozen=True, slots=True)
class UserRow:
    """An account. The e-mail address is unique whatever its case; no password hash, no password login."""

    id: str
    email: str | None
    full_name: str
    role: Role
    password_hash: str | None
    disabled_at: int | None
    created_at: int


async def insert_user(connection: Connection, user: UserRow) -> None:
    """Raises Conflict when the e-mail address is taken."""
    await connection.many(
        """
        INSERT INTO users (id, email, full_name, role, password_hash, disabled_at, created_at)
        VALUES (:id, :email, :full_name, :role, :password_hash, :disabled_at, :created_at)
        """,
        [user],
    )


async def select_user(connection: Connection, user_id: str) -> UserRow | None:
    row = await connection.one(
        """
        SELECT id, email, full_name, role, password_hash, disabled_at, created_at
        FROM users WHERE id = :user_id
        """,
        user_id=user_id,
    )
    return None if row is None else UserRow(*row)


async def select_user_by_email(connection: Connection, email: str) -> UserRow | None:
    row = await connection.one(
        """
        SELECT id, email, full_name, role, password_hash, disabled_at, created_at
        FROM users WHERE lower(email) = lower(:email)
        """,
        email=email,
    )
    return None if row is None else UserRow(*row)


async def select_users(connection: Connection, after_id: str = "", limit: int = 100) -> Sequence[UserRow]:
    """A page of users, oldest first."""
    rows = await connection.all(
        """
        SELECT id, email, full_name, role, password_hash, disabled_at, created_at
        FROM users WHERE id > :after_id ORDER BY id LIMIT :limit
        """,
        after_id=after_id,
        limit=limit,
    )
    return [UserRow(*row) for row in rows]


async def update_user(connection: Connection, user: UserRow) -> bool:
    """Write all but the id and the creation time; whether the user exists. Raises Conflict."""
    changed = await connection.execute(
        """
        UPDATE users SET
            email = :email, full_name = :full_name, role = :role,
            password_hash = :password_hash, disabled_at = :disabled_at
        WHERE id = :id
        """,
        id=user.id,
        email=user.email,
        full_name=user.full_name,
        role=user.role,
        password_hash=user.password_hash,
        disabled_at=user.disabled_at,
    )
    return changed == 1


async def has_admin(connection: Connection) -> bool:
    """Whether any enabled administrator exists."""
    found = await connection.value("SELECT 1 FROM users WHERE role = 'admin' AND disabled_at IS NULL LIMIT 1")
    return found is not None
