"""Who may hand out the limits of this database: one holder at a time, by a lease that runs out by itself.

For PostgreSQL, which processes can share. Its clock alone decides when a lease is over, so no holder's own
clock, however wrong, shortens or prolongs one.
"""

from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """`epoch` grows whenever the lease changes hands or is taken anew; `expires_at` in ms of wall time."""

    holder: str
    epoch: int
    expires_at: int


async def take_lease(connection: Connection, name: str, holder: str, lifetime: int) -> LeaseRow:
    """Take the lease for `lifetime` milliseconds if it is free, over, or the holder's own already. Returns
    the one in force.
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
    """Whether it was still the holder's."""
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
    """Leave it to whoever comes next, at once."""
    await renew_lease(connection, name, holder, epoch, 0)
