"""Objects that requests created at servers, such as files, and the accounts that they belong to.

A server's ID is unique at that server only: two servers may use the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection
from storage.id_lists import IN_POSTGRES, IN_SQLITE, id_list


@dataclass(frozen=True, slots=True)
class ServerObjectRow:
    """`user_id` is None if the account was deleted: the object then belongs to no account. `expires_at` None:
    the row is kept until the object is deleted.
    """

    id: str
    server: str
    kind: str
    user_id: str | None
    key_id: str
    created_at: int
    expires_at: int | None


async def insert_objects(connection: Connection, rows: Sequence[ServerObjectRow]) -> Sequence[str]:
    """Store objects that are not known yet. Returns the IDs of those that belong to another account.

    Raises IntegrityError if the account was deleted.
    """
    refused = []
    for row in rows:
        added = await connection.execute(
            """
            INSERT INTO server_objects (id, server, kind, user_id, key_id, created_at, expires_at)
            VALUES (:id, :server, :kind, :user_id, :key_id, :created_at, :expires_at)
            ON CONFLICT (id, server) DO NOTHING
            """,
            id=row.id,
            server=row.server,
            kind=row.kind,
            user_id=row.user_id,
            key_id=row.key_id,
            created_at=row.created_at,
            expires_at=row.expires_at,
        )
        if not added:
            owner = await connection.value(
                "SELECT user_id FROM server_objects WHERE id = :id AND server = :server",
                id=row.id,
                server=row.server,
            )
            if owner != row.user_id:
                refused.append(row.id)
    return refused


async def select_objects(connection: Connection, ids: Sequence[str], now: int) -> Sequence[ServerObjectRow]:
    """The objects with these IDs, of all accounts and servers, that have not expired."""
    statement = SELECT_SQLITE if connection.engine == "sqlite" else SELECT_POSTGRES
    rows = await connection.all(statement, ids=id_list(connection, ids), now=now)
    return [ServerObjectRow(*row) for row in rows]


async def has_objects(connection: Connection, user_id: str, server: str, kind: str) -> bool:
    """Whether the account has objects of this kind at the server."""
    found = await connection.value(
        """
        SELECT 1 FROM server_objects WHERE user_id = :user_id AND server = :server AND kind = :kind LIMIT 1
        """,
        user_id=user_id,
        server=server,
        kind=kind,
    )
    return found is not None


async def delete_object(connection: Connection, object_id: str, server: str, user_id: str) -> bool:
    """False: the account has no such object."""
    deleted = await connection.execute(
        "DELETE FROM server_objects WHERE id = :id AND server = :server AND user_id = :user_id",
        id=object_id,
        server=server,
        user_id=user_id,
    )
    return deleted == 1


async def delete_expired_objects(connection: Connection, now: int) -> int:
    """Returns how many were deleted."""
    return await connection.execute("DELETE FROM server_objects WHERE expires_at <= :now", now=now)


_SELECT = """
    SELECT id, server, kind, user_id, key_id, created_at, expires_at
    FROM server_objects WHERE (expires_at IS NULL OR expires_at > :now) AND id
"""
SELECT_SQLITE = _SELECT + IN_SQLITE + " ORDER BY id, server"
SELECT_POSTGRES = _SELECT + IN_POSTGRES + " ORDER BY id, server"
