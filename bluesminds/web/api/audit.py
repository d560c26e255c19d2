"""/api/admin/audit: who changed what, and whether the record of it is whole."""

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Raw, Struct

from bluesminds.accounts.audit import AuditLog
from bluesminds.common.clock import moment
from bluesminds.web.guard import Access
from bluesminds.web.routes import Page, Paging, Route, route
from storage.audit import AuditQuery, Damage, Entry, Link

_NEWEST: Final = 2**62
_WORDS: Final[dict[Damage, str]] = {
    "altered": "row {next} is not what was written there: it was altered, moved or added, or the chain was"
    " made with another pepper",
    "removed": "row {next} is missing: it was removed, or the end of the log had been tampered with when the"
    " following row was written",
    "truncated": "the rows from {next} on are missing",
    "rewritten": "row {next} is not the one that was noted: the chain was made anew by somebody who has the"
    " pepper",
    "head_gone": "the record of the last row is missing or unreadable (audit_head in the table settings)",
    "head_differs": "row {last} is not the one recorded as the last (audit_head in the table settings)",
}

Moment = Annotated[datetime, Meta(tz=True, description="a time like 2026-02-28T12:00:00Z")]
Word = Annotated[str, Meta(max_length=200, description="at most 200 characters")]


class AuditFilter(Paging, frozen=True, forbid_unknown_fields=True):
    """Times are [since, until)."""

    after: Annotated[
        str, Meta(pattern=r"^[0-9]{0,18}\Z", description="the next_cursor of the page before")
    ] = ""
    actor: Word | None = None
    action: Word | None = None
    subject: Word | None = None
    since: Moment | None = None
    until: Moment | None = None


class AuditEvent(Struct, frozen=True):
    """One change. `detail` has `before` and `after`, of the fields that differ; secrets in it are masked.
    `hash` is empty in rows that are older than the chain.
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
    """The end of the chain as it was noted earlier, like 17:0d9b..."""

    noted: (
        Annotated[
            str, Meta(pattern=r"^[0-9]{1,18}:([0-9a-f]{64})?\Z", description="SEQ:HASH as noted earlier")
        ]
        | None
    ) = None


class Verification(Struct, frozen=True):
    """`ok`: nothing is wrong. `rows` are good, of which the first `unchained` are older than the chain; `end`
    is SEQ:HASH of the last good one, to be noted elsewhere.
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
        """List changes, newest first."""
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
        return Page.of(found, query.limit, _act, cursor=lambda entry: str(entry.link.seq))

    async def verify(self, query: VerifyQuery) -> Verification:
        """Check the chain: whether a change was altered or removed.

        Who can write to the database but does not have the gateway's pepper cannot hide that a row was
        altered or removed. Only that the newest rows were cut off, and the record of the last set back, shows
        no trace: to find that too, note `end` elsewhere and send it as `noted`.
        """
        seq, _, digest = (query.noted or "").partition(":")
        found = await self.log.verify(Link(int(seq), digest) if query.noted else None)
        place = {"last": found.end.seq, "next": found.end.seq + 1}
        return Verification(
            ok=found.damage is None,
            rows=found.end.seq,
            unchained=found.unchained,
            end=f"{found.end.seq}:{found.end.hash}",
            damage=found.damage,
            message="whole" if found.damage is None else _WORDS[found.damage].format_map(place),
        )


def routes(handlers: AuditHandlers) -> list[Route]:
    tag = "Audit"
    return [
        route("GET", "/api/admin/audit", Access.ADMIN, handlers.list, tag=tag),
        route("GET", "/api/admin/audit/verify", Access.ADMIN, handlers.verify, tag=tag),
    ]


def _milliseconds(at: datetime | None, otherwise: int) -> int:
    return otherwise if at is None else round(at.timestamp() * 1000)


def _act(entry: Entry) -> AuditEvent:
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
