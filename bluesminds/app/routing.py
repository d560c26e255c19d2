"""The servers, their health, and the choice between them, as one part."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio
from msgspec import Struct

from bluesminds.app.prices import PriceLoader
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.common.routes import ModelRoute
from bluesminds.common.values import Requirement, Server, is_own_name
from bluesminds.gateway.prices.book import PriceBook, PriceRegistry
from bluesminds.gateway.routing.catalog import ModelCatalog, ServerRegistry
from bluesminds.gateway.routing.explain import Explanation, RouteQuestion, explain
from bluesminds.gateway.routing.fleet import FleetHealth, summarize
from bluesminds.gateway.routing.health import HealthChange, ServerHealthRegistry, ServerStatus
from bluesminds.gateway.routing.policies import Balancer
from bluesminds.gateway.routing.server_keys import KeyRest, ServerKeyRegistry
from bluesminds.gateway.supervision import HealthChecker
from bluesminds.gateway.upstream.entra import EntraTokens
from bluesminds.http.client.pool import Pool, UpstreamOrigin


class Routing(Struct, frozen=True):
    """`capacity`: connections that one server may have."""

    registry: ServerRegistry
    health: ServerHealthRegistry
    keys: ServerKeyRegistry
    balancer: Balancer
    health_checker: HealthChecker
    prices: PriceRegistry
    price_loader: PriceLoader
    clock: Clock
    pool: Pool
    capacity: int
    tokens: EntraTokens

    def example_model(self) -> str | None:
        """A model for the example in the API reference."""
        models = [row.id for row in self.registry.catalog.models()]
        return "demo/echo" if "demo/echo" in models else next(iter(models), None)

    async def list_servers(self) -> list[Server]:
        return list(self.registry.servers)

    async def list_routes(self) -> Sequence[ModelRoute]:
        return self.registry.routes

    async def explain(self, question: RouteQuestion) -> Explanation:
        traits, catalog = question.traits, self.registry.catalog
        if traits.regions or traits.tags:
            catalog = self.registry.restricted(Requirement(traits.regions, traits.tags))
        find_price = partial(self.prices.find_now, self.clock)
        return explain(catalog, self.balancer, find_price, question)

    async def current_catalog(self) -> ModelCatalog:
        return self.registry.catalog

    def statuses(self) -> list[tuple[Server, ServerStatus]]:
        return [(server, self.health_checker.status(server.name)) for server in self.registry.catalog.servers]

    def servers_up(self) -> dict[str, float]:
        """1.0 or 0.0 for each server that has been probed."""
        return {
            server.name: float(status.state == "up")
            for server, status in self.statuses()
            if status.state != "unknown"
        }

    def states(self) -> Counter[str]:
        """The number of servers by state. `ejected` counts those that are ejected for a model."""
        states: Counter[str] = Counter(status.state for _, status in self.statuses())
        if ejected := self.ejected_models():
            states["ejected"] = len(ejected)
        return states

    def ejected_models(self) -> dict[str, int]:
        """The number of models for which each server is ejected."""
        return dict(Counter(server for server, _ in self.health.ejected() if not is_own_name(server)))

    def fleet_health(self, waiting: Callable[[], Mapping[str, tuple[int, Sequence[str]]]]) -> FleetHealth:
        """`waiting`: the requests in the queue and the servers that they wait for, by model."""
        return summarize(
            self.registry.catalog,
            self.health,
            status=self.health_checker.status,
            running=self._running,
            capacity=self.capacity,
            waiting=waiting(),
        )

    def _running(self, server: Server) -> int:
        return self.pool.in_use(UpstreamOrigin.parse(server.url, trusted=server.is_trusted)[0])

    async def servers_changed(self) -> None:
        await self.registry.reload()
        await self.renew_tokens()
        await self.health_checker.probe_all()

    async def renew_tokens(self) -> None:
        """Get the tokens of new servers."""
        if await self.tokens.renew():
            self.registry.rebuild()

    async def run_tokens(self) -> None:
        """Renew tokens until cancelled."""
        await self.tokens.run(self.registry.rebuild)

    async def price_book(self) -> PriceBook:
        return self.prices.book

    async def prices_changed(self) -> None:
        self.prices.book = await self.price_loader.load()
        self.registry.rebuild()

    async def discover_models(self, seconds: float) -> None:
        """Load the prices and the servers, and read the models of each server, for at most `seconds`."""
        await self.prices_changed()
        await self.registry.reload()
        with trio.move_on_after(seconds):
            await self.renew_tokens()
            await self.health_checker.probe_all()


def log_key_rest(log: Log, rest: KeyRest) -> None:
    log.warning(
        "server_key_rests", server=rest.server, key=rest.key, reason=rest.reason, seconds=rest.seconds
    )


def log_token_failure(log: Log, service: str, reason: str) -> None:
    log.warning("entra_token_failed", service=service, reason=reason)


def log_health(log: Log, change: HealthChange) -> None:
    match change.state:
        case "open":
            log.warning(
                "server_ejected",
                server=change.server,
                model=change.model,
                reason=change.reason,
                seconds=change.seconds,
            )
        case "half_open":
            log.info("server_tried", server=change.server, model=change.model)
        case "closed":
            log.info("server_recovered", server=change.server, model=change.model)
