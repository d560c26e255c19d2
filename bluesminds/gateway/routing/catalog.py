"""Which servers there are and which models they offer.

A catalog is immutable and replaced as a whole, so a request sees one consistent state.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

from msgspec import structs

from bluesminds.common.money import Price
from bluesminds.common.routes import ModelRoute, RouteTable
from bluesminds.common.values import OWN, Requirement, Server
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.load import LoadRegistry
from bluesminds.gateway.routing.rotation import RotationRegistry
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.wire.models import ModelRow

MAX_RESTRICTED: Final = 64  # catalogs
PriceFinder = Callable[[Server | None, str, str], Price | None]
"""Finds a price by the server, its name for the model, and the client's name if that differs."""


def find_no_price(server: Server | None, model: str, served: str) -> Price | None:
    return None


def merge_servers(configured: Sequence[Server], stored: Sequence[Server]) -> list[Server]:
    """All servers; a configured one replaces a stored one of the same name."""
    taken = {server.name for server in configured}
    return [*configured, *(server for server in stored if server.name not in taken)]


class ModelCatalog:
    """Servers by model. `discovered` holds, by server name, the models of servers without configured ones.

    With `keyless` it has only servers that accept a client's own key, else those the gateway can call itself.
    With `required`, it has only servers that meet the requirement; `excluded` has the names of the others.
    `routes` is None if there is none. Routes do not apply with `keyless`: they could send a client's key to
    a server that it is not for.
    """

    def __init__(
        self,
        servers: Iterable[Server],
        discovered: Mapping[str, Sequence[ModelRow]],
        routes: Sequence[ModelRoute] = (),
        *,
        find_price: PriceFinder = find_no_price,
        keyless: bool = False,
        required: Requirement | None = None,
    ) -> None:
        everything = tuple(servers)
        self.required = required
        self.servers = everything if required is None else tuple(filter(required.allows, everything))
        self.excluded = frozenset(one.name for one in everything) - {one.name for one in self.servers}
        self.routes = RouteTable(routes) if routes and not keyless else None
        self._servers_by_name: dict[str, Server] = {}
        self._listing: set[str] = set()  # servers whose models are known
        self._servers_by_model: dict[str, list[Server]] = {}
        self._all_by_model: dict[str, list[Server]] = {}  # with those that are draining
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
                self._all_by_model.setdefault(row.id, []).append(server)
                if server.mode == "draining":
                    continue
                self._servers_by_model.setdefault(row.id, []).append(server)
                self._rows[row.id] = _merge_rows(self._rows.get(row.id), row)
        priced = {
            name: _with_price(row, find_price(self._servers_by_model[name][0], name, ""))
            for name, row in self._rows.items()
        }
        for route in self.routes.exact_routes() if self.routes else ():
            if self._is_served(route):
                priced[route.model] = self._route_row(route, find_price)
        self._sorted = [priced[name] for name in sorted(priced)]
        self._rows = priced

    def _is_served(self, route: ModelRoute) -> bool:
        if route.targets:
            return any(one.server in self._servers_by_name for one in route.targets)
        return route.model in self._rows or any(name in self._rows for name in route.fallback)

    def _route_row(self, route: ModelRoute, find_price: PriceFinder) -> ModelRow:
        """The details of the first target, and the price if all targets have the same one."""
        named = [one.model or route.model for one in route.targets] or [route.model]
        first = self._rows.get(named[0]) or ModelRow(id=route.model)
        row = structs.replace(first, id=route.model, owned_by=first.owned_by or "bluesminds")
        served = self.servers_for(route.model)
        places = [(self.server(one.server), one.model or route.model) for one in route.targets]
        places = places or [(served[0] if served else None, route.model)]
        found = {
            "" if price is None else price.version: price
            for server, name in places
            for price in (find_price(server, name, "" if name == route.model else route.model),)
        }
        return _with_price(row, found.popitem()[1] if len(found) == 1 else None)

    def server(self, name: str) -> Server | None:
        """A server that can be used."""
        return self._servers_by_name.get(name)

    def may_offer(self, server: str, model: str) -> bool:
        """False if the models of the server are known, and this one is not among them."""
        return server not in self._listing or any(
            one.name == server for one in self.servers_for(model, draining=True)
        )

    def label(self, model: str) -> str:
        """The model in metrics. Names that clients invent below a prefix have that of its route."""
        if self.routes is None or model in self._rows:
            return model
        route = next(self.routes.matches(model), None)
        return model if route is None else route.model

    def known_label(self, model: str) -> str:
        """The model in metrics, where it may be one that only a user's own key has."""
        label = self.label(model)
        return OWN if label == model and model not in self._rows else label

    def servers_for(self, model: str, *, draining: bool = False) -> Sequence[Server]:
        """`draining`: with the servers that get no new requests."""
        return (self._all_by_model if draining else self._servers_by_model).get(model, ())

    def models(self) -> Sequence[ModelRow]:
        """All models, and the names of routes, sorted by name."""
        return self._sorted

    def model(self, name: str) -> ModelRow | None:
        return self._rows.get(name)


def _merge_rows(first: ModelRow | None, other: ModelRow) -> ModelRow:
    """The row of the first server, with what it lacks from another one."""
    if first is None:
        return other
    details = first.details.completed(other.details)
    return first if details is first.details else structs.replace(first, details=details)


