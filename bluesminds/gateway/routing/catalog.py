"""Which servers there are and which models they offer.

A catalog is immutable and replaced as a whole, so a request sees one consistent state.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from msgspec import structs

from bluesminds.common.money import Price
from bluesminds.common.values import Server
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.wire.models import ModelRow

NO_PRICES: Final[Mapping[str, Price]] = MappingProxyType({})


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
        prices: Mapping[str, Price] = NO_PRICES,
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
                self._rows[row.id] = _merge_rows(self._rows.get(row.id), row)
        self._sorted = [_with_price(self._rows[name], prices.get(name)) for name in sorted(self._rows)]
        self._rows = {row.id: row for row in self._sorted}

    def servers_for(self, model: str) -> Sequence[Server]:
        return self._servers_by_model.get(model, ())

    def models(self) -> Sequence[ModelRow]:
        """All models, sorted by name."""
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
    if price.max_output is None:
        return structs.replace(row, price=price)
    details = structs.replace(row.details, max_output=price.max_output)
    return structs.replace(row, price=price, details=details)


def _configured_rows(server: Server) -> list[ModelRow]:
    return [ModelRow(id=model, owned_by="bluesminds") for model in server.models]


class ServerRegistry:
    """The current servers: `configured` ones and those that `load` reads from the database. `prices` by
    model.
    """

    def __init__(
        self,
        configured: Sequence[Server],
        load: Callable[[], Awaitable[Sequence[Server]]],
        health: ServerHealthRegistry,
        prices: Mapping[str, Price] = NO_PRICES,
    ) -> None:
        self._configured = tuple(configured)
        self._prices = prices
        self._load = load
        self._health = health
        self._discovered: dict[str, list[ModelRow]] = {}
        self._build_catalogs(self._configured)

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
        self._build_catalogs(servers)

    def _build_catalogs(self, servers: Sequence[Server]) -> None:
        self.relays = any(server.passthrough or server.passthrough_paths for server in servers)
        self.catalog = ModelCatalog(servers, self._discovered, prices=self._prices)
        self.keyless = ModelCatalog(servers, self._discovered, prices=self._prices, keyless=True)
