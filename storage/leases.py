"""Leases: a name has at most one holder, until the lease expires.

For PostgreSQL, which several instances can share. Only the database's clock decides whether a lease has
expired, so a wrong clock of an instance does no harm.
"""

from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """`epoch` grows each time the lease is taken. `expires_at` is in milliseconds."""

    holder: str
    epoch: int
    expires_at: int


async def take_lease(connection: Connection, name: str, holder: str, lifetime: int) -> LeaseRow:
    """Take the lease for `lifetime` milliseconds if it is free, expired or already held by `holder`.

    Returns the lease in force.
    """
    await connection.execute(
        """
        INSERT INTO leases (name, holder, epoch, expires_at)
        VALUES (:name, :holder, 1, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) + :lifetime)
        ON CONFLICT (name) DO UPDATE SET
            holder = excluded.holder, epoch = leases.epoch + 1, expires_at = excluded.expires_at
        WHERE leases.holder = excluded.holder
            OR leases.expires_at <= CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)
        """,
        name=name,
        holder=holder,
        lifetime=lifetime,
    )
    (row,) = await connection.all(
        "SELECT holder, epoch, expires_at FROM leases WHERE name = :name", name=name
    )
    return LeaseRow(*row)


async def renew_lease(connection: Connection, name: str, holder: str, epoch: int, lifetime: int) -> bool:
    """Extend the lease. False: it is not held by `holder` with this epoch any more."""
    changed = await connection.execute(
        """
        UPDATE leases
        SET expires_at = CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT) + :lifetime
        WHERE name = :name AND holder = :holder AND epoch = :epoch
        """,
        name=name,
        holder=holder,
        epoch=epoch,
        lifetime=lifetime,
    )
    return changed == 1


async def end_lease(connection: Connection, name: str, holder: str, epoch: int) -> None:
    """Release the lease at once."""
    await renew_lease(connection, name, holder, epoch, 0)
