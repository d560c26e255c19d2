"""Keys of users for vendors, encrypted (sealed) by the caller."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from storage.base import Connection, Row

VendorKeyMode = Literal["first", "only"]


@dataclass(frozen=True, slots=True)
class VendorKeyRow:
    """`models`: what the user named. `listed`: what the vendor listed in the last test. `problem`: the
    problem that this test found.
    """

    id: str
    user_id: str
    vendor: str
    sealed_api_key: bytes
    last4: str
    mode: VendorKeyMode
    models: tuple[str, ...]
    listed: tuple[str, ...]
    problem: str | None
    tested_at: int
    created_at: int
    updated_at: int


_LISTS: Final = [at for at, field in enumerate(fields(VendorKeyRow)) if field.name in ("models", "listed")]


async def insert_vendor_key(connection: Connection, row: VendorKeyRow) -> None:
    """Raises IntegrityError if the user has a key of this vendor, or does not exist."""
    await connection.execute(
        """
        INSERT INTO vendor_keys (
            id, user_id, vendor, sealed_api_key, last4, mode, models, listed, problem, tested_at, created_at,
            updated_at
        ) VALUES (
            :id, :user_id, :vendor, :sealed_api_key, :last4, :mode, :models, :listed, :problem, :tested_at,
            :created_at, :updated_at
        )
        """,
        user_id=row.user_id,
        vendor=row.vendor,
        created_at=row.created_at,
        **_changeable(row),
    )


async def select_vendor_keys(connection: Connection, user_id: str) -> Sequence[VendorKeyRow]:
    """All keys of a user, in the order of their creation."""
    rows = await connection.all(
        """
        SELECT
            id, user_id, vendor, sealed_api_key, last4, mode, models, listed, problem, tested_at, created_at,
            updated_at
        FROM vendor_keys WHERE user_id = :user_id ORDER BY id
        """,
        user_id=user_id,
    )
    return [_row(row) for row in rows]


async def select_vendor_key(connection: Connection, user_id: str, key_id: str) -> VendorKeyRow | None:
    row = await connection.one(
        """
        SELECT
            id, user_id, vendor, sealed_api_key, last4, mode, models, listed, problem, tested_at, created_at,
            updated_at
        FROM vendor_keys WHERE id = :id AND user_id = :user_id
        """,
        id=key_id,
        user_id=user_id,
    )
    return None if row is None else _row(row)


async def update_vendor_key(connection: Connection, row: VendorKeyRow) -> None:
    """Write all columns but ID, user, vendor and creation time."""
    await connection.execute(
        """
        UPDATE vendor_keys SET
            sealed_api_key = :sealed_api_key, last4 = :last4, mode = :mode, models = :models,
            listed = :listed, problem = :problem, tested_at = :tested_at, updated_at = :updated_at
        WHERE id = :id
        """,
        **_changeable(row),
    )


async def delete_vendor_key(connection: Connection, key_id: str) -> None:
    await connection.execute("DELETE FROM vendor_keys WHERE id = :id", id=key_id)


def _changeable(row: VendorKeyRow) -> dict[str, Any]:
    """What `update_vendor_key` writes, and the ID, as column values."""
    return {
        "id": row.id,
        "sealed_api_key": row.sealed_api_key,
        "last4": row.last4,
        "mode": row.mode,
        "models": json.dumps(row.models),
        "listed": json.dumps(row.listed),
        "problem": row.problem,
        "tested_at": row.tested_at,
        "updated_at": row.updated_at,
    }


def _row(row: Row) -> VendorKeyRow:
    values = list(row)
    for at in _LISTS:
        values[at] = tuple(json.loads(values[at]))
    return VendorKeyRow(*values)
