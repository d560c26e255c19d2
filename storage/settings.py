"""Named values that the product stores for itself, such as the digest of the first-run token."""

from typing import Final

from storage.base import Connection

USAGE_DELETED_BEFORE: Final = "usage_deleted_before"
"""Milliseconds: older usage rows were deleted because of their age."""


async def select_setting(connection: Connection, name: str) -> str | None:
    row = await connection.one("SELECT value FROM settings WHERE name = :name", name=name)
    return None if row is None else row[0]


async def put_setting(connection: Connection, name: str, value: str) -> None:
    await connection.execute(
        """
        INSERT INTO settings (name, value) VALUES (:name, :value)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value
        """,
        name=name,
        value=value,
    )


async def insert_setting(connection: Connection, name: str, value: str) -> bool:
    """Store a value unless the name has one. False: nothing was changed."""
    added = await connection.execute(
        "INSERT INTO settings (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING",
        name=name,
        value=value,
    )
    return added == 1


async def delete_setting(connection: Connection, name: str) -> bool:
    """False: there is no such setting."""
    return await connection.execute("DELETE FROM settings WHERE name = :name", name=name) == 1
