"""/api/admin/explain: which servers would get a request now, and why."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.keys import Keys
from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.common.routes import FallbackReason, Policy
from bluesminds.common.values import NO_LIMITS, Caller, Scope
from bluesminds.gateway.authorize import name_patterns, optional_set
from bluesminds.gateway.operations import OPERATIONS, Operation
from bluesminds.gateway.routing.explain import ExplainedModel, Explanation, RouteQuestion
from bluesminds.gateway.routing.selection import DropReason
from bluesminds.web.guard import Access
from bluesminds.web.routes import Route, route
from storage.keys import KeyRow

_BY_NAME: Final[Mapping[str, Operation]] = {one.name: one for one in reversed(OPERATIONS)}
ModelText = Annotated[
    str, Meta(min_length=1, max_length=256, description="the name of a model, as a client sends it")
]
KeyId = Annotated[str, Meta(max_length=64, description="the id of an API key")]


class ExplainQuery(Struct, frozen=True, forbid_unknown_fields=True):
    model: ModelText
    key: KeyId | None = None
    endpoint: Scope = "chat.completions"


class ExplainedTargetView(Struct, frozen=True):
    """`model`: the name that the server gets. `format`: the format of the request to the server; `translated`
    if it is not the client's. An unhealthy server is `ejected`: it comes last.
    """

    server: str
    model: str
    format: str
    translated: bool
    ejected: bool


class ExplainedModelView(Struct, frozen=True):
    """`route`: the `model` of the route that applies, null without one. `targets`: best first."""

    model: str
    route: str | None
    policy: Policy
    targets: list[ExplainedTargetView]


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
    `fallback_on`: the failures that lead to the next model. `error`: what the client would get; null if the
    request would be sent.
    """

    model: str
    endpoint: str
    models: list[ExplainedModelView]
    fallback_on: Sequence[FallbackReason]
    dropped: list[DroppedView]
    error: ExplainedError | None


class ExplainHandlers(Struct, frozen=True):
    keys: Keys
    explain: Callable[[RouteQuestion], Awaitable[Explanation]]

    async def show(self, query: ExplainQuery) -> ExplanationView:
        """Show which servers a request would be sent to now, in which order, and why others are left out.

        `key`: the restrictions of this API key apply. The request itself is unknown: its size and its fields
        can leave out more servers.
        """
        operation = _BY_NAME.get(query.endpoint)
        if operation is None:
            message = f"endpoint: requests of {query.endpoint} have no model."
            raise InvalidRequest("invalid_value", message, param="endpoint")
        caller = None if query.key is None else _caller(await self.keys.get(None, query.key))
        return _view(query, await self.explain(RouteQuestion(operation, query.model, caller)))


def routes(handlers: ExplainHandlers) -> list[Route]:
    return [route("GET", "/api/admin/explain", Access.ADMIN, handlers.show, tag="Routes")]


def _caller(key: KeyRow) -> Caller:
    return Caller(
        key_id=key.id,
        user_id=key.user_id,
        key_limits=NO_LIMITS,
        user_limits=NO_LIMITS,
        expires_at=None,
        scopes=optional_set(key.scopes),
        models=name_patterns(key.allowed_models),
    )


def _view(query: ExplainQuery, found: Explanation) -> ExplanationView:
    return ExplanationView(
        model=query.model,
        endpoint=query.endpoint,
        models=[_model_view(query.model, one, found.ejected) for one in found.models],
        fallback_on=() if found.route is None else found.route.fallback_on,
        dropped=[DroppedView(one.model, one.server or None, one.reason) for one in found.dropped],
        error=None if found.error is None else _error_view(found.error),
    )


def _model_view(requested: str, found: ExplainedModel, ejected: frozenset[str]) -> ExplainedModelView:
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
            )
            for target in found.targets
        ],
    )


def _error_view(error: GatewayError) -> ExplainedError:
    return ExplainedError(error.status, error.code, error.message)
