"""/api/billing/redeem and /api/admin/redeem-codes: codes that give credit once."""

from typing import Annotated

from msgspec import Meta, Struct

from bluesminds.accounts.redeem_codes import RedeemCodes
from bluesminds.common.clock import Clock, format_time
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.money import read_usd, write_usd
from bluesminds.web.api.ledger import EntryTime, EntryView, end_ms, entry_view
from bluesminds.web.fields import Name, NumberCursor, UsdAmount
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Paging, Route, route
from storage.redeem_codes import RedeemBatchRow, RedeemedCodeRow


class RedeemInput(Struct, frozen=True, forbid_unknown_fields=True):
    code: Annotated[str, Meta(max_length=100, description="a redeem code")]


class RedeemBatchInput(Struct, frozen=True, forbid_unknown_fields=True):
    """`amount_usd`: of each code. `expires_at`: until when codes can be redeemed. `ends_at`: when what is
    left of the credit ends.
    """

    name: Name
    amount_usd: UsdAmount
    count: Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")] = 1
    expires_at: EntryTime | None = None
    ends_at: EntryTime | None = None


class RedeemedPage(Paging, frozen=True, forbid_unknown_fields=True):
    after: NumberCursor = ""


class RedeemBatchView(Struct, frozen=True):
    """`codes` is their number, and `redeemed` how many of them were redeemed."""

    id: str
    name: str
    amount_usd: str
    codes: int
    redeemed: int
    created_at: str
    expires_at: str | None
    ends_at: str | None
    revoked_at: str | None


class NewRedeemBatchView(Struct, frozen=True):
    """The codes in full, which cannot be shown again."""

    batch: RedeemBatchView
    codes: list[str]

    def __repr__(self) -> str:
        return f"NewRedeemBatchView({self.batch.id!r})"


class RedeemedCodeView(Struct, frozen=True):
    number: int
    last_four: str
    redeemed_at: str
    user_id: str


class RedeemHandlers(Struct, frozen=True):
    codes: RedeemCodes
    clock: Clock

    async def redeem(self, principal: Principal, body: RedeemInput) -> EntryView:
        """Redeem a code: its amount becomes a grant of your account."""
        return entry_view(await self.codes.redeem(principal.actor, principal.user_id, body.code))

    async def create(self, principal: Principal, body: RedeemBatchInput) -> NewRedeemBatchView:
        """Make redeem codes. They are shown once."""
        now = self.clock.now_ms()
        times: dict[str, int | None] = {}
        for name, time in (("expires_at", body.expires_at), ("ends_at", body.ends_at)):
            times[name] = end_ms(name, time)
            if (at := times[name]) is not None and at <= now:
                raise InvalidRequest("invalid_value", "The time must be in the future.", param=name)
        made = await self.codes.create(
            principal.actor,
            body.name,
            read_usd(body.amount_usd),
            body.count,
            expires_at=times["expires_at"],
            ends_at=times["ends_at"],
        )
        return NewRedeemBatchView(_batch(made.row), list(made.codes))

    async def list(self, query: Paging) -> Page[RedeemBatchView]:
        """List the batches of redeem codes, oldest first."""
        rows = await self.codes.list(after=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, _batch, cursor=lambda row: row.id)

    async def redeemed(self, batch_id: str, query: RedeemedPage) -> Page[RedeemedCodeView]:
        """List the redeemed codes of a batch."""
        after = int(query.after) if query.after else 0
        rows = await self.codes.redeemed(batch_id, after=after, limit=query.limit + 1)
        return Page.of(rows, query.limit, _redeemed, cursor=lambda row: str(row.number))

    async def revoke(self, principal: Principal, batch_id: str) -> None:
        """Revoke the codes of a batch that are left. Redeemed credit stays."""
        await self.codes.revoke(principal.actor, batch_id)


def routes(handlers: RedeemHandlers) -> list[Route]:
    tag = "Credit"
    path = "/api/admin/redeem-codes"
    return [
        route("POST", "/api/billing/redeem", Access.SESSION, handlers.redeem, tag=tag, status=201),
        route("POST", path, Access.ADMIN, handlers.create, tag=tag, status=201),
        route("GET", path, Access.ADMIN, handlers.list, tag=tag),
        route("GET", path + "/{batch_id}/redeemed", Access.ADMIN, handlers.redeemed, tag=tag),
        route("DELETE", path + "/{batch_id}", Access.ADMIN, handlers.revoke, tag=tag),
    ]


def _batch(row: RedeemBatchRow) -> RedeemBatchView:
    return RedeemBatchView(
        id=row.id,
        name=row.name,
        amount_usd=write_usd(row.amount_nano),
        codes=row.codes,
        redeemed=row.redeemed,
        created_at=format_time(row.created_at),
        expires_at=None if row.expires_at is None else format_time(row.expires_at),
        ends_at=None if row.ends_at is None else format_time(row.ends_at),
        revoked_at=None if row.revoked_at is None else format_time(row.revoked_at),
    )


def _redeemed(row: RedeemedCodeRow) -> RedeemedCodeView:
    return RedeemedCodeView(row.number, row.last_four, format_time(row.redeemed_at), row.user_id)
