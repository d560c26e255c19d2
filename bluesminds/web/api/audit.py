"""/api/admin/audit: queries and verification of the audit log."""

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Raw, Struct

from bluesminds.accounts.audit import AuditLog
from bluesminds.common.clock import moment
from bluesminds.web.guard import Access
from bluesminds.web.routes import Page, Paging, Route, route
from storage.audit import AuditQuery, Damage, Entry, Link

_NEWEST: Final = 2**62
_DAMAGE: Final[dict[Damage, str]] = {
    "altered": "row {next} was altered, moved or added, or the chain was created with another pepper",
    "removed": "row {next} is missing: it was removed, or the end of the log was changed before the following"
    " row was written",
    "truncated": "the rows from {next} on are missing",
    "rewritten": "row {next} differs from the one that was noted: the chain was rewritten with the pepper",
    "head_gone": "the record of the last row is missing or unreadable (audit_head in the table settings)",
    "head_differs": "row {last} is not the recorded last row (audit_head in the table settings)",
}

Timestamp = Annotated[datetime, Meta(tz=True, description="a time like 2026-02-28T12:00:00Z")]
FilterText = Annotated[str, Meta(max_length=200, description="at most 200 characters")]


class AuditFilter(Paging, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`."""

    after: Annotated[
        str, Meta(pattern=r"^[0-9]{0,18}\Z", description="the next_cursor of the previous page")
    ] = ""
    actor: FilterText | None = None
    action: FilterText | None = None
    subject: FilterText | None = None
    since: Timestamp | None = None
    until: Timestamp | None = None


class AuditEvent(Struct, frozen=True):
    """One change. `detail` contains `before` and `after` with the changed fields; secrets are masked. `hash`
    is empty in rows that are older than the hash chain.
    """

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
    """`rows` is the number of intact rows; the first `unchained` of them are older than the hash chain. `end`
    is SEQ:HASH of the last intact row.
    """

    ok: bool
    rows: int
    unchained: int
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
        return Page.of(found, query.limit, _event, cursor=lambda entry: str(entry.link.seq))

    async def verify(self, query: VerifyQuery) -> AuditVerification:
        """Verify the hash chain of the audit log.

        It detects altered and removed rows. Write access to the database is not enough to hide them, only the
        pepper of the gateway is. The exception is the removal of the newest rows together with a reset of the
        record of the last row. To detect that, store `end` outside the gateway and send it as `noted` later.
        """
        seq, _, digest = (query.noted or "").partition(":")
        found = await self.log.verify(Link(int(seq), digest) if query.noted else None)
        position = {"last": found.end.seq, "next": found.end.seq + 1}
        return AuditVerification(
            ok=found.damage is None,
            rows=found.end.seq,
            unchained=found.unchained,
            end=f"{found.end.seq}:{found.end.hash}",
            damage=found.damage,
            message="intact" if found.damage is None else _DAMAGE[found.damage].format_map(position),
        )


def routes(handlers: AuditHandlers) -> list[Route]:
    tag = "Audit"
    return [
        route("GET", "/api/admin/audit", Access.ADMIN, handlers.list, tag=tag),
        route("GET", "/api/admin/audit/verify", Access.ADMIN, handlers.verify, tag=tag),
    ]


def _milliseconds(at: datetime | None, otherwise: int) -> int:
    return otherwise if at is None else round(at.timestamp() * 1000)


def _event(entry: Entry) -> AuditEvent:
    act = entry.act
    return AuditEvent(
        seq=entry.link.seq,
        id=act.id,
        at=moment(act.at),
        actor=act.actor,
        action=act.action,
        subject=act.subject,
        address=act.address,
        detail=Raw(act.detail.encode()),
        hash=entry.link.hash,
    )
