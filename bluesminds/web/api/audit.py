"""/api/admin/audit: queries and verification of the audit log."""

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Raw, Struct

from bluesminds.accounts.audit import AuditLog
from bluesminds.common.clock import format_time
from bluesminds.web.fields import NumberCursor
from bluesminds.web.guard import Access
from bluesminds.web.routes import Page, Paging, Route, route
from storage.audit import AuditQuery, ChainedAuditRow
from storage.chain import ChainDamage, ChainPosition

_NEWEST: Final = 2**62
_DAMAGE: Final[dict[ChainDamage, str]] = {
    "altered": "entry {next} was altered, moved or added, or the chain was written with another pepper",
    "removed": "entry {next} is missing: it was removed, or the head of the chain was changed before the next"
    " entry was written",
    "truncated": "the entries from {next} on are missing",
    "rewritten": "entry {next} differs from the noted entry: the chain was rewritten with the pepper",
    "head_gone": "the record of the last entry is missing (table chain_heads)",
    "head_differs": "entry {last} is not the one recorded as the last (table chain_heads)",
}

Timestamp = Annotated[datetime, Meta(tz=True, description="a time like 2026-02-28T12:00:00Z")]
FilterText = Annotated[str, Meta(max_length=200, description="at most 200 characters")]


class AuditFilter(Paging, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    after: NumberCursor = ""
    actor: FilterText | None = None
    action: FilterText | None = None
    subject: FilterText | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None


class AuditEvent(Struct, frozen=True):
    """One change. `detail` has `before` and `after` with the fields that differ; secrets are masked."""

    seq: int
    id: str
    at: str
    actor: str
    action: str
    subject: str
    address: str
    detail: Raw
    hash: str


class VerifyQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`noted` is the `end` of an earlier verification, such as 17:0d9b..."""

    noted: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9]{1,18}:([0-9a-f]{64})?\Z",
                description="SEQ:HASH, the end of an earlier verification",
            ),
        ]
        | None
    ) = None


class AuditVerification(Struct, frozen=True):
    """`ok`: no damage was found. `rows`: number of valid entries. `end`: SEQ:HASH of the last valid entry;
    store it outside of the database.
    """

    ok: bool
    rows: int
    end: str
    damage: Literal["altered", "removed", "truncated", "rewritten", "head_gone", "head_differs"] | None
    message: str


class AuditHandlers(Struct, frozen=True):
    log: AuditLog

    async def list(self, query: AuditFilter) -> Page[AuditEvent]:
        """List audit events, newest first."""
        found = await self.log.page(
            AuditQuery(
                before=int(query.after) if query.after else _NEWEST,
                limit=query.limit + 1,
                actor=query.actor,
                action=query.action,
                subject=query.subject,
                since=_milliseconds(query.since, 0),
                until=_milliseconds(query.until, _NEWEST),
            )
        )
        return Page.of(found, query.limit, _event, cursor=lambda chained: str(chained.position.seq))

    async def verify(self, query: VerifyQuery) -> AuditVerification:
        """Check whether entries of the audit log were altered or removed.

        Without the gateway's pepper, a person with write access to the database cannot hide such a change,
        with one exception: the newest entries can be removed if the head of the chain is set back as well.
        To detect this too, store `end` outside of the database and send it as `noted` later.
        """
        seq, _, digest = (query.noted or "").partition(":")
        found = await self.log.verify(ChainPosition(int(seq), digest) if query.noted else None)
        numbers = {"last": found.at.seq, "next": found.at.seq + 1}
        return AuditVerification(
            ok=found.damage is None,
            rows=found.at.seq,
            end=f"{found.at.seq}:{found.at.hash}",
            damage=found.damage,
            message="intact" if found.damage is None else _DAMAGE[found.damage].format_map(numbers),
        )


def routes(handlers: AuditHandlers) -> list[Route]:
    tag = "Audit"
    return [
        route("GET", "/api/admin/audit", Access.ADMIN, handlers.list, tag=tag),
        route("GET", "/api/admin/audit/verify", Access.ADMIN, handlers.verify, tag=tag),
    ]


def _milliseconds(at: datetime | None, otherwise: int) -> int:
    return otherwise if at is None else round(at.timestamp() * 1000)


def _event(chained: ChainedAuditRow) -> AuditEvent:
    row = chained.row
    return AuditEvent(
        seq=chained.position.seq,
        id=row.id,
        at=format_time(row.at),
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        address=row.address,
        detail=Raw(row.detail.encode()),
        hash=chained.position.hash,
    )
