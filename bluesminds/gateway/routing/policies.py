"""Selects the servers for a model, in the order in which to try them. Pure functions.

Usable servers come before ejected ones, lower priority numbers first. Servers of equal priority are shuffled
by weight: one of weight 2 comes first twice as often as one of weight 1 (Efraimidis and Spirakis, "Weighted
random sampling with a reservoir", 2006: sort by random^(1/weight)).
"""

from collections.abc import Callable, Sequence

from bluesminds.common.errors import NotFound
from bluesminds.common.values import Server
from bluesminds.gateway.routing.catalog import ModelCatalog


def select_targets(
    catalog: ModelCatalog, model: str, *, usable: Callable[[str], bool], random: Callable[[], float]
) -> Sequence[Server]:
    """At least one server, best first. `random` returns [0, 1). Raises NotFound for an unknown model."""
    servers = catalog.servers_for(model)
    if not servers:
        raise NotFound("model_not_found", _not_found_message(catalog, model), param="model")
    if len(servers) == 1:
        return servers
    return sorted(
        servers,
        key=lambda server: (not usable(server.name), server.priority, -(random() ** (1 / server.weight))),
    )


def _not_found_message(catalog: ModelCatalog, model: str) -> str:
    if not catalog.servers:
        return (
            "No server is configured. Add one with `bluesminds servers add` or [[servers]] in gateway.toml."
        )
    return f"No server offers the model `{model[:200]}`. GET /v1/models lists the available models."
