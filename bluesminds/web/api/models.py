"""/api/admin/models: every model with its servers, price, lengths and routes."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from bluesminds.common.money import Rates, write_usd
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.web.guard import Access
from bluesminds.web.routes import Page, Route, route
from bluesminds.wire.models import ModelRow


class ModelView(Struct, frozen=True):
    """`servers` offer the model under this name. `routes`: the `model` of each route that matches it, the
    most specific first. Prices are USD per million tokens, null without a price. Lengths are tokens, null
    if unknown.
    """

    id: str
    servers: list[str]
    routes: list[str]
    input_usd: str | None
    cached_input_usd: str | None
    output_usd: str | None
    context_length: int | None
    max_output_tokens: int | None


class ModelHandlers(Struct, frozen=True):
    catalog: Callable[[], Awaitable[ModelCatalog]]

    async def list(self) -> Page[ModelView]:
        """List all models and aliases, with their servers, prices and routes."""
        catalog = await self.catalog()
        return Page([_view(catalog, row) for row in catalog.models()])


def routes(handlers: ModelHandlers) -> list[Route]:
    return [route("GET", "/api/admin/models", Access.ADMIN, handlers.list, tag="Models")]


def _view(catalog: ModelCatalog, row: ModelRow) -> ModelView:
    rates = Rates() if row.price is None else row.price.rates
    return ModelView(
        id=row.id,
        servers=[server.name for server in catalog.servers_for(row.id)],
        routes=[] if catalog.routes is None else [one.model for one in catalog.routes.matches(row.id)],
        input_usd=_usd(rates.input),
        cached_input_usd=_usd(rates.input if rates.cached_input is None else rates.cached_input),
        output_usd=_usd(rates.output),
        context_length=row.details.context_length,
        max_output_tokens=row.details.max_output,
    )


def _usd(rate: int | None) -> str | None:
    return None if rate is None else write_usd(rate)
