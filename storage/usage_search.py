"""Requests in the usage log that match filters, newest first, with a bound on the rows that are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.base import Connection
from storage.usage import LATEST, USAGE_COLUMNS, UsageRow, usage_row

MAX_READ = 5_000  # rows of one search


@dataclass(frozen=True, slots=True)
class RequestSearch:
    """Rows below the position `before`: of a user, or of all if `user_id` is "". The other filters are "" for
    all. `status` is "ok", "failed", or a status or its first digit, such as "429" or "5".
    """

    user_id: str
    before: tuple[int, str] = LATEST
    status: Literal["", "ok", "failed"] | str = ""
    model: str = ""
    key_id: str = ""
    server: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class FoundRequests:
    """At most `limit` rows. `more` is the position to go on from; None: there is nothing below. If fewer rows
    than the limit were found, the search ended at `more` because it had read MAX_READ rows.
    """

    rows: Sequence[UsageRow]
    more: tuple[int, str] | None


async def search_requests(connection: Connection, search: RequestSearch, limit: int) -> FoundRequests:
    at, id_ = search.before
    place = {"at": at, "id": id_, "user_id": search.user_id, "read": MAX_READ}
    filters = {
        "status": search.status,
        "model": search.model,
        "key_id": search.key_id,
        "server": search.server,
        "request_id": search.request_id,
        "count": limit + 1,
    }
    statement, last = (SEARCH_OF_USER, LAST_OF_USER) if search.user_id else (SEARCH_ALL, LAST_OF_ALL)
    if not search.user_id:
        del place["user_id"]
    found = [usage_row(row) for row in await connection.all(statement, **place, **filters)]
    if len(found) > limit:
        end = found[limit - 1]
        return FoundRequests(found[:limit], (end.at, end.id))
    position = await connection.one(last, **(place | {"read": MAX_READ - 1}))
    return FoundRequests(found, None if position is None else (position[0], position[1]))


_BELOW = " (at, id) < (:at, :id) ORDER BY at DESC, id DESC"
_OF_USER = "FROM usage WHERE user_id = :user_id AND" + _BELOW
_OF_ALL = "FROM usage WHERE" + _BELOW
_MATCH = """
    WHERE (CAST(:status AS TEXT) = ''
            OR (:status = 'ok' AND outcome IN ('ok', 'client_gone', 'stopped'))
            OR (:status = 'failed' AND outcome NOT IN ('ok', 'client_gone', 'stopped'))
            OR CAST(status AS TEXT) = :status OR substr(CAST(status AS TEXT), 1, 1) = :status)
        AND (CAST(:model AS TEXT) = '' OR model = :model)
        AND (CAST(:key_id AS TEXT) = '' OR key_id = :key_id)
        AND (CAST(:server AS TEXT) = '' OR server = :server)
        AND (CAST(:request_id AS TEXT) = '' OR request_id = :request_id)
    ORDER BY at DESC, id DESC LIMIT :count
"""
_SELECT = "SELECT" + USAGE_COLUMNS + "FROM (SELECT" + USAGE_COLUMNS
SEARCH_OF_USER = _SELECT + _OF_USER + " LIMIT :read) AS recent" + _MATCH
SEARCH_ALL = _SELECT + _OF_ALL + " LIMIT :read) AS recent" + _MATCH
LAST_OF_USER = "SELECT at, id " + _OF_USER + " LIMIT 1 OFFSET :read"
LAST_OF_ALL = "SELECT at, id " + _OF_ALL + " LIMIT 1 OFFSET :read"
