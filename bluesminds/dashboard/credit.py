"""Prepaid credit: the balance and the ledger of an account; for administrators, the ledger of all users."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.ledger import Ledger
from bluesminds.accounts.redeem_codes import RedeemCodes
from bluesminds.accounts.users import Users
from bluesminds.common.clock import format_time
from bluesminds.dashboard.days import DayText, read_days
from bluesminds.dashboard.frame import HOME, HTML, Frame, address, link
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.ledger import EntryKind, LedgerRow, WalletRow, wallet_change
from storage.ledger_search import NEWEST, LedgerQuery

ROWS: Final = 50
KINDS: Final[Mapping[EntryKind, str]] = {
    "charge": "Request",
    "topup": "Top-up",
    "grant": "Grant",
    "refund": "Refund",
    "adjustment": "Adjustment",
    "expiry": "Grant ended",
    "subscription": "Plan",
    "payment_refund": "Payment refunded",
}


class LedgerPageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`since` and `until` are days in UTC; both are included."""

    kind: Annotated[
        str,
        Meta(
            pattern=rf"^({'|'.join(KINDS)})?\Z",
            description=f"{', '.join(KINDS)}, or empty",
        ),
    ] = ""
    since: DayText = ""
    until: DayText = ""
    after: Annotated[str, Meta(pattern=r"^[0-9]{0,18}\Z", description="the number of an entry")] = ""

    def times(self) -> tuple[int | None, int | None]:
        """[since, until) in milliseconds. Raises InvalidRequest for a day that does not exist."""
        return read_days(self.since, self.until)


class AllLedgerPageQuery(LedgerPageQuery, frozen=True, forbid_unknown_fields=True):
    """`user` is the id or the complete e-mail address of a user."""

    user: Annotated[str, Meta(max_length=254, description="the id or the address of a user, or empty")] = ""


class LedgerEntryLine(Struct, frozen=True):
    """An entry. `nano` is negative if it takes credit away. `moves_credit` is false for the payment of a
    plan. Accounts are without the ids of users.
    """

    id: str
    at: int
    kind: EntryKind
    nano: int
    moves_credit: bool
    reference: str
    user_id: str
    debit: str
    credit: str


class EntriesTable(Struct, frozen=True):
    """A page of entries with its filters and links. `is_cut_short`: the search read as many entries as one
    page may, and continues at `more`.
    """

    path: str
    query: LedgerPageQuery
    lines: Sequence[LedgerEntryLine]
    is_filtered: bool
    is_first_page: bool
    is_cut_short: bool
    first: str
    more: str
    csv: str


class CreditPages(Struct, frozen=True):
    frame: Frame
    ledger: Ledger
    users: Users
    codes: RedeemCodes

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: LedgerPageQuery
    ) -> HandlerResponse[RawBody]:
        """The balance and the ledger of an account."""
        wallet = await self.ledger.balance(principal.user_id)
        return self.frame.page(
            "credit.html",
            browser,
            principal,
            wallet=wallet,
            kinds=KINDS,
            given=_given(wallet),
            has_codes=bool(await self.codes.list(after="", limit=1)),
            table=await self._entries("/credit", "/api/billing/ledger/export", query, principal.user_id),
        )

    async def show_all(
        self, principal: Principal, browser: BrowserRequest, query: AllLedgerPageQuery
    ) -> HandlerResponse[RawBody]:
        """The ledger of all users."""
        user_id = await self._user_id(query.user)
        found = await self._entries("/admin/ledger", "/api/admin/ledger/export", query, user_id, query.user)
        return self.frame.page(
            "ledger.html",
            browser,
            principal,
            names=await self.users.names({line.user_id for line in found.lines}),
            user=query.user,
            kinds=KINDS,
            table=found,
        )

    async def _user_id(self, given: str) -> str | None:
        """None: of all users. An address without a user gives an id that no user has."""
        if "@" not in given:
            return given or None
        found = await self.users.list(email=given)
        return found[0].id if found else given

    async def _entries(
        self, path: str, export: str, query: LedgerPageQuery, user_id: str | None, shown_user: str = ""
    ) -> EntriesTable:
        since, until = query.times()
        before = int(query.after) if query.after else NEWEST
        kind = next((kind for kind in KINDS if kind == query.kind), None)
        found = await self.ledger.entries(LedgerQuery(ROWS, before, user_id, kind, since, until))
        filters = {"kind": query.kind, "since": query.since, "until": query.until, "user": shown_user}
        more = "" if found.next is None else link(path, **filters, after=str(found.next))
        return EntriesTable(
            path=f"{HOME}{path}",
            query=query,
            lines=[_line(chained.row) for chained in found.rows],
            is_filtered=any(filters.values()),
            is_first_page=not query.after,
            is_cut_short=bool(more) and len(found.rows) < ROWS,
            first=link(path, **filters),
            more=more,
            csv=address(
                export,
                kind=query.kind,
                user=user_id if shown_user else None,
                since=None if since is None else format_time(since),
                until=None if until is None else format_time(until),
            ),
        )


def _line(row: LedgerRow) -> LedgerEntryLine:
    return LedgerEntryLine(
        id=row.id,
        at=row.at,
        kind=row.kind,
        nano=-row.amount_nano if row.debit.startswith("wallet:") else row.amount_nano,
        moves_credit=bool(wallet_change(row)),
        reference=row.reference,
        user_id=row.user_id,
        debit=row.debit.partition(":")[0],
        credit=row.credit.partition(":")[0],
    )


def _given(wallet: WalletRow | None) -> int:
    """What is left of all grants, in nano-USD."""
    return 0 if wallet is None else sum(grant.left_nano for grant in wallet.grants)


def routes(pages: CreditPages) -> list[Route]:
    return [
        route("GET", f"{HOME}/credit", Access.SESSION, pages.show, tag="Pages", media=HTML),
        route("GET", f"{HOME}/admin/ledger", Access.ADMIN, pages.show_all, tag="Pages", media=HTML),
    ]
