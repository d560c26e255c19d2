"""The models that an account can use: prices, lengths, and how to call them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.usage import UsageReports
from bluesminds.common.clock import Clock
from bluesminds.dashboard.examples import examples
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.dashboard.series import TimeSlots, UsageTotal, groups_of
from bluesminds.web.api.models import ModelHandlers, ModelView
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

ROWS: Final = 100
NameText = Annotated[str, Meta(max_length=256, description="at most 256 characters")]


class OwnModelsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`q`: part of a name. `after`: the last model of the page before."""

    q: NameText = ""
    after: NameText = ""


class OwnModelLine(Struct, frozen=True):
    """A model with what the account used of it in the last 30 days."""

    model: ModelView
    total: UsageTotal


class OwnModelsPage(Struct, frozen=True):
    frame: Frame
    models: ModelHandlers
    usage: UsageReports
    clock: Clock
    example_model: Callable[[], str | None]

    async def list(
        self, principal: Principal, browser: BrowserRequest, query: OwnModelsQuery
    ) -> HandlerResponse[RawBody]:
        """Models with their prices."""
        everything = (await self.models.list()).data
        found = [row for row in everything if query.q.lower() in row.id.lower()]
        start = next((at + 1 for at, row in enumerate(found) if row.id == query.after), 0)
        shown = found[start : start + ROWS]
        more = len(found) > start + ROWS
        use = await self._use(principal.user_id)
        chosen = found[0].id if query.q and found else self.example_model()
        return self.frame.page(
            "own_models.html",
            browser,
            principal,
            lines=[OwnModelLine(row, use.get(row.id, UsageTotal())) for row in shown],
            query=query,
            count=len(found),
            is_first_page=not start,
            first=link("/models", q=query.q),
            more=link("/models", q=query.q, after=shown[-1].id) if more else "",
            chosen=chosen,
            examples=examples(self.frame.base_url(browser), chosen),
        )

    async def _use(self, user_id: str) -> Mapping[str, UsageTotal]:
        slots = TimeSlots.until_now("30d", self.clock.now_ms())
        found = await self.usage.figures(slots.query("model", user_id))
        return {group.label: group.total for group in groups_of(found.rows, "spend", {})}


def routes(page: OwnModelsPage) -> list[Route]:
    return [route("GET", f"{HOME}/models", Access.SESSION, page.list, tag="Pages", media=HTML)]
