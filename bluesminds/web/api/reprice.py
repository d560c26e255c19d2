"""POST /api/admin/reprice: the costs of settled requests with the prices that are now in force."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from bluesminds.accounts.repricing import AccountDifference, Repricing, RepricingQuery
from bluesminds.common.clock import Clock
from bluesminds.common.money import write_usd
from bluesminds.common.values import Server
from bluesminds.gateway.prices.book import PriceBook
from bluesminds.gateway.prices.repricing import new_cost
from bluesminds.web.fields import Name
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Route, route

RepriceTime = Annotated[datetime, Meta(tz=True, description="a time like 2026-02-28T12:00:00Z")]
Position = Annotated[
    str,
    Meta(pattern=r"^([0-9]{1,18}\.[0-9a-f-]{36})?\Z", description="the next_cursor of the call before"),
]


class RepriceInput(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests from `since`, before `until` (now without it). `dry_run`: only show what would change."""

    since: RepriceTime
    until: RepriceTime | None = None
    model: Name | None = None
    dry_run: bool = False
    after: Position = ""


class RepricedAccount(Struct, frozen=True):
    """The requests of an account whose cost changes. `credit_usd`: the change of its prepaid credit."""

    user: str
    requests: int
    before_usd: str
    after_usd: str
    difference_usd: str
    credit_usd: str


class RepriceResult(Struct, frozen=True):
    """`skipped`: requests whose new cost cannot be known: there is no price, the server was removed, or the
    attempts had different prices. A call looks at a limited number of requests. If `next_cursor` is set, send
    it as `after` to continue.
    """

    dry_run: bool
    requests: int
    changed: int
    skipped: int
    accounts: list[RepricedAccount]
    next_cursor: str | None


class RepriceHandlers(Struct, frozen=True):
    repricing: Repricing
    book: Callable[[], Awaitable[PriceBook]]
    list_servers: Callable[[], Awaitable[list[Server]]]
    clock: Clock

    async def run(self, principal: Principal, body: RepriceInput) -> RepriceResult:
        """Compute the costs of requests again, and post the differences.

        The prices are those that are now in force for the time of each request. Usage records stay as they
        are; statistics, costs and prepaid credit change. A repetition changes nothing.
        """
        book = await self.book()
        servers = {server.name: server for server in await self.list_servers()}
        at, _, id_ = body.after.partition(".")
        query = RepricingQuery(
            since=_milliseconds(body.since),
            until=self.clock.now_ms() if body.until is None else _milliseconds(body.until),
            model=body.model or "",
            after=(int(at), id_) if body.after else None,
            dry_run=body.dry_run,
        )
        found = await self.repricing.run(principal.actor, query, lambda row: new_cost(book, servers, row))
        return RepriceResult(
            dry_run=body.dry_run,
            requests=found.requests,
            changed=found.changed,
            skipped=found.skipped,
            accounts=[_account(user, one) for user, one in sorted(found.accounts.items())],
            next_cursor=None if found.next is None else f"{found.next[0]}.{found.next[1]}",
        )


def routes(handlers: RepriceHandlers) -> list[Route]:
    return [route("POST", "/api/admin/reprice", Access.ADMIN, handlers.run, tag="Prices")]


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _account(user: str, one: AccountDifference) -> RepricedAccount:
    return RepricedAccount(
        user=user,
        requests=one.requests,
        before_usd=write_usd(one.before),
        after_usd=write_usd(one.after),
        difference_usd=write_usd(one.after - one.before),
        credit_usd=write_usd(one.credit),
    )
