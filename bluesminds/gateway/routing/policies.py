"""Selects the servers for an operation on a model, in the order in which to try them. Pure functions.

Usable servers come before ejected ones, lower priority numbers first. Servers of equal priority are shuffled
by weight: one of weight 2 comes first twice as often as one of weight 1 (Efraimidis and Spirakis, "Weighted
random sampling with a reservoir", 2006: sort by random^(1/weight)).
"""

from collections.abc import Callable, Sequence

from bluesminds.common.errors import NotFound
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.plans import Target, make_plan


def select_targets(
    catalog: ModelCatalog,
    operation: Operation,
    model: str,
    *,
    usable: Callable[[str], bool],
    random: Callable[[], float],
    only: frozenset[str] | None = None,
) -> Sequence[Target]:
    """The targets, best first. `random` returns [0, 1). `only`: the names of the servers that have what the
    request refers to. Raises NotFound for an unknown model, and if no server of the model has the endpoint or
    is in `only`. The result may be empty for an operation that the gateway can estimate.
    """
    servers = catalog.servers_for(model)
    if not servers:
        raise NotFound("model_not_found", _not_found_message(catalog, model), param="model")
    if only is not None:
        servers = [server for server in servers if server.name in only]
        if not servers:
            message = (
                "The server with the earlier response or object that the request refers to does not offer the"
                f" model `{model[:200]}`, or is not configured any more."
            )
            raise NotFound("object_server_missing", message, param="model")
    targets = [
        Target(server, plan) for server in servers if (plan := make_plan(operation, server)) is not None
    ]
    if not targets and not operation.estimated:
        message = f"No server that offers the model `{model[:200]}` has the endpoint {operation.path}."
        raise NotFound("unsupported_endpoint", message, param="model")
    if len(targets) > 1:
        targets.sort(
            key=lambda target: (
                not usable(target.server.name),
                target.server.priority,
                -(random() ** (1 / target.server.weight)),
            )
        )
    return targets


def _not_found_message(catalog: ModelCatalog, model: str) -> str:
    if not catalog.servers:
        return (
            "No server is configured. Add one with `bluesminds servers add` or [[servers]] in gateway.toml."
        )
    message = f"No server offers the model `{model[:200]}`. GET /v1/models lists the available models."
    if catalog.unlisted:
        servers = "1 server" if catalog.unlisted == 1 else f"{catalog.unlisted} servers"
        message += f" {servers} listed no models and may be down."
    return message
