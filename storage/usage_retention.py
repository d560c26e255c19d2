"""Deletes old usage: rows of the log, and sums. Each call is one short transaction."""

from storage.base import Connection
from storage.settings import USAGE_DELETED_BEFORE, put_setting


async def delete_usage(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` rows of the log that are older than `before`, the oldest first. Returns their
    number. The sums stay. The time is kept, because charges before it have no row.
    """
    deleted = await connection.execute(
        """
        DELETE FROM usage WHERE (at, id) IN (
            SELECT at, id FROM usage WHERE at < :before ORDER BY at, id LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )
    if deleted:
        await put_setting(connection, USAGE_DELETED_BEFORE, str(before))
    return deleted


async def delete_usage_hours(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` sums of hours that began before `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM usage_hourly WHERE (bucket_start, key_id, user_id, model, server) IN (
            SELECT bucket_start, key_id, user_id, model, server FROM usage_hourly
            WHERE bucket_start < :before
            ORDER BY bucket_start, key_id, user_id, model, server LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )


async def delete_usage_days(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` sums of days that began before `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM usage_daily WHERE (bucket_start, key_id, user_id, model, server) IN (
            SELECT bucket_start, key_id, user_id, model, server FROM usage_daily
            WHERE bucket_start < :before
            ORDER BY bucket_start, key_id, user_id, model, server LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )


async def delete_key_days(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` sums of keys for days that began before `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM usage_key_daily WHERE (bucket_start, key_id, user_id) IN (
            SELECT bucket_start, key_id, user_id FROM usage_key_daily
            WHERE bucket_start < :before
            ORDER BY bucket_start, key_id, user_id LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )


async def delete_site_hours(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` sums of all users for hours that began before `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM usage_site_hourly WHERE (bucket_start, model, server) IN (
            SELECT bucket_start, model, server FROM usage_site_hourly
            WHERE bucket_start < :before ORDER BY bucket_start, model, server LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )


async def delete_site_days(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` sums of all users for days that began before `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM usage_site_daily WHERE (bucket_start, model, server) IN (
            SELECT bucket_start, model, server FROM usage_site_daily
            WHERE bucket_start < :before ORDER BY bucket_start, model, server LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )


async def delete_meter_days(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` sums of the two meters of days before `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM usage_meters WHERE (bucket_start, model, server) IN (
            SELECT bucket_start, model, server FROM usage_meters
            WHERE bucket_start < :before ORDER BY bucket_start, model, server LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )
