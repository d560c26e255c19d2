"""/user/balance, /api/billing/ledger, /api/admin/ledger and /api/admin/.../credit: prepaid credit and its
ledger.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.ledger import CreditEntry, Ledger
from bluesminds.common.clock import format_time
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.money import read_usd, write_usd
from bluesminds.web.api.usage_export import write_csv
from bluesminds.web.api.usage_schemas import UserId
from bluesminds.web.fields import Name, NumberCursor
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import MAX_PAGE, HandlerResponse, Page, Route, StreamBody, route
from storage.chain import ChainPosition
from storage.ledger import ChainedLedgerRow, EntryKind, LedgerRow, WalletRow
from storage.ledger_search import NEWEST, LedgerQuery

CSV: Final = "text/csv; charset=utf-8"
_LAST_MS: Final = 253_402_300_799_999  # 9999-12-31T23:59:59.999Z
CreditAmount = Annotated[
    str,
    Meta(
        pattern=r"^-?(?=[0-9.]*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?\Z",
        description='an amount of USD in text, such as "12.5"',
    ),
]
EntryTime = Annotated[datetime, Meta(tz=True, description="a time like 2026-02-28T12:00:00Z")]


class EntryFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    kind: EntryKind | None = None
    since: EntryTime | None = None
    until: EntryTime | None = None


class EntryFilterForAll(EntryFilter, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    user: UserId | None = None


class EntryPage(EntryFilter, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description=f"a whole number from 1 to {MAX_PAGE}")] = 20
    after: NumberCursor = ""


class EntryPageForAll(EntryPage, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    user: UserId | None = None


class GrantView(Struct, frozen=True):
    """`left_usd` is included in the balance."""

    left_usd: str
    ends_at: str | None


class BalanceView(Struct, frozen=True):
    """`prepaid`: requests are paid with the balance. Otherwise they are not charged. Grants are used before
    other credit, in this order.
    """

    prepaid: bool
    balance_usd: str
    grants: list[GrantView]


Reference = Annotated[
    str,
    Meta(
        pattern=r"^[^\x00-\x1f\x7f]{0,200}\Z",
        description="at most 200 characters without control characters",
    ),
]


class CreditInput(Struct, frozen=True, forbid_unknown_fields=True):
    """`amount_usd` may be negative for an adjustment. `ends_at` is only for grants. `key` makes a repetition
    harmless: an entry with the same key is not posted again.
    """

    kind: Literal["topup", "grant", "refund", "adjustment"]
    amount_usd: CreditAmount
    ends_at: EntryTime | None = None
    reference: Reference = ""
    key: Name | None = None


class EntryView(Struct, frozen=True):
    """`amount_usd` is negative if the entry takes credit away."""

    id: str
    at: str
    user_id: str
    kind: EntryKind
    amount_usd: str
    debit: str
    credit: str
    reference: str


class HeadQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`noted` is the `end` of an earlier verification."""

    noted: Annotated[str, Meta(pattern=r"^[0-9]{1,18}:([0-9a-f]{64})?\Z", description="SEQ:HASH")] | None = (
        None
    )


class LedgerVerification(Struct, frozen=True):
    """`sums`: the sum of each account in USD; together they are 0. `end`: SEQ:HASH of the last entry; store
    it outside of the database.
    """

    ok: bool
    entries: int
    wallets: int
    end: str
    sums: dict[str, str]
    message: str


class LedgerHandlers(Struct, frozen=True):
    ledger: Ledger

    async def own_balance(self, principal: Principal) -> BalanceView:
        """Show the prepaid credit of your account."""
        return _balance(await self.ledger.balance(principal.user_id))

    async def own_entries(self, principal: Principal, query: EntryPage) -> Page[EntryView]:
        """List the entries of your account, newest first."""
        return await self._entries(principal.user_id, query)

    async def export_own(self, principal: Principal, query: EntryFilter) -> HandlerResponse[StreamBody]:
        """Download the entries of your account as CSV, newest first."""
        return self._export(principal.user_id, query)

    async def balance(self, user_id: str) -> BalanceView:
        """Show the prepaid credit of a user."""
        return _balance(await self.ledger.balance(user_id))

    async def entries(self, user_id: str, query: EntryPage) -> Page[EntryView]:
        """List the entries of a user, newest first."""
        return await self._entries(user_id, query)

    async def all_entries(self, query: EntryPageForAll) -> Page[EntryView]:
        """List the entries of all users, newest first."""
        return await self._entries(query.user, query)

    async def export(self, query: EntryFilterForAll) -> HandlerResponse[StreamBody]:
        """Download the entries of all users as CSV, newest first."""
        return self._export(query.user, query)

    async def post(self, principal: Principal, user_id: str, body: CreditInput) -> EntryView:
        """Post a top-up, a grant, a refund or an adjustment.

        With the first entry, the requests of the user are paid with the balance.
        """
        negative = body.amount_usd.startswith("-")
        if negative and body.kind != "adjustment":
            raise InvalidRequest("invalid_value", "Only an adjustment may be negative.", param="amount_usd")
        if body.ends_at is not None and body.kind != "grant":
            raise InvalidRequest("invalid_value", "Only a grant can expire.", param="ends_at")
        nano = read_usd(body.amount_usd.removeprefix("-"))
        given = CreditEntry(
            body.kind,
            -nano if negative else nano,
            end_ms("ends_at", body.ends_at),
            body.reference,
            body.key or "",
        )
        return entry_view(await self.ledger.post(principal.actor, user_id, given))

    async def verify(self, query: HeadQuery) -> LedgerVerification:
        """Verify the ledger: its chain, the balances, and that charges and usage records agree."""
        seq, _, digest = (query.noted or "").partition(":")
        found = await self.ledger.verify(ChainPosition(int(seq), digest) if query.noted else None)
        return LedgerVerification(
            ok=found.problem is None,
            entries=found.entries,
            wallets=found.wallets,
            end=f"{found.head.seq}:{found.head.hash}",
            sums={name: write_usd(nano) for name, nano in sorted(found.sums.items())},
            message=found.problem or "intact",
        )

    async def _entries(self, user_id: str | None, query: EntryPage) -> Page[EntryView]:
        before = int(query.after) if query.after else NEWEST
        found = await self.ledger.entries(_search(query, user_id, query.limit, before))
        cursor = None if found.next is None else str(found.next)
        return Page([entry_view(chained.row) for chained in found.rows], cursor)

    def _export(self, user_id: str | None, query: EntryFilter) -> HandlerResponse[StreamBody]:
        pages = self.ledger.all_entries(_search(query, user_id, 1, NEWEST))
        name = ("content-disposition", 'attachment; filename="ledger.csv"')
        return HandlerResponse(StreamBody(_csv(pages), CSV), headers=(name,))


def end_ms(param: str, time: datetime | None) -> int | None:
    """Milliseconds. Raises InvalidRequest for a time after the year 9999 in UTC, which cannot be shown."""
    if time is None:
        return None
    at = round(time.timestamp() * 1000)
    if at > _LAST_MS:
        raise InvalidRequest("invalid_value", "The time must be in the year 9999 or earlier.", param=param)
    return at


def _search(query: EntryFilter, user_id: str | None, limit: int, before: int) -> LedgerQuery:
    since, until = (None if at is None else round(at.timestamp() * 1000) for at in (query.since, query.until))
    return LedgerQuery(limit, before, user_id, query.kind, since, until)


async def _csv(pages: AsyncIterator[Sequence[ChainedLedgerRow]]) -> AsyncIterator[bytes]:
    names = EntryView.__struct_fields__
    yield write_csv([names])
    async for rows in pages:
        views = (entry_view(chained.row) for chained in rows)
        yield write_csv([getattr(view, name) for name in names] for view in views)


def routes(handlers: LedgerHandlers) -> list[Route]:
    tag = "Credit"
    return [
        route("GET", "/user/balance", Access.SESSION, handlers.own_balance, tag=tag),
        route("GET", "/api/billing/ledger", Access.SESSION, handlers.own_entries, tag=tag),
        route(
            "GET",
            "/api/billing/ledger/export",
            Access.SESSION,
            handlers.export_own,
            tag=tag,
            media=CSV,
        ),
        route("GET", "/api/admin/users/{user_id}/balance", Access.ADMIN, handlers.balance, tag=tag),
        route("GET", "/api/admin/users/{user_id}/ledger", Access.ADMIN, handlers.entries, tag=tag),
        route("POST", "/api/admin/users/{user_id}/credit", Access.ADMIN, handlers.post, tag=tag, status=201),
        route("GET", "/api/admin/ledger", Access.ADMIN, handlers.all_entries, tag=tag),
        route("GET", "/api/admin/ledger/export", Access.ADMIN, handlers.export, tag=tag, media=CSV),
        route("GET", "/api/admin/ledger/verify", Access.ADMIN, handlers.verify, tag=tag),
    ]


def _balance(wallet: WalletRow | None) -> BalanceView:
    if wallet is None:
        return BalanceView(prepaid=False, balance_usd="0", grants=[])
    grants = [
        GrantView(write_usd(one.left_nano), None if one.ends_at is None else format_time(one.ends_at))
        for one in wallet.grants
    ]
    return BalanceView(prepaid=True, balance_usd=write_usd(wallet.balance_nano), grants=grants)


def entry_view(row: LedgerRow) -> EntryView:
    taken = row.debit.startswith("wallet:")
    return EntryView(
        id=row.id,
        at=format_time(row.at),
        user_id=row.user_id,
        kind=row.kind,
        amount_usd=write_usd(-row.amount_nano if taken else row.amount_nano),
        debit=row.debit,
        credit=row.credit,
        reference=row.reference,
    )
