"""Receipts of requests: how each was routed, as JSON that the caller defines. They are written with the usage
rows, in storage/usage.py.
"""

from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """`id` and `at` are those of the usage row. The ids are UUIDv7, which orders receipts by time."""

    id: str
    at: int
    receipt: str


async def select_receipt(connection: Connection, request: str) -> ReceiptRow | None:
    row = await connection.one("SELECT id, at, receipt FROM receipts WHERE id = :id", id=request)
    return None if row is None else ReceiptRow(*row)


async def delete_receipts(connection: Connection, before: str, limit: int) -> int:
    """Delete up to `limit` receipts whose id is below `before`, the oldest first. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM receipts WHERE id IN (
            SELECT id FROM receipts WHERE id < :before ORDER BY id LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )
