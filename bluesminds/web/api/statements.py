"""/api/billing/statement and /api/admin/users/{user_id}/statement: what has changed a credit in a month."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from bluesminds.accounts.statements import AccountStatement, StatementLine, Statements
from bluesminds.common.clock import format_time
from bluesminds.common.money import write_usd
from bluesminds.web.api.usage_export import write_csv
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Route, StreamBody, route
from storage.ledger import EntryKind
from storage.usage_stats import StatsRow

JSON_LINES: Final = "application/jsonl"
Month = Annotated[str, Meta(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])\Z", description="a month like 2026-02")]


class StatementQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A month in UTC; the current one if it is missing."""

    month: Month | None = None


class StatementExport(StatementQuery, frozen=True, forbid_unknown_fields=True):
    """A month in UTC; the current one if it is missing."""

    format: Literal["csv", "jsonl"] = "csv"


class StatementSum(Struct, frozen=True):
    """The entries of one kind. `amount_usd` is negative if they have taken credit away."""

    kind: EntryKind
    entries: int
    amount_usd: str


class StatementModel(Struct, frozen=True):
    """The usage of a model, paid or not. `cost_usd` does not include the `unpriced` responses."""

    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: str
    unpriced: int


class StatementView(Struct, frozen=True):
    """The credit of an account in a month: opening balance, plus the sums, is the closing balance. `prepaid`
    is false if requests are not charged.
    """

    user: str
    month: str
    since: str
    until: str
    prepaid: bool
    opening_usd: str
    sums: list[StatementSum]
    closing_usd: str
    models: list[StatementModel]
    cost_usd: str


class StatementEntry(Struct, frozen=True):
    """One entry. `amount_usd` is negative if it takes credit away; `balance_usd` is the balance after it."""

    at: str
    kind: EntryKind
    amount_usd: str
    balance_usd: str
    id: str
    reference: str


class StatementHandlers(Struct, frozen=True):
    statements: Statements

    async def show_own(self, principal: Principal, query: StatementQuery) -> StatementView:
        """Show the statement of your account for a month."""
        return await self._show(principal.user_id, query)

    async def show(self, user_id: str, query: StatementQuery) -> StatementView:
        """Show the statement of a user for a month."""
        return await self._show(user_id, query)

    async def export_own(self, principal: Principal, query: StatementExport) -> HandlerResponse[StreamBody]:
        """Download the entries of your account in a month as CSV or JSON lines, oldest first."""
        return self._export(principal.user_id, query)

    async def export(self, user_id: str, query: StatementExport) -> HandlerResponse[StreamBody]:
        """Download the entries of a user in a month as CSV or JSON lines, oldest first."""
        return self._export(user_id, query)

    async def _show(self, user_id: str, query: StatementQuery) -> StatementView:
        month = query.month or self.statements.this_month()
        return _view(await self.statements.statement(user_id, month))

    def _export(self, user_id: str, query: StatementExport) -> HandlerResponse[StreamBody]:
        month = query.month or self.statements.this_month()
        pages = self.statements.lines(user_id, month)
        if query.format == "csv":
            body = StreamBody(_csv(pages), "text/csv; charset=utf-8")
        else:
            body = StreamBody(_json_lines(pages), JSON_LINES)
        disposition = f'attachment; filename="statement-{month}.{query.format}"'
        return HandlerResponse(body, headers=(("content-disposition", disposition),))


def routes(handlers: StatementHandlers) -> list[Route]:
    tag, csv, jsonl = "Credit", "text/csv", (JSON_LINES,)
    own, of_user = "/api/billing/statement", "/api/admin/users/{user_id}/statement"
    return [
        route("GET", own, Access.SESSION, handlers.show_own, tag=tag),
        route(
            *("GET", f"{own}/export", Access.SESSION, handlers.export_own),
            tag=tag,
            media=csv,
            other_media=jsonl,
        ),
        route("GET", of_user, Access.ADMIN, handlers.show, tag=tag),
        route(
            *("GET", f"{of_user}/export", Access.ADMIN, handlers.export),
            tag=tag,
            media=csv,
            other_media=jsonl,
        ),
    ]


def _view(found: AccountStatement) -> StatementView:
    return StatementView(
        user=found.user_id,
        month=found.month,
        since=format_time(found.since),
        until=format_time(found.until),
        prepaid=found.opening is not None,
        opening_usd=write_usd(found.opening or 0),
        sums=[StatementSum(one.kind, one.entries, write_usd(one.nano)) for one in found.kinds],
        closing_usd=write_usd(found.closing),
        models=[_model(row) for row in found.models],
        cost_usd=write_usd(sum(row.cost_nano for row in found.models)),
    )


def _model(row: StatsRow) -> StatementModel:
    return StatementModel(
        row.label,
        row.requests,
        row.input_tokens,
        row.output_tokens,
        write_usd(row.cost_nano),
        row.unpriced,
    )


def _entry(line: StatementLine) -> StatementEntry:
    return StatementEntry(
        at=format_time(line.row.at),
        kind=line.row.kind,
        amount_usd=write_usd(line.nano),
        balance_usd=write_usd(line.balance),
        id=line.row.id,
        reference=line.row.reference,
    )


async def _csv(pages: AsyncIterator[Sequence[StatementLine]]) -> AsyncIterator[bytes]:
    yield write_csv([StatementEntry.__struct_fields__])
    async for lines in pages:
        yield write_csv(msgspec.structs.astuple(_entry(line)) for line in lines)


async def _json_lines(pages: AsyncIterator[Sequence[StatementLine]]) -> AsyncIterator[bytes]:
    encoder = msgspec.json.Encoder()
    async for lines in pages:
        yield b"".join(encoder.encode(_entry(line)) + b"\n" for line in lines)
