"""Deletes old usage: rows of the log, and sums. Each call is one short transaction."""

from collections.abc import Mapping
from typing import Final, Literal, LiteralString

from storage.base import Connection
from storage.settings import USAGE_DELETED_BEFORE, put_setting

SumTable = Literal[
    "usage_hourly",
    "usage_site_hourly",
    "usage_daily",
    "usage_key_daily",
    "usage_site_daily",
    "usage_meters",
]


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


def _statement(table: LiteralString, key: LiteralString) -> LiteralString:
    """`key`: the columns of the primary key."""
    return (
        "DELETE FROM "  # noqa: S608 - literals
        + table
        + " WHERE ("
        + key
        + ") IN (SELECT "
        + key
        + " FROM "
        + table
        + " WHERE bucket_start < :before ORDER BY "
        + key
        + " LIMIT :limit)"
    )


_OF_EACH: LiteralString = "bucket_start, key_id, user_id, model, server"
_OF_KEY: LiteralString = "bucket_start, key_id, user_id"
_OF_SITE: LiteralString = "bucket_start, model, server"
DELETE_SUMS: Final[Mapping[SumTable, LiteralString]] = {
    "usage_hourly": _statement("usage_hourly", _OF_EACH),
    "usage_site_hourly": _statement("usage_site_hourly", _OF_SITE),
    "usage_daily": _statement("usage_daily", _OF_EACH),
    "usage_key_daily": _statement("usage_key_daily", _OF_KEY),
    "usage_site_daily": _statement("usage_site_daily", _OF_SITE),
    "usage_meters": _statement("usage_meters", _OF_SITE),
}


async def delete_sums(connection: Connection, table: SumTable, before: int, limit: int) -> int:
    """Delete up to `limit` sums of hours or days that began before `before`. Returns their number."""
    return await connection.execute(DELETE_SUMS[table], before=before, limit=limit)