def _with_price(row: ModelRow, price: Price | None) -> ModelRow:
    """The row with the gateway's price, and with the maximum output that the operator states with it."""
    if price is None:
        return row
    if price.max_output is None or price.source == "bundled":
        return structs.replace(row, price=price)
    details = structs.replace(row.details, max_output=price.max_output)
    return structs.replace(row, price=price, details=details)


def _configured_rows(server: Server) -> list[ModelRow]:
    return [ModelRow(id=model, owned_by="bluesminds") for model in server.models]


async def _need_no_tokens(servers: Sequence[Server]) -> None:
    """For servers whose keys are never applications."""


class ServerRegistry:
    """The current servers and routes: those of the configuration, and those that `load_servers` and
    `load_routes` read from the database. Routes of the configuration come first. `servers` are as configured;
    those in the catalogs have tokens where a key names an application: see upstream/entra.py.
    """

    def __init__(
        self,
        configured: Sequence[Server],
        load_servers: Callable[[], Awaitable[Sequence[Server]]],
        health: ServerHealthRegistry,
        load: LoadRegistry,
        rotations: RotationRegistry,
        keys: ServerKeyRegistry,
        *,
        routes: Sequence[ModelRoute],
        load_routes: Callable[[], Awaitable[Sequence[ModelRoute]]],
        find_price: PriceFinder = find_no_price,
        fill_in_tokens: Callable[[Sequence[Server]], Sequence[Server]] = lambda servers: servers,
        prepare_tokens: Callable[[Sequence[Server]], Awaitable[None]] = _need_no_tokens,
    ) -> None:
        self._configured = tuple(configured)
        self._fill_in_tokens = fill_in_tokens
        self._prepare_tokens = prepare_tokens
        self._find_price = find_price
        self._load_servers = load_servers
        self._health = health
        self._load = load
        self._rotations = rotations
        self._keys = keys
        self._configured_routes = tuple(routes)
        self._load_routes = load_routes
        self.routes: Sequence[ModelRoute] = self._configured_routes
        self._discovered: dict[str, list[ModelRow]] = {}
        self.servers: Sequence[Server] = self._configured
        self.rebuild()

    async def reload(self) -> None:
        """Read the stored servers and routes again. Raises StorageError."""
        routes, servers = await self._load_routes(), await self._load_servers()
        await self._prepare_tokens(servers)
        self._use_stored(routes, servers)

    async def configure(
        self,
        servers: Sequence[Server],
        routes: Sequence[ModelRoute],
        discovered: Mapping[str, list[ModelRow]],
    ) -> None:
        """Replace the servers and routes of the configuration in one step. `discovered`: the models of those
        that are new or changed. Raises StorageError; then nothing has changed.
        """
        stored_routes, stored = await self._load_routes(), await self._load_servers()
        await self._prepare_tokens((*servers, *stored))
        self._configured, self._configured_routes = tuple(servers), tuple(routes)
        self._discovered = {**self._discovered, **discovered}
        self._use_stored(stored_routes, stored)

    def _use_stored(self, routes: Sequence[ModelRoute], servers: Sequence[Server]) -> None:
        """Synchronous, so that the configuration cannot change between reading the database and here."""
        self.routes = (*self._configured_routes, *routes)
        self._replace(merge_servers(self._configured, servers))

    def set_discovered(self, server: str, models: list[ModelRow]) -> None:
        """Store the models that a probe found."""
        if self._discovered.get(server) != models:
            self._discovered[server] = models
            self._replace(self.servers)

    def has_usable(self) -> bool:
        """Whether at least one server offers a model and is not ejected."""
        health = self._health
        return any(
            health.is_healthy(server.name, model)
            for server in self.catalog.servers
            for model in server.models or [row.id for row in self._discovered.get(server.name, ())]
        )

    def restricted(self, required: Requirement, *, keyless: bool = False) -> ModelCatalog:
        """Only the servers that meet the requirement."""
        found = self._restricted.get((required, keyless))
        if found is None:
            if len(self._restricted) >= MAX_RESTRICTED:  # clients choose what they require
                self._restricted.pop(next(iter(self._restricted)))
            found = self._restricted[required, keyless] = ModelCatalog(
                self.catalog.servers,
                self._discovered,
                self.routes,
                find_price=self._find_price,
                keyless=keyless,
                required=required,
            )
        return found

    def _replace(self, servers: Sequence[Server]) -> None:
        names = {server.name for server in servers}
        self._discovered = {name: rows for name, rows in self._discovered.items() if name in names}
        self._health.keep_only(names)
        self._load.keep_only(names)
        self.servers = servers
        self.rebuild()

    def rebuild(self) -> None:
        """Make new catalogs: servers, routes, prices or tokens have changed."""
        servers = self._fill_in_tokens(self.servers)
        self._keys.keep_only(servers)
        self._load.set_caps(servers)
        self._load.enabled = self._load.capped or bool(self.routes)
        self._rotations.keep_only({route.key for route in self.routes})
        self._restricted: dict[tuple[Requirement, bool], ModelCatalog] = {}
        self.relays = any(server.passthrough or server.passthrough_paths for server in servers)
        self.catalog = ModelCatalog(servers, self._discovered, self.routes, find_price=self._find_price)
        self.keyless = ModelCatalog(servers, self._discovered, find_price=self._find_price, keyless=True)
