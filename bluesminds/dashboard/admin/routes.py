"""Routes of models: all of them, one with its form, and what would happen to a request."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Final, get_args

from msgspec import Meta, Struct

from bluesminds.common.errors import GatewayError, NotFound
from bluesminds.common.routes import WILDCARD, FallbackReason, Need, Policy, Prefill, Recovery
from bluesminds.common.values import Server
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.dashboard.receipts import DROP_REASONS
from bluesminds.web.api.explain import ExplainHandlers, ExplainQuery, ExplanationView
from bluesminds.web.api.model_routes import ConditionView, RouteHandlers, RouteView
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

POLICIES: Final[Mapping[Policy, str]] = {
    "priority": "By priority, then by weight",
    "weighted": "By weight only",
    "least_latency": "The fastest first",
    "least_busy": "The least busy first",
    "cheapest": "The cheapest first",
    "affinity": "The same server for the same conversation",
    "region": "Preferred regions first, then by priority",
    "pinned": "The same server for the same account",
}
REASONS: Final[Mapping[FallbackReason, str]] = {
    "error": "the servers fail",
    "limit": "the servers are at a limit",
    "timeout": "the servers are too slow",
    "context_length": "the request is too long for the model",
    "content_filter": "a content filter stops the answer",
}
RECOVERIES: Final[Mapping[Recovery, str]] = {
    "restart": "another server gets the same request, and continues if its text is the same",
    "continue": "another server continues the text",
    "error": "the stream ends with an error",
}
PREFILLS: Final[Mapping[Prefill, str]] = {
    "message": "as the last message",
    "prefix": "as the last message with prefix (Mistral)",
    "continue_final_message": "with continue_final_message (vLLM)",
}
Text = Annotated[str, Meta(max_length=256, description="at most 256 characters")]


class RoutesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A request to explain: its model, its key, and the values for the conditions of routes."""

    model: Text = ""
    key: Text = ""
    needs: Annotated[str, Meta(pattern=r"^(tools|images|audio)?\Z", description="a need, or empty")] = ""
    prompt_tokens: Annotated[str, Meta(pattern=r"^[0-9]{0,9}\Z", description="a number, or empty")] = ""


class TriedRequest(Struct, frozen=True):
    """Where a request would go, or the error."""

    model: str
    explanation: ExplanationView | None = None
    problem: str = ""


class RoutesPages(Struct, frozen=True):
    frame: Frame
    routes: RouteHandlers
    explain: ExplainHandlers
    list_servers: Callable[[], Awaitable[Sequence[Server]]]

    async def list(
        self, principal: Principal, browser: BrowserRequest, query: RoutesQuery
    ) -> HandlerResponse[RawBody]:
        """Routes, and what would be done with a request."""
        return self.frame.page(
            "routes.html",
            browser,
            principal,
            routes=(await self.routes.list()).data,
            query=query,
            needs=get_args(Need),
            policies=POLICIES,
            tried=await self._try(query) if query.model else None,
            reasons=DROP_REASONS,
        )

    async def new(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """The form of a new route."""
        return await self._form(principal, browser, None)

    async def one(
        self, principal: Principal, browser: BrowserRequest, route_id: str
    ) -> HandlerResponse[RawBody]:
        """One route."""
        found = next((one for one in (await self.routes.list()).data if one.id == route_id), None)
        if found is None:
            raise NotFound("route_not_found", "There is no route with this id.")
        return await self._form(principal, browser, found)

    async def _form(
        self, principal: Principal, browser: BrowserRequest, found: RouteView | None
    ) -> HandlerResponse[RawBody]:
        tried = None
        if found is not None and WILDCARD not in found.model:
            tried = await self._try(RoutesQuery(model=found.model))
        return self.frame.page(
            "route.html",
            browser,
            principal,
            route=found,
            targets=(found.targets or []) if found else [],
            when=found.when if found and found.when else ConditionView((), (), (), (), (), None),
            servers=sorted(one.name for one in await self.list_servers()),
            tried=tried,
            needs=get_args(Need),
            policies=POLICIES,
            fallback_reasons=REASONS,
            recoveries=RECOVERIES,
            prefills=PREFILLS,
            reasons=DROP_REASONS,
        )

    async def _try(self, query: RoutesQuery) -> TriedRequest:
        asked = ExplainQuery(
            model=query.model,
            key=query.key or None,
            needs=query.needs,
            prompt_tokens=int(query.prompt_tokens or 0),
        )
        try:
            return TriedRequest(query.model, await self.explain.show(asked))
        except GatewayError as exc:
            return TriedRequest(query.model, problem=exc.message)


def routes(pages: RoutesPages) -> list[Route]:
    path = f"{HOME}/admin/routes"
    return [
        route("GET", path, Access.ADMIN, pages.list, tag="Pages", media=HTML),
        route("GET", f"{path}/new", Access.ADMIN, pages.new, tag="Pages", media=HTML),
        route("GET", f"{path}/{{route_id}}", Access.ADMIN, pages.one, tag="Pages", media=HTML),
    ]
