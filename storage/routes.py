"""Routes of models. The caller defines the JSON of `targets`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection, Row


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route. `targets` is JSON as text. No two routes have the same `model`."""

    id: str
    model: str
    targets: str
    policy: str
    fallback: tuple[str, ...]
    fallback_on: tuple[str, ...]
    created_at: int
    updated_at: int


async def insert_route(connection: Connection, route: RouteRow) -> None:
    """Raises IntegrityError if the model has a route."""
    await connection.execute(
        """
        INSERT INTO routes (id, model, targets, policy, fallback, fallback_on, created_at, updated_at)
        VALUES (:id, :model, :targets, :policy, :fallback, :fallback_on, :created_at, :updated_at)
        """,
        id=route.id,
        model=route.model,
        targets=route.targets,
        policy=route.policy,
        fallback=json.dumps(route.fallback),
        fallback_on=json.dumps(route.fallback_on),
        created_at=route.created_at,
        updated_at=route.updated_at,
    )


async def select_routes(connection: Connection) -> Sequence[RouteRow]:
    """All routes, in the order of their creation."""
    rows = await connection.all(
        """
        SELECT id, model, targets, policy, fallback, fallback_on, created_at, updated_at
        FROM routes ORDER BY id
        """
    )
    return [_route_row(row) for row in rows]


async def select_route(connection: Connection, route_id: str) -> RouteRow | None:
    row = await connection.one(
        """
        SELECT id, model, targets, policy, fallback, fallback_on, created_at, updated_at
        FROM routes WHERE id = :id
        """,
        id=route_id,
    )
    return None if row is None else _route_row(row)


async def update_route(connection: Connection, route: RouteRow) -> bool:
    """Write all columns but ID and creation time. False: no such route. Raises IntegrityError."""
    changed = await connection.execute(
        """
        UPDATE routes SET
            model = :model, targets = :targets, policy = :policy, fallback = :fallback,
            fallback_on = :fallback_on, updated_at = :updated_at
        WHERE id = :id
        """,
        id=route.id,
        model=route.model,
        targets=route.targets,
        policy=route.policy,
        fallback=json.dumps(route.fallback),
        fallback_on=json.dumps(route.fallback_on),
        updated_at=route.updated_at,
    )
    return changed == 1


async def delete_route(connection: Connection, route_id: str) -> bool:
    """False: there is no such route."""
    return await connection.execute("DELETE FROM routes WHERE id = :id", id=route_id) == 1


_FALLBACK = RouteRow.__slots__.index("fallback")
_FALLBACK_ON = RouteRow.__slots__.index("fallback_on")


def _route_row(row: Row) -> RouteRow:
    values = list(row)
    values[_FALLBACK] = tuple(json.loads(values[_FALLBACK]))
    values[_FALLBACK_ON] = tuple(json.loads(values[_FALLBACK_ON]))
    return RouteRow(*values)
