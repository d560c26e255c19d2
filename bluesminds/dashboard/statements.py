"""Monthly statements of the user, and for administrators those of any user."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from bluesminds.accounts.statements import Statements, month_of
from bluesminds.accounts.users import Users
from bluesminds.dashboard.credit import KINDS
from bluesminds.dashboard.frame import HOME, HTML, Frame, address
from bluesminds.web.api.statements import Month
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.users import UserRow

MAX_MONTHS: Final = 36  # in the list of the page; older ones have an address


class StatementPageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A month in UTC; the current one if it is missing."""

    month: Month | None = None


class StatementLinks(Struct, frozen=True):
    """The page itself, and the downloads of the API."""

    page: str
    csv: str
    jsonl: str
    json: str


class StatementPages(Struct, frozen=True):
    frame: Frame
    statements: Statements
    users: Users

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: StatementPageQuery
    ) -> HandlerResponse[RawBody]:
        """The statement of an account for a month."""
        user = await self.users.get(principal.user_id)
        return await self._page(principal, browser, query, user, "/api/billing/statement")

    async def show_of(
        self, principal: Principal, browser: BrowserRequest, query: StatementPageQuery, user_id: str
    ) -> HandlerResponse[RawBody]:
        """The statement of a user for a month."""
        user = await self.users.get(user_id)
        return await self._page(principal, browser, query, user, f"/api/admin/users/{user_id}/statement")

    async def _page(
        self,
        principal: Principal,
        browser: BrowserRequest,
        query: StatementPageQuery,
        user: UserRow,
        api: str,
    ) -> HandlerResponse[RawBody]:
        this_month = self.statements.this_month()
        month = query.month or this_month
        found = await self.statements.statement(user.id, month)
        return self.frame.page(
            "statement.html",
            browser,
            principal,
            user=user,
            is_own=api.startswith("/api/billing"),
            statement=found,
            is_running=month == this_month,
            months=_months(user.created_at, this_month, month),
            kinds=KINDS,
            cost_nano=sum(row.cost_nano for row in found.models),
            links=StatementLinks(
                page=browser.path,
                csv=address(f"{api}/export", month=month, format="csv"),
                jsonl=address(f"{api}/export", month=month, format="jsonl"),
                json=address(api, month=month),
            ),
        )


def _months(created_ms: int, last: str, chosen: str) -> Sequence[str]:
    """The months of the account, the newest first, and the chosen one."""
    first = month_of(created_ms)
    months: list[str] = []
    year, month = int(last[:4]), int(last[5:])
    while len(months) < MAX_MONTHS and (found := f"{year}-{month:02}") >= first:
        months.append(found)
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)
    return sorted({*months, chosen}, reverse=True)


def routes(pages: StatementPages) -> list[Route]:
    of_user = f"{HOME}/admin/users/{{user_id}}/statements"
    return [
        route("GET", f"{HOME}/credit/statements", Access.SESSION, pages.show, tag="Pages", media=HTML),
        route("GET", of_user, Access.ADMIN, pages.show_of, tag="Pages", media=HTML),
    ]
