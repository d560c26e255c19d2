"""What routes have spent in a day beyond the requests of clients: for hedged requests and for copies."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class ExtraCostRow:
    """`kind`: "hedged" or "shadow". `route`: its model. `day`: since the epoch, UTC."""

    kind: str
    route: str
    day: int
    nano: int


async def store_extra_costs(connection: Connection, rows: Sequence[ExtraCostRow], day: int) -> None:
    """Write the rows, and delete those of days before `day`."""
    await connection.execute("DELETE FROM extra_costs WHERE day < :day", day=day)
    if rows:
        await connection.many(
            """
            INSERT INTO extra_costs (kind, route, day, nano) VALUES (:kind, :route, :day, :nano)
            ON CONFLICT (kind, route) DO UPDATE SET day = excluded.day, nano = excluded.nano
            """,
            rows,
        )


async def select_extra_costs(connection: Connection, day: int) -> Sequence[ExtraCostRow]:
    """The rows of one day."""
    rows = await connection.all("SELECT kind, route, day, nano FROM extra_costs WHERE day = :day", day=day)
    return [ExtraCostRow(*row) for row in rows]
