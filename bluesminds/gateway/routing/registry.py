"""The shelf of servers: those of the configuration, those of the database, and what each says it offers.

Its catalogues are replaced whole, so that a request sees one consistent picture.
"""

from collections.abc import Awaitable, Callable, Sequence

from bluesminds.common.values import Server
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.health import Health
from bluesminds.providers.openai import ModelRow


def merge_servers(configured: Sequence[Server], stored: Sequence[Server]) -> list[Server]:
    """All of them; the configuration wins a name that both have."""
    taken = {server.name for server in configured}
    return [*configured, *(server for server in stored if server.name not in taken)]


class ServerRegistry:
    """`load` reads the servers kept in the database."""

    def __init__(
        self, configured: Sequence[Server], load: Callable[[], Awaitable[Sequence[Server]]], health: Health
    ) -> None:
        self._configured = tuple(configured)
        self._load = load
        self._health = health
        self._discovered: dict[str, list[ModelRow]] = {}
        self.catalog = ModelCatalog(self._configured, {})
        self.keyless = ModelCatalog(self._configured, {}, keyless=True)

    async def reload(self) -> None:
        """Read the database again."""
        self._replace(merge_servers(self._configured, await self._load()))

    def discovered(self, server: str, models: list[ModelRow]) -> None:
        """What a probe has found a server to have."""
        if self._discovered.get(server) != models:
            self._discovered[server] = models
            self._replace(self.catalog.servers)

    def has_usable(self) -> bool:
        """Whether some server that offers a model is not ejected."""
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
