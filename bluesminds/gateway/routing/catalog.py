"""Which servers there are and which models they offer.

A catalog is immutable and replaced as a whole, so a request sees one consistent state.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from bluesminds.common.values import Server
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.wire.models import ModelRow


def merge_servers(configured: Sequence[Server], stored: Sequence[Server]) -> list[Server]:
    """All servers; a configured one replaces a stored one of the same name."""
    taken = {server.name for server in configured}
    return [*configured, *(server for server in stored if server.name not in taken)]


class ModelCatalog:
    """Servers by model. `discovered` holds, by server name, the models of servers without configured ones.

    With `keyless` it has only servers that accept a client's own key, else those the gateway can call itself.
    """

    def __init__(
        self,
        servers: Iterable[Server],
        discovered: Mapping[str, Sequence[ModelRow]],
        *,
        keyless: bool = False,
    ) -> None:
        self.servers = tuple(servers)
        self._servers_by_model: dict[str, list[Server]] = {}
        self._rows: dict[str, ModelRow] = {}
        self.unlisted = 0  # servers without a known model
        for server in self.servers:
            if not (server.keyless if keyless else server.api_key is not None or not server.keyless):
                continue
            rows = _configured_rows(server) or discovered.get(server.name, ())
            self.unlisted += not rows
            for row in {row.id: row for row in rows}.values():
                self._servers_by_model.setdefault(row.id, []).append(server)
                self._rows.setdefault(row.id, row)

    def servers_for(self, model: str) -> Sequence[Server]:
        return self._servers_by_model.get(model, ())

    def models(self) -> list[ModelRow]:
        """All models, sorted by name."""
        return [self._rows[name] for name in sorted(self._rows)]

    def model(self, name: str) -> ModelRow | None:
        return self._rows.get(name)


def _configured_rows(server: Server) -> list[ModelRow]:
    return [ModelRow(id=model, owned_by="bluesminds") for model in server.models]


class ServerRegistry:
    """The current servers: `configured` ones and those that `load` reads from the database."""

    def __init__(
        self,
        configured: Sequence[Server],
        load: Callable[[], Awaitable[Sequence[Server]]],
        health: ServerHealthRegistry,
    ) -> None:
        self._configured = tuple(configured)
        self._load = load
        self._health = health
        self._discovered: dict[str, list[ModelRow]] = {}
        self.catalog = ModelCatalog(self._configured, {})
        self.keyless = ModelCatalog(self._configured, {}, keyless=True)

    async def reload(self) -> None:
        """Read the stored servers again. Raises what `load` raises."""
        self._replace(merge_servers(self._configured, await self._load()))

    def set_discovered(self, server: str, models: list[ModelRow]) -> None:
        """Store the models that a probe found."""
        if self._discovered.get(server) != models:
            self._discovered[server] = models
            self._replace(self.catalog.servers)

    def has_usable(self) -> bool:
        """Whether at least one server offers a model and is not ejected."""
        return any(
            self._health.is_usable(server.name) and (server.models or self._discovered.get(server.name))
            for server in self.catalog.servers
        )

    def _replace(self, servers: Sequence[Server]) -> None:
        names = {server.name for server in servers}
        self._discovered = {name: rows for name, rows in self._discovered.items() if name in names}
        self._health.keep_only(names)
        self.catalog = ModelCatalog(servers, self._discovered)
        self.keyless = ModelCatalog(servers, self._discovered, keyless=True)
