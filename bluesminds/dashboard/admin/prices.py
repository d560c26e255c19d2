"""Models with their servers and prices, and the prices of one model."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.prices import Prices
from bluesminds.accounts.usage import UsageReports
from bluesminds.common.clock import Clock
from bluesminds.common.money import PriceSource
from bluesminds.common.prices import write_day
from bluesminds.common.values import Server
from bluesminds.dashboard.frame import HOME, HTML, Frame, address, link
from bluesminds.dashboard.series import TimeSlots, UsageTotal, groups_of
from bluesminds.web.api.models import ModelHandlers, ModelView
from bluesminds.web.api.prices import PriceHandlers, PriceQuery, PriceView
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

ROWS: Final = 100
API: Final = "/api/admin/prices"
# The fields of a price, and what they are called. All but the last five are for a million tokens.
RATES: Final[Mapping[str, str]] = {
    "input_usd": "Input",
    "cached_input_usd": "Cached input",
    "output_usd": "Output",
    "cache_write_usd": "Input to the cache",
    "cache_write_hour_usd": "Input to the cache, for an hour",
    "reasoning_usd": "Reasoning",
    "audio_input_usd": "Audio input",
    "audio_output_usd": "Audio output",
    "image_input_usd": "Image input",
    "image_output_usd": "Image output",
    "image_usd": "An image",
    "second_usd": "A second of audio",
    "character_usd": "A million characters",
    "request_usd": "A request",
}
MAIN_RATES: Final = ("input_usd", "cached_input_usd", "output_usd")
SOURCES: Final[Mapping[PriceSource, str]] = {
    "server": "set for this server",
    "operator": "set for every server",
    "bundled": "from the built-in table",
    "own": "for own keys of users",
}
LineKey = tuple[str, str, str, int]  # server, day, service tier, tokens

NameText = Annotated[str, Meta(max_length=256, description="at most 256 characters")]


class ModelsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`q`: part of a name. `after`: the last model of the page before."""

    q: NameText = ""
    show: Annotated[str, Meta(pattern=r"^(unpriced)?\Z", description="unpriced, or empty")] = ""
    after: NameText = ""


class ModelPricesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, Meta(min_length=1, max_length=256, description="the name of a model")]


class ModelLine(Struct, frozen=True):
    """A model with its use in the last 30 days."""

    model: ModelView
    total: UsageTotal


class ShownPrice(Struct, frozen=True):
    """A line of a price. `others`: its further rates, with their names. `remove`: the call that removes it,
    empty if it is not in the database.
    """

    price: PriceView
    others: Sequence[tuple[str, str]]
    remove: str = ""


class ModelPricesPages(Struct, frozen=True):
    frame: Frame
    models: ModelHandlers
    handlers: PriceHandlers
    prices: Prices
    usage: UsageReports
    clock: Clock
    list_servers: Callable[[], Awaitable[Sequence[Server]]]

    async def list(
        self, principal: Principal, browser: BrowserRequest, query: ModelsQuery
    ) -> HandlerResponse[RawBody]:
        """Models with their servers and prices; those without a price come first."""
        everything = (await self.models.list()).data
        found = [
            row
            for row in sorted(everything, key=_rank)
            if query.q.lower() in row.id.lower() and (not query.show or row.input_usd is None)
        ]
        start = next((at + 1 for at, row in enumerate(found) if row.id == query.after), 0)
        shown = found[start : start + ROWS]
        more = len(found) > start + ROWS
        use = await self._use()
        return self.frame.page(
            "models.html",
            browser,
            principal,
            lines=[ModelLine(row, use.get(row.id, UsageTotal())) for row in shown],
            count=len(found),
            unpriced=sum(row.input_usd is None for row in everything),
            query=query,
            is_first_page=start == 0,
            first=link("/admin/models", q=query.q, show=query.show),
            more=link("/admin/models", q=query.q, show=query.show, after=shown[-1].id) if more else "",
        )

    async def one(
        self, principal: Principal, browser: BrowserRequest, query: ModelPricesQuery
    ) -> HandlerResponse[RawBody]:
        """The prices of a model: in force, and set by the operator."""
        model = query.model
        known = next((row for row in (await self.models.list()).data if row.id == model), None)
        servers = [] if known is None else known.servers
        in_force = [("", await self._in_force(model, ""))]
        in_force += [(server, await self._in_force(model, server)) for server in servers]
        own = [row for row in (await self.handlers.list(PriceQuery())).data if row.model == model]
        stored = {
            (line.server, write_day(line.since) if line.since else "", line.service_tier, line.from_tokens)
            for line in await self.prices.load()
            if line.model == model
        }
        return self.frame.page(
            "model.html",
            browser,
            principal,
            model=model,
            known=known,
            in_force=_without_repetition(in_force),
            own=[_row(row, stored) for row in own],
            rates=RATES,
            main_rates=MAIN_RATES,
            sources=SOURCES,
            servers=sorted({*servers, *(one.name for one in await self.list_servers())}),
            today=write_day(self.clock.now_ms()),
        )

    async def _in_force(self, model: str, server: str) -> Sequence[ShownPrice]:
        found = await self.handlers.list(PriceQuery(model, server))
        return [_row(row, ()) for row in found.data]

    async def _use(self) -> Mapping[str, UsageTotal]:
        slots = TimeSlots.until_now("30d", self.clock.now_ms())
        found = await self.usage.figures(slots.query("model", None))
        return {group.label: group.total for group in groups_of(found.rows, "spend", {})}


def _rank(row: ModelView) -> tuple[bool, str]:
    return row.input_usd is not None, row.id


def _without_repetition(
    found: Sequence[tuple[str, Sequence[ShownPrice]]],
) -> Sequence[tuple[str, Sequence[ShownPrice]]]:
    """Without servers whose price is that of all servers."""
    (_, of_all), *_ = found
    versions = [row.price.version for row in of_all]
    return [
        (server, rows)
        for server, rows in found
        if not server or [row.price.version for row in rows] != versions
    ]


def _row(price: PriceView, stored: Collection[LineKey]) -> ShownPrice:
    others = [
        (label, rate)
        for name, label in RATES.items()
        if name not in MAIN_RATES and (rate := getattr(price, name)) is not None
    ]
    key = (price.server or "", price.since or "", price.service_tier or "", price.from_tokens)
    remove = address(
        API,
        model=price.model,
        server=price.server,
        since=price.since,
        service_tier=price.service_tier,
        from_tokens=str(price.from_tokens) if price.from_tokens else None,
    )
    return ShownPrice(price, others, f"DELETE {remove}" if key in stored else "")


def routes(pages: ModelPricesPages) -> list[Route]:
    path = f"{HOME}/admin/models"
    return [
        route("GET", path, Access.ADMIN, pages.list, tag="Pages", media=HTML),
        route("GET", f"{path}/prices", Access.ADMIN, pages.one, tag="Pages", media=HTML),
    ]
