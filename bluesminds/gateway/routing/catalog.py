"""Model name to servers in the order to try them. Pure: the catalogue, the health and the dice are given.

Order: usable servers before ejected ones, lower priority number first, and within a priority a weighted
shuffle, so that a server of weight 2 comes first twice as often as one of weight 1 (Efraimidis and
Spirakis, 2006: sort by random^(1/weight)).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from bluesminds.common.errors import NotFound
from bluesminds.common.values import Server
from bluesminds.providers.openai import ModelRow


class ModelCatalog:
    """Which servers offer which model: one immutable snapshot, replaced whole when anything changes."""

    def __init__(
        self,
        servers: Iterable[Server],
        discovered: Mapping[str, Sequence[ModelRow]],
        *,
        keyless: bool = False,
    ) -> None:
        """`discovered` holds, by server name, what servers without configured models say they have.

        With `keyless` only what servers offer to clients with keys of their own, else what they offer with
        the gateway's.
        """
        self.servers = tuple(servers)
        self._offers: dict[str, list[Server]] = {}
        self._rows: dict[str, ModelRow] = {}
        for server in self.servers:
            if not (server.keyless if keyless else server.api_key is not None or not server.keyless):
                continue
            rows = [ModelRow(id=model) for model in server.models] or discovered.get(server.name, ())
            for row in {row.id: row for row in rows}.values():
                self._offers.setdefault(row.id, []).append(server)
                self._rows.setdefault(row.id, row)

    def servers_for(self, model: str) -> Sequence[Server]:
        return self._offers.get(model, ())

    def models(self) -> list[ModelRow]:
        """All models, by name."""
        return [self._rows[name] for name in sorted(self._rows)]

    def model(self, name: str) -> ModelRow | None:
        return self._rows.get(name)


def select_targets(
    catalog: ModelCatalog, model: str, *, usable: Callable[[str], bool], dice: Callable[[], float]
) -> Sequence[Server]:
    """The servers to try, best first; at least one. Raises NotFound when none offers the model."""
    servers = catalog.servers_for(model)
    if not servers:
        raise NotFound("model_not_found", _unknown(catalog, model), param="model")
    if len(servers) == 1:
        return servers
    return sorted(
        servers,
        key=lambda server: (not usable(server.name), server.priority, -(dice() ** (1 / server.weight))),
    )


def _unknown(catalog: ModelCatalog, model: str) -> str:
    if not catalog.servers:
        return "No server is configured yet: `bluesminds servers add`, or [[servers]] in gateway.toml."
    return f"The model `{model[:200]}` is not offered here. GET /v1/models lists what is."
