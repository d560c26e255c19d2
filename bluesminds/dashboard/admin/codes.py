"""Batches of redeem codes, and the redeemed codes of one batch."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.redeem_codes import RedeemCodes
from bluesminds.accounts.users import Users
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import UUID
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.redeem_codes import RedeemBatchRow

ROWS: Final = 50


class CodesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of a batch")] = ""


class BatchQuery(Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[str, Meta(pattern=r"^[0-9]{0,9}\Z", description="the number of a code")] = ""


class BatchLine(Struct, frozen=True):
    """A batch. `state`: revoked, used up or expired; empty while codes can be redeemed."""

    row: RedeemBatchRow
    state: str

    @property
    def left(self) -> int:
        return self.row.codes - self.row.redeemed


class CodesPages(Struct, frozen=True):
    frame: Frame
    codes: RedeemCodes
    users: Users
    clock: Clock

    async def list(
        self, principal: Principal, browser: BrowserRequest, query: CodesQuery
    ) -> HandlerResponse[RawBody]:
        """The batches of redeem codes."""
        found = await self.codes.list(after=query.after, limit=ROWS + 1)
        return self.frame.page(
            "codes.html",
            browser,
            principal,
            lines=[self._line(row) for row in found[:ROWS]],
            is_first_page=not query.after,
            more=link("/admin/codes", after=found[ROWS - 1].id) if len(found) > ROWS else "",
        )

    async def one(
        self, principal: Principal, browser: BrowserRequest, query: BatchQuery, batch_id: str
    ) -> HandlerResponse[RawBody]:
        """The redeemed codes of a batch."""
        batch = await self.codes.get(batch_id)
        found = await self.codes.redeemed(batch_id, after=int(query.after or 0), limit=ROWS + 1)
        path = f"/admin/codes/{batch_id}"
        return self.frame.page(
            "batch.html",
            browser,
            principal,
            line=self._line(batch),
            redeemed=found[:ROWS],
            names=await self.users.names({one.user_id for one in found}),
            is_first_page=not query.after,
            first=link(path),
            more=link(path, after=str(found[ROWS - 1].number)) if len(found) > ROWS else "",
        )

    def _line(self, row: RedeemBatchRow) -> BatchLine:
        if row.revoked_at is not None:
            return BatchLine(row, "revoked")
        if row.redeemed >= row.codes:
            return BatchLine(row, "used up")
        has_expired = row.expires_at is not None and row.expires_at <= self.clock.now_ms()
        return BatchLine(row, "expired" if has_expired else "")


def routes(pages: CodesPages) -> list[Route]:
    path = f"{HOME}/admin/codes"
    return [
        route("GET", path, Access.ADMIN, pages.list, tag="Pages", media=HTML),
        route("GET", f"{path}/{{batch_id}}", Access.ADMIN, pages.one, tag="Pages", media=HTML),
    ]
