"""/api/admin/explain: which servers would get a request now, and why."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final, get_args

from msgspec import Meta, Struct

from bluesminds.accounts.keys import Keys
from bluesminds.accounts.users import Users
from bluesminds.accounts.vendor_keys import VendorKeys
from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.common.routes import FallbackReason, Need, Policy, RouteTraits
from bluesminds.common.values import (
    NO_LIMITS,
    Caller,
    Scope,
    Server,
    join_requirements,
    list_names,
    read_requirement,
    split_names,
)
from bluesminds.config.settings import Region
from bluesminds.gateway.authorize import name_patterns, optional_set
from bluesminds.gateway.operations import OPERATIONS, Operation
from bluesminds.gateway.routing.explain import ExplainedModel, Explanation, RouteQuestion
from bluesminds.gateway.routing.selection import DropReason
from bluesminds.gateway.routing.server_keys import ServerKeyStatus
from bluesminds.web.api.server_schemas import ServerKeyView, key_views
from bluesminds.web.guard import Access
from bluesminds.web.routes import Route, route

_BY_NAME: Final[Mapping[str, Operation]] = {one.name: one for one in reversed(OPERATIONS)}
ModelText = Annotated[
    str, Meta(min_length=1, max_length=256, description="the name of a model, as a client sends it")
]
TagText = Annotated[
    str,
    Meta(pattern=r"^[a-z0-9_,-]{0,200}\Z", description="names of a-z, 0-9, - and _, separated by commas"),
]
NeedText = Annotated[
    str,
    Meta(
        pattern=r"^((tools|images|audio)(,(tools|images|audio))*)?\Z",
        description="tools, images and audio, separated by commas",
    ),
]
KeyId = Annotated[str, Meta(max_length=64, description="the id of an API key")]


class ExplainQuery(Struct, frozen=True, forbid_unknown_fields=True):
    model: ModelText
    key: KeyId | None = None
    endpoint: Scope = "chat.completions"
    region: Region | None = None
    tags: TagText = ""
    prefer_region: TagText = ""
    needs: NeedText = ""
    prompt_tokens: Annotated[int, Meta(ge=0, le=10**9, description="a whole number, 0 or more")] = 0


class ExplainedTargetView(Struct, frozen=True):
    """`model`: the name that the server gets. `format`: the format of the request to the server; `translated`
    if it is not the client's. An unhealthy server is `ejected`: it comes last. `api_keys`: those of a server
    with several, which are used in turn.
    """

    server: str
    model: str
    format: str
    translated: bool
    ejected: bool
    api_keys: list[ServerKeyView]


class ExplainedModelView(Struct, frozen=True):
    """`route`: the `model` of the route that applies, null without one. `targets`: best first."""

    model: str
    route: str | None
    policy: Policy
    targets: list[ExplainedTargetView]


class HedgeView(Struct, frozen=True):
    """A stream without content after `after` seconds is also requested from `server`; null if no target can
    be used for it. `share` of the streams and `daily_usd` in each UTC day are the maximums.
    """

    server: str | None
    after: float
    share: float
    daily_usd: str


class ShadowView(Struct, frozen=True):
    """`server` gets copies of requests for its `model`. `share` of the requests and `daily_usd` in each UTC
    day are the maximums. `reason`: why it gets none; null if it does.
    """

    server: str
    model: str
    share: float
    daily_usd: str
    reason: DropReason | None


class DroppedView(Struct, frozen=True):
    """A target that is left out. `server` is null if the whole model is."""

    model: str
    server: str | None
    reason: DropReason


class ExplainedError(Struct, frozen=True):
    status: int
    code: str
    message: str


class ExplanationView(Struct, frozen=True):
    """`models`: the requested model and then its fallback models, in the order in which they are tried.
    `fallback_on`: the failures that lead to the next model. `hedge` and `shadow` are null if the route has
    none. `error`: what the client would get; null if the request would be sent.
    """

    model: str
    endpoint: str
    models: list[ExplainedModelView]
    fallback_on: Sequence[FallbackReason]
    dropped: list[DroppedView]
    hedge: HedgeView | None
    shadow: ShadowView | None
    error: ExplainedError | None


class ExplainHandlers(Struct, frozen=True):
    keys: Keys
    users: Users
    vendor_keys: VendorKeys
    explain: Callable[[RouteQuestion], Awaitable[Explanation]]
    key_status: Callable[[Server], Sequence[ServerKeyStatus]]

    async def show(self, query: ExplainQuery) -> ExplanationView:
        """Show which servers a request would be sent to now, in which order, and why others are left out.

        `key`: the restrictions of this API key apply. `region` and `tags`: what the request requires of
        servers. `prefer_region`: the regions that it prefers, the best one first. `needs` and
        `prompt_tokens`: for the conditions of routes. The request itself is unknown: its fields can leave
        out more servers.
        """
        operation = _BY_NAME.get(query.endpoint)
        if operation is None:
            message = f"endpoint: requests of {query.endpoint} have no model."
            raise InvalidRequest("invalid_value", message, param="endpoint")
        caller = None if query.key is None else await self._caller(query.key)
        question = RouteQuestion(
            operation, query.model, caller, _traits(query, caller), list_names(query.prefer_region)
        )
        return self._view(query, await self.explain(question))

    def _view(self, query: ExplainQuery, found: Explanation) -> ExplanationView:
        return ExplanationView(
            model=query.model,
            endpoint=query.endpoint,
            models=[self._model_view(query.model, one, found.ejected) for one in found.models],
            fallback_on=() if found.route is None else found.route.fallback_on,
            dropped=[DroppedView(one.model, one.server or None, one.reason) for one in found.dropped],
            hedge=_hedge_view(found),
            shadow=_shadow_view(query.model, found),
            error=None if found.error is None else _error_view(found.error),
        )

    def _model_view(
        self, requested: str, found: ExplainedModel, ejected: frozenset[str]
    ) -> ExplainedModelView:
        return ExplainedModelView(
            model=found.model,
            route=None if found.route is None else found.route.model,
            policy="priority" if found.route is None else found.route.policy,
            targets=[
                ExplainedTargetView(
                    server=target.server.name,
                    model=target.model or requested,
                    format=target.plan.format,
                    translated=target.plan.translated,
                    ejected=target.server.name in ejected,
                    api_keys=key_views(self.key_status(target.server)) if target.server.more_keys else [],
                )
                for target in found.targets
            ],
        )

    async def _caller(self, key_id: str) -> Caller:
        """Raises NotFound."""
        key = await self.keys.get(None, key_id)
        user = await self.users.get(key.user_id)
        return Caller(
            key_id=key.id,
            user_id=key.user_id,
            key_limits=NO_LIMITS,
            user_limits=NO_LIMITS,
            expires_at=None,
            scopes=optional_set(key.scopes),
            models=name_patterns(key.allowed_models),
            tier=user.tier or "",
            tags=split_names(key.metadata.get("tags", "")),
            required=read_requirement(
                key.metadata.get("require_region", ""), key.metadata.get("require_tags", "")
            ),
            prefer_regions=list_names(key.metadata.get("prefer_region", "")),
            own_keys=await self.vendor_keys.of_account(user.id, user.tier),
        )


def routes(handlers: ExplainHandlers) -> list[Route]:
    return [route("GET", "/api/admin/explain", Access.ADMIN, handlers.show, tag="Routes")]


def _traits(query: ExplainQuery, caller: Caller | None) -> RouteTraits:
    asked = read_requirement(query.region or "", query.tags)
    required = join_requirements((asked, None if caller is None else caller.required))
    return RouteTraits(
        tier="" if caller is None else caller.tier,
        key_tags=frozenset() if caller is None else caller.tags,
        regions=frozenset() if required is None else required.regions,
        tags=frozenset() if required is None else required.tags,
        needs=frozenset(need for need in get_args(Need) if need in query.needs.split(",")),
        prompt_tokens=query.prompt_tokens,
    )


def _hedge_view(found: Explanation) -> HedgeView | None:
    if found.route is None or (after := found.route.options.hedge_after) is None:
        return None
    options = found.route.options
    server = None if found.hedge is None else found.hedge.server.name
    return HedgeView(server, after, options.hedge_share, options.hedge_daily_usd)


def _shadow_view(requested: str, found: Explanation) -> ShadowView | None:
    if found.route is None or (server := found.route.options.shadow) is None:
        return None
    options = found.route.options
    return ShadowView(
        server,
        options.shadow_model or requested,
        options.shadow_share,
        options.shadow_daily_usd,
        found.shadow if isinstance(found.shadow, str) else None,
    )


def _error_view(error: GatewayError) -> ExplainedError:
    return ExplainedError(error.status, error.code, error.message)
