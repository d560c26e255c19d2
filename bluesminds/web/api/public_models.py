"""/models, /models/providers and /ranking/models: lists for everyone, if the operator allows it.

They are built once for each state of the servers, and the ranking every few minutes. Proxies may cache them.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from bluesminds.accounts.ranking import RANKED_DAYS, ModelRanking, RankedModel
from bluesminds.accounts.throttle import Throttle
from bluesminds.common.errors import NotFound
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.providers.profiles import profile_of
from bluesminds.web.docs.model_responses import ModelListSchema, ModelSchema, model_schema
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Route, route

CACHED = (("cache-control", "public, max-age=60"),)
UNKNOWN_PROVIDER = "other"


class ModelProvider(Struct, frozen=True):
    """A vendor whose servers have models. `id` is "other" for servers of unknown vendors."""

    id: str
    name: str
    models: list[str]


class ModelProviders(Struct, frozen=True, tag_field="object", tag="list"):
    data: list[ModelProvider]


class ModelRankingList(Struct, frozen=True, tag_field="object", tag="list"):
    """The most used models first. `share`: of the tokens of all listed models over the last `days` days."""

    data: Sequence[RankedModel]
    days: Annotated[int, Meta(examples=[RANKED_DAYS])] = RANKED_DAYS


class PublicModels:
    """`catalog` returns the current models. The lists are public if `allowed`."""

    def __init__(
        self, catalog: Callable[[], ModelCatalog], ranking: ModelRanking, throttle: Throttle, *, allowed: bool
    ) -> None:
        self._catalog = catalog
        self._ranking = ranking
        self._throttle = throttle
        self._allowed = allowed
        self._built_for: ModelCatalog | None = None
        self._models: list[ModelSchema] = []
        self._providers: list[ModelProvider] = []

    async def models(self, principal: Principal) -> HandlerResponse[ModelListSchema]:
        """List the models of the gateway, with their prices.

        Only if the operator has set `public_models`.
        """
        self._prepare(principal)
        return HandlerResponse(ModelListSchema(self._models), headers=CACHED)

    async def providers(self, principal: Principal) -> HandlerResponse[ModelProviders]:
        """List the vendors of the servers, with their models.

        Only if the operator has set `public_models`.
        """
        self._prepare(principal)
        return HandlerResponse(ModelProviders(self._providers), headers=CACHED)

    async def ranking(self, principal: Principal) -> HandlerResponse[ModelRankingList]:
        """List the most used models of the last 30 days, with their shares of all tokens.

        Only if the operator has set `public_models`.
        """
        self._prepare(principal)
        ranked = await self._ranking.rank({row.id for row in self._models})
        return HandlerResponse(ModelRankingList(ranked), headers=CACHED)

    def _prepare(self, principal: Principal) -> None:
        """Raises NotFound if the lists are not public, and RateLimited for too many requests."""
        if not self._allowed:
            raise NotFound(
                "unknown_url",
                "Not found. Did you mean /v1/models? The base URL of an SDK ends in /v1. Lists of models are"
                " only public if the operator sets public_models in [server].",
            )
        self._throttle.check_public_list(principal.address)
        catalog = self._catalog()
        if catalog is not self._built_for:
            self._models = [model_schema(row) for row in catalog.models()]
            self._providers = _providers(catalog)
            self._built_for = catalog


def _providers(catalog: ModelCatalog) -> list[ModelProvider]:
    found: dict[tuple[str, str], list[str]] = {}
    for row in catalog.models():
        vendors = [profile_of(server).vendor for server in catalog.servers_for(row.id)]
        names = {(UNKNOWN_PROVIDER, "Other") if one is None else (one.name, one.title) for one in vendors}
        for name in names:
            found.setdefault(name, []).append(row.id)
    return [ModelProvider(id_, name, models) for (id_, name), models in sorted(found.items())]


def routes(handlers: PublicModels) -> list[Route]:
    tag = "Models"
    return [
        route("GET", "/models", Access.PUBLIC, handlers.models, tag=tag),
        route("GET", "/models/providers", Access.PUBLIC, handlers.providers, tag=tag),
        route("GET", "/ranking/models", Access.PUBLIC, handlers.ranking, tag=tag),
    ]
