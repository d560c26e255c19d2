"""Routes of models. The caller defines the JSON of `conditions` and `definition`."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route. `conditions` ("" for none) and `definition` are JSON as text. No two routes have the same
    `model` and `conditions`.
    """

    id: str
    model: str
    conditions: str
    definition: str
    created_at: int
    updated_at: int


async def insert_route(connection: Connection, route: RouteRow) -> None:
    """Raises IntegrityError if there is a route with the same model and conditions."""
    await connection.many(
        """
        INSERT INTO routes (id, model, conditions, definition, created_at, updated_at)
        VALUES (:id, :model, :conditions, :definition, :created_at, :updated_at)
        """,
        [route],
    )


async def select_routes(connection: Connection) -> Sequence[RouteRow]:
    """All routes, in the order of their creation."""
    rows = await connection.all(
        "SELECT id, model, conditions, definition, created_at, updated_at FROM routes ORDER BY id"
    )
    return [RouteRow(*row) for row in rows]


async def select_route(connection: Connection, route_id: str) -> RouteRow | None:
    row = await connection.one(
        "SELECT id, model, conditions, definition, created_at, updated_at FROM routes WHERE id = :id",
        id=route_id,
    )
    return None if row is None else RouteRow(*row)


async def update_route(connection: Connection, route: RouteRow) -> bool:
    """Write all columns but ID and creation time. False: no such route. Raises IntegrityError."""
    changed = await connection.execute(
        """
        UPDATE routes SET
            model = :model, conditions = :conditions, definition = :definition, updated_at = :updated_at
        WHERE id = :id
        """,
        id=route.id,
        model=route.model,
        conditions=route.conditions,
        definition=route.definition,
        updated_at=route.updated_at,
    )
    return changed == 1


async def delete_route(connection: Connection, route_id: str) -> bool:
    """False: there is no such route."""
    return await connection.execute("DELETE FROM routes WHERE id = :id", id=route_id) == 1
