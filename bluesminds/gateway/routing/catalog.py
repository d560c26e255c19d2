"""Which servers there are and which models they offer.

A catalog is immutable and replaced as a whole, so a request sees one consistent state.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from bluesminds.common.routes import ModelRoute, RouteTable
from bluesminds.common.values import Server
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.rotation import RotationRegistry
from bluesminds.wire.models import ModelRow


def merge_servers(configured: Sequence[Server], stored: Sequence[Server]) -> list[Server]:
    """All servers; a configured one replaces a stored one of the same name."""
    taken = {server.name for server in configured}
    return [*configured, *(server for server in stored if server.name not in taken)]


class ModelCatalog:
    """Servers by model. `discovered` holds, by server name, the models of servers without configured ones.

    With `keyless` it has only servers that accept a client's own key, else those the gateway can call itself.
    `routes` is None if there is none. Routes do not apply with `keyless`: they could send a client's key to
    a server that it is not for.
    """

    def __init__(
        self,
        servers: Iterable[Server],
        discovered: Mapping[str, Sequence[ModelRow]],
        routes: Sequence[ModelRoute] = (),
        *,
        keyless: bool = False,
    ) -> None:
        self.servers = tuple(servers)
        self.routes = RouteTable(routes) if routes and not keyless else None
        self._servers_by_name: dict[str, Server] = {}
        self._listing: set[str] = set()  # servers whose models are known
        self._servers_by_model: dict[str, list[Server]] = {}
        self._rows: dict[str, ModelRow] = {}
        self.unlisted = 0  # servers without a known model
        for server in self.servers:
            if not (server.keyless if keyless else server.api_key is not None or not server.keyless):
                continue
            self._servers_by_name[server.name] = server
            rows = _configured_rows(server) or discovered.get(server.name, ())
            self.unlisted += not rows
            if rows:
                self._listing.add(server.name)
            for row in {row.id: row for row in rows}.values():
                self._servers_by_model.setdefault(row.id, []).append(server)
                self._rows.setdefault(row.id, row)
        for route in self.routes.exact_routes() if self.routes else ():
            if not route.targets or any(one.server in self._servers_by_name for one in route.targets):
                self._add_route(route)

    def _add_route(self, route: ModelRoute) -> None:
        if route.targets or any(name in self._rows for name in route.fallback):
            self._rows.setdefault(route.model, ModelRow(id=route.model, owned_by="bluesminds"))

    def server(self, name: str) -> Server | None:
        """A server that can be used."""
        return self._servers_by_name.get(name)

    def may_offer(self, server: str, model: str) -> bool:
        """False if the models of the server are known, and this one is not among them."""
        return server not in self._listing or any(one.name == server for one in self.servers_for(model))

    def servers_for(self, model: str) -> Sequence[Server]:
        return self._servers_by_model.get(model, ())

    def models(self) -> list[ModelRow]:
        """All models, and the names of routes, sorted by name."""
        return [self._rows[name] for name in sorted(self._rows)]

    def model(self, name: str) -> ModelRow | None:
        return self._rows.get(name)


def _configured_rows(server: Server) -> list[ModelRow]:
    return [ModelRow(id=model, owned_by="bluesminds") for model in server.models]


class ServerRegistry:
    """The current servers: `configured` ones and those that `load_servers` reads from the database."""

    def __init__(
        self,
        configured: Sequence[Server],
        load_servers: Callable[[], Awaitable[Sequence[Server]]],
        health: ServerHealthRegistry,
        load: LoadRegistry,
        rotations: RotationRegistry,
        routes: Sequence[ModelRoute] = (),
    ) -> None:
        self._configured = tuple(configured)
        self._load_servers = load_servers
        self._health = health
        self._load = load
        self._rotations = rotations
        self._routes = tuple(routes)
        self._discovered: dict[str, list[ModelRow]] = {}
        self._replace(self._configured)

    async def reload(self) -> None:
        """Read the stored servers again. Raises what `load_servers` raises."""
        self._replace(merge_servers(self._configured, await self._load_servers()))

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
        self._load.keep_only(names)
        self._load.enabled = bool(self._routes)
        self._rotations.keep_only({route.model for route in self._routes})
        self.catalog = ModelCatalog(servers, self._discovered, self._routes)
        self.keyless = ModelCatalog(servers, self._discovered, keyless=True)
