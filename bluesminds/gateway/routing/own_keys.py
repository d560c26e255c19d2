"""The targets and models that the caller's own keys for vendors add to those of the gateway."""

from collections.abc import Callable, Sequence

from bluesminds.common.errors import NotFound
from bluesminds.common.values import OwnKey
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.health import HealthView
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.policies import select_targets
from bluesminds.gateway.routing.selection import (
    OwnTargets,
    find_own_targets,
    object_server_missing,
    requirement_not_met,
)
from bluesminds.wire.models import ModelRow


def select_with_own(
    own: Sequence[OwnKey],
    catalog: ModelCatalog,
    operation: Operation,
    model: str,
    *,
    health: HealthView,
    random: Callable[[], float],
    load: LoadRegistry | None = None,
    only: frozenset[str] | None = None,
) -> Sequence[Target]:
    """As `select_targets`, after the targets of the caller's own keys that have the model."""
    found = find_own_targets(own, catalog, operation, model, only, names=(model,))
    if found.exclusive:
        if not found.targets and not (operation.estimated and _lacks_endpoint(found)):
            raise _no_own_target(operation, model, found)
        return found.targets
    try:
        others = select_targets(catalog, operation, model, health=health, random=random, load=load, only=only)
    except NotFound:
        if not found.targets:
            raise
        return found.targets
    ejected = [one for one in found.targets if not health.is_usable(one.server.name, one.model or model)]
    return [*(one for one in found.targets if one not in ejected), *others, *ejected]


def with_own_models(rows: Sequence[ModelRow], own: Sequence[OwnKey]) -> Sequence[ModelRow]:
    """The rows, and one for each further model of the keys, sorted by name."""
    known = {row.id for row in rows}
    more = {
        name: ModelRow(id=name, owned_by=key.server.vendor)
        for key in reversed(own)
        for name in key.models - known
    }
    return sorted((*rows, *more.values()), key=lambda row: row.id)


def _lacks_endpoint(found: OwnTargets) -> bool:
    return any(reason == "no_endpoint" for _, reason in found.dropped)


def _no_own_target(operation: Operation, model: str, found: OwnTargets) -> NotFound:
    reasons = {reason for _, reason in found.dropped}
    if "requirement" in reasons:
        return requirement_not_met(model)
    if "other_server" in reasons:
        return object_server_missing(model)
    message = (
        f"Your own key for the model `{model[:200]}` has the mode `only`, and its vendor does not have the"
        f" endpoint {operation.path}. Use another model, or change the mode to `first`."
    )
    return NotFound("unsupported_endpoint", message, param="model")
