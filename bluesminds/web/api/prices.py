"""/api/admin/prices: the operator's prices, and the price that is in force for a model."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from msgspec import Meta, Struct, structs

from bluesminds.accounts.prices import Prices
from bluesminds.common.clock import Clock
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.money import PriceSource
from bluesminds.common.prices import OperatorPrice, PriceLine, rate_texts, rates_from, read_day, write_day
from bluesminds.common.values import Server
from bluesminds.config.settings import Day, ServerName, TierOfService, Tokens
from bluesminds.gateway.prices.book import PriceBook
from bluesminds.web.fields import Name
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route

Rate = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,5}(\.[0-9]{1,9})?\Z",
        description='null (no rate), or an amount of USD below 100000 in text, such as "1.25"',
    ),
]
FromTokens = Annotated[int, Meta(ge=0, le=10_000_000, description="a whole number from 0 to 10000000")]
ServerOrNone = Annotated[
    str, Meta(pattern=r"^([a-z0-9_-][a-z0-9_.-]{0,63})?\Z", description="a server, or empty")
]
TierOrNone = Annotated[
    str, Meta(pattern=r"^([a-z][a-z0-9_-]{0,31})?\Z", description="a service tier, or empty")
]
DayOrNone = Annotated[
    str, Meta(pattern=r"^(20\d\d-\d\d-\d\d)?\Z", description="a day like 2026-02-28, or empty")
]


class PriceRates(Struct, frozen=True, kw_only=True):
    """USD for a million tokens or characters, for an image, a second of audio, or a request."""

    input_usd: Rate | None = None
    cached_input_usd: Rate | None = None
    cache_write_usd: Rate | None = None
    cache_write_hour_usd: Rate | None = None
    output_usd: Rate | None = None
    reasoning_usd: Rate | None = None
    audio_input_usd: Rate | None = None
    audio_output_usd: Rate | None = None
    image_input_usd: Rate | None = None
    image_output_usd: Rate | None = None
    image_usd: Rate | None = None
    second_usd: Rate | None = None
    character_usd: Rate | None = None
    request_usd: Rate | None = None


class PriceInput(PriceRates, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line. Lines with the same server, model and `since` are one price. `since`, `until`: days (UTC);
    without them, the price counts for all time. It does not count on the day `until` any more.
    `from_tokens`: the rates count from this many input tokens on.
    """

    model: Name
    server: ServerName | None = None
    since: Day | None = None
    until: Day | None = None
    service_tier: TierOfService | None = None
    from_tokens: FromTokens = 0
    max_output_tokens: Tokens | None = None


class PriceView(PriceRates, frozen=True, kw_only=True):
    """`source`: what the price was set for, or "bundled" for the table that comes with the gateway.
    `version`: as in usage records.
    """

    model: str
    server: str | None
    since: str | None
    until: str | None
    service_tier: str | None
    from_tokens: int
    max_output_tokens: int | None
    source: PriceSource
    version: str


class PriceQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of the list."""

    model: Annotated[Name, Meta(description="show only the price in force for this model")] | None = None
    server: Annotated[ServerOrNone, Meta(description="with `model`: at this server")] = ""


class PriceKey(Struct, frozen=True, forbid_unknown_fields=True):
    """The line to remove."""

    model: Name
    server: ServerOrNone = ""
    since: DayOrNone = ""
    service_tier: TierOrNone = ""
    from_tokens: FromTokens = 0


class PriceHandlers(Struct, frozen=True):
    """`book` returns the current prices, and `changed` is called after a change."""

    prices: Prices
    book: Callable[[], Awaitable[PriceBook]]
    changed: Callable[[], Awaitable[None]]
    list_servers: Callable[[], Awaitable[list[Server]]]
    clock: Clock

    async def list(self, query: PriceQuery) -> Page[PriceView]:
        """List the prices of the operator, or the price that is in force for a model.

        Without `model`, prices of the table that comes with the gateway are not listed.
        """
        book = await self.book()
        if query.model is None:
            return Page(
                [
                    view
                    for row in sorted(book.rows, key=lambda row: (row.model, row.server, row.since))
                    for view in _views(row)
                ]
            )
        server = await self._server(query.server)
        price = book.find(server, query.model, self.clock.now_ms())
        return Page([] if price is None else _views(OperatorPrice(query.model, price, query.server)))

    async def set(self, principal: Principal, body: PriceInput) -> Page[PriceView]:
        """Set a line of a price. It replaces the line with the same server, model, date, tier and length.

        It counts for requests that arrive from `since` on, and later than this change.
        """
        fields = structs.asdict(body)
        rates = rates_from(fields)
        line = PriceLine(
            model=body.model,
            rates=rates,
            server=body.server or "",
            since=_day(body.since),
            service_tier=body.service_tier or "",
            from_tokens=body.from_tokens,
            max_output=body.max_output_tokens,
            until=_day(body.until, "until") if body.until else None,
        )
        if line.until is not None and line.until <= line.since:
            message = "`until` must be a day after `since`. The price ends before this day."
            raise InvalidRequest("invalid_value", message, param="until")
        if all(rate is None for rate in structs.astuple(rates)):
            raise InvalidRequest(
                "invalid_value", "Send at least one rate, such as `input_usd`.", param="input_usd"
            )
        await self.prices.set(principal.actor, line)
        await self.changed()
        rows = [row for row in (await self.book()).rows if row.model == line.model]
        return Page([view for row in rows for view in _views(row)])

    async def remove(self, principal: Principal, query: PriceKey) -> None:
        """Remove a line of a price from the database."""
        key = (query.server, query.model, _day(query.since), query.service_tier, query.from_tokens)
        await self.prices.remove(principal.actor, key)
        await self.changed()

    async def _server(self, name: str) -> Server | None:
        """Raises InvalidRequest."""
        if not name:
            return None
        for server in await self.list_servers():
            if server.name == name:
                return server
        raise InvalidRequest("invalid_value", f"There is no server named {name}.", param="server")


def routes(handlers: PriceHandlers) -> list[Route]:
    tag = "Prices"
    return [
        route("GET", "/api/admin/prices", Access.ADMIN, handlers.list, tag=tag),
        route("PUT", "/api/admin/prices", Access.ADMIN, handlers.set, tag=tag),
        route("DELETE", "/api/admin/prices", Access.ADMIN, handlers.remove, tag=tag),
    ]


def _day(text: str | None, param: str = "since") -> int:
    """Raises InvalidRequest."""
    try:
        return read_day(text) if text else 0
    except ValueError as exc:
        raise InvalidRequest(
            "invalid_value", f"`{param}` must be a day like 2026-02-28.", param=param
        ) from exc


def _views(row: OperatorPrice) -> list[PriceView]:
    """One line for each service tier and number of tokens."""
    price = row.price
    lines = [("", steps) for steps in price.steps]
    lines += [(tier, step) for tier, steps in sorted(price.tiers.items()) for step in steps]
    return [
        PriceView(
            model=row.model,
            server=row.server or None,
            since=write_day(row.since) if row.since else None,
            until=None if row.until is None else write_day(row.until),
            service_tier=tier or None,
            from_tokens=start,
            max_output_tokens=price.max_output,
            source=price.source,
            version=price.version,
            **rate_texts(rates),
        )
        for tier, (start, rates) in lines
    ]
