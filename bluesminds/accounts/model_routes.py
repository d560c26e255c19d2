"""Routes in the database. Each change is in the audit log."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from msgspec import UNSET, Struct, UnsetType, json, structs

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import Conflict, NotFound
from bluesminds.common.routes import (
    FallbackReason,
    ModelRoute,
    Policy,
    RouteCondition,
    RouteOptions,
    RouteTarget,
)
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, IntegrityError, Store
from storage.routes import RouteRow, delete_route, insert_route, select_route, select_routes, update_route


class RouteChanges(Struct, frozen=True):
    """The fields to change. UNSET fields stay the same."""

    model: str | UnsetType = UNSET
    targets: tuple[RouteTarget, ...] | UnsetType = UNSET
    policy: Policy | UnsetType = UNSET
    fallback: tuple[str, ...] | UnsetType = UNSET
    fallback_on: tuple[FallbackReason, ...] | UnsetType = UNSET
    when: RouteCondition | UnsetType | None = UNSET
    options: RouteOptions | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}


class StoredRoutes:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def add(self, actor: Actor, route: ModelRoute) -> ModelRoute:
        """The route with its new id. Raises Conflict."""
        now = self._clock.now_ms()
        route = structs.replace(route, id=uuid7(now), origin="table")
        row = _row(route, now)
        audit = entry(self._clock, actor, "route.add", route.id, after=_audit_fields(row))
        try:
            await self._store.write(_insert, row, audit)
        except IntegrityError as exc:
            raise route_exists() from exc
        return route

    async def update(self, actor: Actor, route_id: str, changes: RouteChanges) -> ModelRoute:
        """Change the given fields. Raises NotFound and Conflict."""
        try:
            return await self._store.write(_update, self._clock, actor, route_id, changes)
        except IntegrityError as exc:
            raise route_exists() from exc

    async def remove(self, actor: Actor, route_id: str) -> None:
        """Raises NotFound."""
        await self._store.write(_delete, self._clock, actor, route_id)

    async def load(self) -> Sequence[ModelRoute]:
        """All routes, in the order of their creation."""
        return [_route(row) for row in await self._store.read(select_routes)]


def route_exists() -> Conflict:
    return Conflict(
        "route_exists", "There is already a route with this model and these conditions. Change that route."
    )


def _row(route: ModelRoute, now: int) -> RouteRow:
    stored = structs.replace(route, id="", origin="table")
    return RouteRow(
        id=route.id,
        model=route.model,
        conditions="" if route.when is None else json.encode(route.when).decode(),
        definition=json.encode(stored).decode(),
        created_at=now,
        updated_at=now,
    )


def _route(row: RouteRow) -> ModelRoute:
    return structs.replace(json.decode(row.definition, type=ModelRoute), id=row.id)


def _audit_fields(row: RouteRow) -> dict[str, object]:
    fields: dict[str, object] = json.decode(row.definition)
    return {name: value for name, value in fields.items() if name not in ("id", "origin")}


async def _insert(connection: Connection, row: RouteRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_route(connection, row)


async def _update(
    connection: Connection, clock: Clock, actor: Actor, route_id: str, changes: RouteChanges
) -> ModelRoute:
    await lock_audit_head(connection)
    before = await _select(connection, route_id)
    route = structs.replace(_route(before), **changes.given())
    after = replace(_row(route, clock.now_ms()), created_at=before.created_at)
    audit = entry(
        clock, actor, "route.update", route_id, before=_audit_fields(before), after=_audit_fields(after)
    )
    await insert_audit(connection, audit)
    await update_route(connection, after)
    return route


async def _delete(connection: Connection, clock: Clock, actor: Actor, route_id: str) -> None:
    await lock_audit_head(connection)
    row = await _select(connection, route_id)
    await insert_audit(connection, entry(clock, actor, "route.remove", route_id, before=_audit_fields(row)))
    await delete_route(connection, route_id)


async def _select(connection: Connection, route_id: str) -> RouteRow:
    """Raises NotFound."""
    row = await select_route(connection, route_id)
    if row is None:
        message = "There is no route with this id. GET /api/admin/routes lists all routes."
        raise NotFound("route_not_found", message)
    return row
