"""The audit log: who changed what. Append-only, and a chain.

Every row has the next number, without a gap, and a MAC over itself and the MAC of the row before. The newest
number and MAC are kept a second time, in the settings: the head. It is locked before a row is added, so on
both engines the units that record an act run one after another. That holds without deadlocks only if the head
is the first thing such a unit locks: it begins with insert_audit, or with hold_audit when it has to look
before it can tell what it changes.
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, LiteralString

from storage.base import Connection

HEAD = "audit_head"
_DIGITS = 18


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act. `detail` is a JSON object in text and holds no secret; `address` is where it came from."""

    id: str
    at: int
    actor: str
    action: str
    subject: str
    detail: str
    address: str


@dataclass(frozen=True, slots=True)
class Link:
    """A place in the chain; the hash is hexadecimal, and empty before the first and for rows that are older
    than the chain.
    """

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Entry:
    """An act in its place."""

    link: Link
    act: AuditRow


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which entries: the newest first, of one time those with the higher number first, that follow the one
    numbered `before`. None and an open end do not filter; times are [since, until).
    """

    before: int
    limit: int
    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    since: int = 0
    until: int = 2**62


_NARROWED: Final[Mapping[str, LiteralString]] = {
    "actor": " AND actor = :actor",
    "action": " AND action = :action",
    "subject": " AND subject = :subject",
}

Damage = Literal["altered", "removed", "truncated", "rewritten", "head_gone", "head_differs"]
"""What is wrong with a chain: a row is not what was written in its place; a number is missing between two
rows; the last rows are missing; a row is not the one that somebody noted; the head is missing; the head is
not that of the last row.
"""


@dataclass(frozen=True, slots=True)
class Checked:
    """A part of the chain that was checked: up to `at`, with `unchained` rows that are older than the chain.
    `damage` is at the row after it. `done`: that was all.
    """

    at: Link
    unchained: int
    damage: Damage | None
    done: bool


async def insert_audit(connection: Connection, entry: AuditRow) -> None:
    """To be called in the unit that does what the entry tells of, before anything else that locks.

    A head that is gone or is not that of the last row was tampered with. The act is recorded all the same,
    and one number is left out, so that the break shows for good. What the head says is not gone by: it may be
    any number.
    """
    head = await hold_audit(connection)
    row = await connection.one("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    last = Link(0, "") if row is None else Link(*row)
    seq = last.seq + (1 if head == last else 2)
    link = Link(seq, link_hash(connection.chain_key, last.hash, seq, entry))
    await connection.execute(
        """
        INSERT INTO audit (seq, id, at, actor, action, subject, detail, address, hash)
        VALUES (:seq, :id, :at, :actor, :action, :subject, :detail, :address, :hash)
        """,
        seq=seq,
        id=entry.id,
        at=entry.at,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        detail=entry.detail,
        address=entry.address,
        hash=link.hash,
    )
    await connection.execute(
        "UPDATE settings SET value = :value WHERE name = :name", name=HEAD, value=f"{link.seq}:{link.hash}"
    )


async def hold_audit(connection: Connection) -> Link | None:
    """Lock the head to the end of the unit: until then nobody else records an act. None when it is gone."""
    value = await connection.value(
        """
        INSERT INTO settings (name, value) VALUES (:name, '')
        ON CONFLICT (name) DO UPDATE SET value = settings.value
        RETURNING value
        """,
        name=HEAD,
    )
    return _head(value)


def link_hash(key: bytes, previous: str, seq: int, act: AuditRow) -> str:
    """HMAC-SHA256 in hexadecimal."""
    fields = [seq, act.id, act.at, act.actor, act.action, act.subject, act.detail, act.address]
    text = json.dumps([previous, *fields], separators=(",", ":"))
    return hmac.digest(key, text.encode(), "sha256").hex()


def _head(value: object) -> Link | None:
    seq, _, hash_ = str(value).partition(":")
    return Link(int(seq), hash_) if seq.isascii() and seq.isdigit() and len(seq) <= _DIGITS else None


async def check_chain(connection: Connection, at: Link, noted: Link | None, limit: int) -> Checked:
    """Check at most `limit` rows that follow a place that was checked. `noted` is a place that somebody wrote
    down earlier: the rows up to it must still be those.
    """
    head = _head(await connection.value("SELECT value FROM settings WHERE name = :name", name=HEAD))
    rows = await connection.all(
        """
        SELECT seq, hash, id, at, actor, action, subject, detail, address
        FROM audit WHERE seq > :after ORDER BY seq LIMIT :limit
        """,
        after=at.seq,
        limit=limit,
    )
    unchained = 0
    for entry in [Entry(Link(*row[:2]), AuditRow(*row[2:])) for row in rows]:
        damage = _damage(connection.chain_key, at, entry, noted)
        if damage is not None:
            return Checked(at, unchained, damage, done=True)
        unchained += not entry.link.hash
        at = entry.link
    if len(rows) == limit:
        return Checked(at, unchained, None, done=False)
    return Checked(at, unchained, _damage_at_end(at, head, noted), done=True)


def _damage(key: bytes, at: Link, entry: Entry, noted: Link | None) -> Damage | None:
    link = entry.link
    if link.seq != at.seq + 1:
        return "removed"
    # Only the first rows may be older than the chain.
    older = at.hash == "" and link.hash == ""
    if not older and link.hash != link_hash(key, at.hash, link.seq, entry.act):
        return "altered"
    return "rewritten" if noted is not None and link.seq == noted.seq and link != noted else None


def _damage_at_end(at: Link, head: Link | None, noted: Link | None) -> Damage | None:
    if head is None:
        return "head_gone"
    if max(head.seq, noted.seq if noted else 0) > at.seq:
        return "truncated"
    return None if head == at else "head_differs"


async def select_audit(connection: Connection, query: AuditQuery) -> Sequence[Entry]:
    end_at, end_seq = await _end(connection, query)
    rows = await connection.all(
        audit_statement(query),
        since=query.since,
        end_at=end_at,
        end_seq=end_seq,
        limit=query.limit,
        **_given(query),
    )
    return [Entry(Link(*row[:2]), AuditRow(*row[2:])) for row in rows]


async def _end(connection: Connection, query: AuditQuery) -> tuple[int, int]:
    """The time and number that all entries are below."""
    # If the row itself is gone, the one above will do; a number above all is no bound.
    row = await connection.one(
        "SELECT at FROM audit WHERE seq >= :before ORDER BY seq LIMIT 1", before=query.before
    )
    until = (query.until, 0)
    return until if row is None else min(until, (row[0], query.before))


def audit_statement(query: AuditQuery) -> LiteralString:
    """Only filters that are given are in it: they have indexes, which "none, or equal" would not use. One
    upper bound of time and number together lets every page begin where it has to.
    """
    narrowed = "".join(_NARROWED[name] for name in _given(query))
    return (
        "SELECT seq, hash, id, at, actor, action, subject, detail, address FROM audit"  # noqa: S608 - literals
        " WHERE at >= :since AND (at, seq) < (:end_at, :end_seq)"
        + narrowed
        + " ORDER BY at DESC, seq DESC LIMIT :limit"
    )


def _given(query: AuditQuery) -> dict[str, str]:
    filters = {"actor": query.actor, "action": query.action, "subject": query.subject}
    return {name: value for name, value in filters.items() if value is not None}
