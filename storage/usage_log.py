"""Queries of the usage log with filters, in pages, newest first."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, LiteralString, TypeAlias

from storage.base import Connection
from storage.reprice import select_last_adjustments
from storage.usage import LATEST, USAGE_COLUMNS, UsageRow, usage_row

SCANNED: Final = 20_000
"""Rows that one page reads at most, so that a filter that matches few rows does not read the whole log."""
SUCCESSES: Final = ("ok", "client_gone", "stopped")
"""The outcomes that are not errors; the statements below repeat them."""
Position: TypeAlias = tuple[int, str]
"""`(at, id)` of a row."""


@dataclass(frozen=True, slots=True)
class LogQuery:
    """At most `limit` rows below the position `before`, with times in [since, before). None for a filter
    means that it does not apply. `statuses` is the first and the last status. `failed` selects requests that
    ended with an error, or only the others.
    """

    limit: int
    before: Position = LATEST
    since: int = 0
    user_id: str | None = None
    key_id: str | None = None
    request_id: str | None = None
    model: str | None = None
    server: str | None = None
    endpoint: str | None = None
    outcome: str | None = None
    statuses: tuple[int, int] | None = None
    failed: bool | None = None
    scan: int = SCANNED

    def until(self, at: int | None) -> "LogQuery":
        """Only rows before this time as well."""
        return self if at is None else replace(self, before=min(self.before, (at, "")))

    def accepts(self, row: UsageRow) -> bool:
        """Whether the filters select a row. Its time does not matter."""
        failed = row.outcome not in SUCCESSES
        return all(
            wanted is None or wanted == found
            for wanted, found in (
                (self.user_id, row.user_id),
                (self.key_id, row.key_id),
                (self.request_id, row.request_id),
                (self.model, row.model),
                (self.server, row.server),
                (self.endpoint, row.endpoint),
                (self.outcome, row.outcome),
                (self.failed, failed),
            )
        ) and (self.statuses is None or self.statuses[0] <= row.status <= self.statuses[1])


@dataclass(frozen=True, slots=True)
class LogPage:
    """`next` is the position that the next page is below; None after the last page. A page can have less rows
    than the limit and still have a next one, because a page reads at most `scan` rows. `repriced`: costs in
    nano-USD of rows whose cost was computed again, by id.
    """

    rows: Sequence[UsageRow]
    next: Position | None
    repriced: Mapping[str, int] = field(default_factory=dict)


async def select_log(connection: Connection, query: LogQuery) -> LogPage:
    page = await _select_rows(connection, query)
    adjusted = await select_last_adjustments(connection, page.rows)
    return replace(page, repriced={id_: row.cost_nano for id_, row in adjusted.items()})


async def _select_rows(connection: Connection, query: LogQuery) -> LogPage:
    if query.request_id is not None:
        return await _select_request(connection, query)
    at, id_ = query.before
    within: dict[str, object] = {"at": at, "id": id_, "since": query.since}
    if query.user_id is not None:
        within["user_id"] = query.user_id
    found = await connection.all(
        log_statement(query), scan=query.scan, limit=query.limit + 1, **within, **_filters(query)
    )
    rows = [usage_row(row) for row in found[: query.limit]]
    if len(found) > query.limit:
        return LogPage(rows, (rows[-1].at, rows[-1].id))
    last = await connection.one(_last_statement(query), last=query.scan - 1, **within)
    return LogPage(rows, None if last is None else (last[0], last[1]))


async def _select_request(connection: Connection, query: LogQuery) -> LogPage:
    """All requests with an id: clients may use one twice. The gateway's own ids are those of the rows, and
    UUIDv7 starts with the time in milliseconds (RFC 9562, section 5.7).
    """
    request_id = query.request_id or ""
    given: dict[str, object] = {"request_id": request_id, "since": query.since} | _filters(query)
    given |= {"at": query.before[0], "id": query.before[1]}
    if query.user_id is not None:
        given["user_id"] = query.user_id
    found = list(await connection.all(request_statement(query, _OF_CLIENT), **given))
    if _UUID.fullmatch(request_id):
        made_at = int(request_id[:8] + request_id[9:13], 16)
        found += await connection.all(request_statement(query, _OF_GATEWAY), made_at=made_at, **given)
    rows = sorted((usage_row(row) for row in found), key=lambda row: (row.at, row.id), reverse=True)
    return LogPage(rows[: query.limit], None)


def _filters(query: LogQuery) -> dict[str, object]:
    values = {name: getattr(query, name) for name in _FILTERS}
    given = {name: value for name, value in values.items() if value is not None}
    if query.statuses is not None:
        given |= {"lowest": query.statuses[0], "highest": query.statuses[1]}
    return given


def _conditions(query: LogQuery) -> LiteralString:
    conditions: LiteralString = "".join(
        text for name, text in _FILTERS.items() if getattr(query, name) is not None
    )
    if query.statuses is not None:
        conditions += " AND status BETWEEN :lowest AND :highest"
    if query.failed is False:
        conditions += " AND outcome IN ('ok', 'client_gone', 'stopped')"
    return conditions


def log_statement(query: LogQuery) -> LiteralString:
    """The inner query reads rows in the order of an index, the outer one filters them and keeps the order.
    Sorted again, it would read all rows before it returns the first.
    """
    return (
        "SELECT"  # noqa: S608 - literals
        + USAGE_COLUMNS
        + "FROM (SELECT * FROM usage WHERE"
        + _within(query)
        + " LIMIT :scan) AS scanned WHERE 1 = 1"
        + _conditions(query)
        + " LIMIT :limit"
    )


def _last_statement(query: LogQuery) -> LiteralString:
    """The last row that log_statement reads, if it does not read all of them."""
    return "SELECT at, id FROM usage WHERE" + _within(query) + " LIMIT 1 OFFSET :last"  # noqa: S608 - literals


def _within(query: LogQuery) -> LiteralString:
    """The conditions that an index serves."""
    conditions: LiteralString = " at >= :since AND (at, id) < (:at, :id)"
    if query.user_id is not None:
        conditions += " AND user_id = :user_id"
    if query.failed:
        conditions += " AND outcome NOT IN ('ok', 'client_gone', 'stopped')"
    return conditions + " ORDER BY at DESC, id DESC"


def request_statement(query: LogQuery, condition: LiteralString) -> LiteralString:
    """The expressions keep SQLite, which has no statistics, from using another index."""
    conditions: LiteralString = " AND at + 0 >= :since AND (at + 0, id || '') < (:at, :id)"
    if query.user_id is not None:
        conditions += " AND user_id || '' = :user_id"
    if query.failed:
        conditions += " AND outcome NOT IN ('ok', 'client_gone', 'stopped')"
    return "SELECT" + USAGE_COLUMNS + "FROM usage WHERE" + condition + conditions + _conditions(query)


_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_OF_CLIENT: Final[LiteralString] = " request_id = :request_id AND request_id <> id"
_OF_GATEWAY: Final[LiteralString] = " at = :made_at AND id = :request_id"
_FILTERS: Final[Mapping[str, LiteralString]] = {
    "key_id": " AND key_id = :key_id",
    "model": " AND model = :model",
    "server": " AND server = :server",
    "endpoint": " AND endpoint = :endpoint",
    "outcome": " AND outcome = :outcome",
}
