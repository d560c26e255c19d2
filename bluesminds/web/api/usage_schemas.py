"""Types of the usage API, and their conversion from rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.accounts.usage import MAX_DAYS, CostReport, UsageStats
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import UUID
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.money import write_usd
from bluesminds.web.routes import MAX_PAGE
from storage.usage import DAY, HOUR, LATEST, UsageRow
from storage.usage_log import LogPage, LogQuery, Position
from storage.usage_stats import Grouping, LatencyRow, StatsQuery, StatsRow, UsageCounts

MAX_HOURLY_DAYS: Final = 35
MAX_DETAIL_DAYS: Final = 7
MAX_HOURLY_DETAIL_DAYS: Final = 1
Timestamp = Annotated[datetime, Meta(tz=True, description="a time like 2026-02-28T12:00:00Z")]
FilterName = Annotated[str, Meta(max_length=200, description="at most 200 characters")]
KeyId = Annotated[str, Meta(pattern=rf"^{UUID}\Z", description="the id of a key")]
UserId = Annotated[str, Meta(pattern=rf"^{UUID}\Z", description="the id of a user")]
_OWN: Final = "hour|day|month|model|key|tag"
_ALL: Final = f"{_OWN}|user|server"


class StatsFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """The buckets from `since`, before `until`, or of the last `days` calendar days in UTC."""

    group: Annotated[
        str,
        Meta(
            pattern=rf"^({_OWN})(,({_OWN}))?\Z",
            description="one or two of hour, day, month, model, key and tag, separated by a comma",
        ),
    ] = "model"
    tag: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{0,64}\Z", description="the name of a field in the metadata of the keys"
        ),
    ] = ""
    days: Annotated[int, Meta(ge=1, le=MAX_DAYS, description=f"a whole number from 1 to {MAX_DAYS}")] = 7
    since: Timestamp | None = None
    until: Timestamp | None = None
    key: KeyId | None = None
    model: FilterName | None = None


class StatsFilterForAll(StatsFilter, frozen=True, forbid_unknown_fields=True):
    """The buckets from `since`, before `until`, or of the last `days` calendar days in UTC."""

    group: Annotated[
        str,
        Meta(
            pattern=rf"^({_ALL})(,({_ALL}))?\Z",
            description="one or two of hour, day, month, model, key, tag, user, server, separated by a comma",
        ),
    ] = "model"
    user: UserId | None = None
    server: FilterName | None = None


class Percentiles(Struct, frozen=True):
    """Milliseconds; null without such requests. At most 9 % off."""

    p50: int | None
    p95: int | None
    p99: int | None


class UsageTotals(UsageCounts, frozen=True, omit_defaults=True):
    """Totals of one group. The fields with the names of the groups contain its labels. `cost_usd` does not
    include the `unpriced` responses, whose models have no price for what was used.
    """

    average_ms: int
    duration_ms: Percentiles
    first_byte_ms: Percentiles
    cost_usd: str
    unpriced: int
    hour: str | None = None
    day: str | None = None
    month: str | None = None
    model: str | None = None
    key: str | None = None
    user: str | None = None
    server: str | None = None
    tag: str | None = None


class UsageStatsView(Struct, frozen=True, tag_field="object", tag="list"):
    """Totals of the requests from `since`, before `until`."""

    since: str
    until: str
    data: list[UsageTotals]


Outcome = Literal[
    "ok", "stopped", "client_error", "upstream_error", "cut", "timeout", "client_gone", "internal", "crashed"
]


class RequestFilter(Struct, frozen=True, forbid_unknown_fields=True):
    """`failed` selects requests that ended with an error."""

    key: KeyId | None = None
    model: FilterName | None = None
    endpoint: FilterName | None = None
    request_id: FilterName | None = None
    status: (
        Annotated[
            str,
            Meta(pattern=r"^[1-5](xx|[0-9]{2})\Z", description="a status such as 429, or a class like 4xx"),
        ]
        | None
    ) = None
    outcome: Outcome | None = None
    failed: bool = False


class RequestFilterForAll(RequestFilter, frozen=True, forbid_unknown_fields=True):
    """`failed` selects requests that ended with an error."""

    user: UserId | None = None
    server: FilterName | None = None


class LogFilter(RequestFilter, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`. `failed` selects requests that ended with an error."""

    since: Timestamp | None = None
    until: Timestamp | None = None


class LogPaging(LogFilter, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`. `failed` selects requests that ended with an error."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description=f"a whole number from 1 to {MAX_PAGE}")] = 20
    after: Annotated[
        str, Meta(pattern=rf"^([0-9]{{1,15}}\.{UUID})?\Z", description="the next_cursor of the previous page")
    ] = ""


class LogPagingForAll(LogPaging, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`. `failed` selects requests that ended with an error."""

    user: UserId | None = None
    server: FilterName | None = None


class ExportFilter(LogFilter, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`. `failed` selects requests that ended with an error."""

    format: Literal["csv", "jsonl"] = "csv"


class ExportFilterForAll(ExportFilter, frozen=True, forbid_unknown_fields=True):
    """From `since`, before `until`. `failed` selects requests that ended with an error."""

    user: UserId | None = None
    server: FilterName | None = None


class LoggedRequest(Struct, frozen=True):
    """One request. Counts that are not known are null, and so is `cost_usd` if the model has no price.
    `repriced_usd`: the cost that counts now, null unless it was computed again. Only administrators see
    `user`, `server` and `attempts`.
    """

    id: str
    at: str
    request_id: str
    key: str
    endpoint: str
    model: str
    status: int
    outcome: str
    streamed: bool
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    audio_input_tokens: int | None
    audio_output_tokens: int | None
    image_input_tokens: int | None
    image_output_tokens: int | None
    images: int | None
    audio_ms: int | None
    characters: int | None
    usage_source: str
    first_byte_ms: int | None
    duration_ms: int
    cost_usd: str | None
    repriced_usd: str | None
    user: str | UnsetType = UNSET
    server: str | UnsetType = UNSET
    attempts: int | UnsetType = UNSET


class CostOf(Struct, frozen=True, omit_defaults=True):
    """The cost of one group. `cost_usd` does not include the `unpriced` responses."""

    requests: int
    cost_usd: str
    unpriced: int
    key: str | None = None
    model: str | None = None
    day: str | None = None


class CostsView(Struct, frozen=True):
    """The costs of the current month in UTC. `forecast_usd` is what the whole month will cost if each
    remaining day costs the average of the last seven days; null without costs.
    """

    month: str
    cost_usd: str
    unpriced: int
    forecast_usd: str | None
    by_key: list[CostOf]
    by_model: list[CostOf]
    by_day: list[CostOf]


def stats_query(given: StatsFilter, owner: str | None, days: tuple[int, int]) -> StatsQuery:
    """`days` is the time that the filter's days mean. Raises InvalidRequest."""
    groups: tuple[Grouping, ...] = msgspec.convert(given.group.split(","), tuple[Grouping, ...])
    if len({*groups}) < len(groups):
        raise InvalidRequest("invalid_value", "group must not name a group twice.", param="group")
    if ("tag" in groups) != bool(given.tag):
        raise InvalidRequest(
            "invalid_value", "Send tag=NAME and group by tag together; NAME is a metadata field.", param="tag"
        )
    since, until = _time(given.since, days[0]), _time(given.until, days[1])
    if "hour" in groups and until - since > MAX_HOURLY_DAYS * DAY:
        raise InvalidRequest(
            "invalid_value", f"Hours are available for at most {MAX_HOURLY_DAYS} days.", param="group"
        )
    if until - since > (MAX_DAYS + 1) * DAY:
        raise InvalidRequest("invalid_value", f"Choose at most {MAX_DAYS} days.", param="since")
    user, server = _of_all(given, owner)
    query = StatsQuery(
        since=since,
        until=until,
        groups=groups,
        user_id=user,
        key_id=given.key,
        model=given.model,
        server=server,
        tag=given.tag,
    )
    _require_short(query)
    return query


def _require_short(query: StatsQuery) -> None:
    """Raises InvalidRequest for statistics of all users that read the sums of all keys, models and servers
    over a long time.
    """
    if query.is_of_site or query.is_of_keys or query.user_id is not None or query.key_id is not None:
        return
    days = MAX_HOURLY_DETAIL_DAYS if query.bucket == HOUR else MAX_DETAIL_DAYS
    if query.until - query.since > days * DAY:
        raise InvalidRequest(
            "invalid_value",
            "Statistics of all users by key, user or tag with hours cover at most 1 day, and with models or"
            f" servers at most {MAX_DETAIL_DAYS} days. Choose a shorter time, one user or one key.",
            param="since",
        )


def _of_all(given: StatsFilter | RequestFilter, owner: str | None) -> tuple[str | None, str | None]:
    """The user and the server to select. Only filters for all users name them."""
    if isinstance(given, StatsFilterForAll | LogPagingForAll | ExportFilterForAll | RequestFilterForAll):
        return given.user, given.server
    return owner, None


def log_query(given: LogFilter, owner: str | None, *, limit: int = 1, after: str = "") -> LogQuery:
    """`owner` is the user whose requests are meant, unless the filter is for all users."""
    query = replace(
        request_query(given, owner), limit=limit, before=_position(after), since=_time(given.since, 0)
    )
    return query.until(None if given.until is None else _time(given.until, 0))


def request_query(given: RequestFilter, owner: str | None) -> LogQuery:
    """As `log_query`, at any time."""
    user, server = _of_all(given, owner)
    return LogQuery(
        limit=1,
        user_id=user,
        key_id=given.key,
        request_id=given.request_id,
        model=given.model,
        server=server,
        endpoint=given.endpoint,
        outcome=given.outcome,
        statuses=_statuses(given.status),
        failed=given.failed or None,
    )


def _position(cursor: str) -> Position:
    at, _, id_ = cursor.partition(".")
    return (int(at), id_) if cursor else LATEST


def cursor_of(position: Position | None) -> str | None:
    return None if position is None else f"{position[0]}.{position[1]}"


def _statuses(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if text.endswith("xx"):
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    return int(text), int(text)


def _time(at: datetime | None, otherwise: int) -> int:
    return otherwise if at is None else round(at.timestamp() * 1000)


def stats_view(found: UsageStats, groups: Sequence[str]) -> UsageStatsView:
    return UsageStatsView(
        since=format_time(found.since),
        until=format_time(found.until),
        data=[_totals(row, found.latency.get(row.labels), groups) for row in found.rows],
    )


_UNKNOWN: Final = LatencyRow((None, None, None), (None, None, None))


def _totals(row: StatsRow, latency: LatencyRow | None, groups: Sequence[str]) -> UsageTotals:
    times = latency or _UNKNOWN
    labels: dict[str, Any] = {
        group: _label(group, label) for group, label in zip(groups, row.labels, strict=True)
    }
    return UsageTotals(
        average_ms=round(row.duration_ms / row.requests) if row.requests else 0,
        duration_ms=Percentiles(*times.durations),
        first_byte_ms=Percentiles(*times.first_bytes),
        cost_usd=write_usd(row.cost_nano),
        unpriced=row.unpriced,
        **{name: getattr(row, name) for name in UsageCounts.__struct_fields__},
        **labels,
    )


def _label(group: str, label: str) -> str:
    match group:
        case "hour":
            return format_time(int(label))
        case "day":
            return format_time(int(label))[:10]
    return label


_LOGGED: Final = frozenset(UsageRow.__slots__) & frozenset(LoggedRequest.__struct_fields__) - {
    "at",
    "server",
    "attempts",
}


def log_views(page: LogPage, *, full: bool) -> list[LoggedRequest]:
    return [log_view(row, page.repriced.get(row.id), full=full) for row in page.rows]


def log_view(row: UsageRow, repriced: int | None = None, *, full: bool) -> LoggedRequest:
    """`repriced`: nano-USD."""
    fields: dict[str, Any] = {name: getattr(row, name) for name in _LOGGED}
    if full:
        fields |= {"user": row.user_id, "server": row.server, "attempts": row.attempts}
    return LoggedRequest(
        at=format_time(row.at),
        key=row.key_id,
        cost_usd=None if row.cost_nano is None else write_usd(row.cost_nano),
        repriced_usd=None if repriced is None else write_usd(repriced),
        **fields,
    )


def costs_view(found: CostReport) -> CostsView:
    return CostsView(
        month=found.month,
        cost_usd=write_usd(found.total),
        unpriced=found.unpriced,
        forecast_usd=None if found.forecast is None else write_usd(found.forecast),
        by_key=[_cost(row, "key") for row in found.by_key],
        by_model=[_cost(row, "model") for row in found.by_model],
        by_day=[_cost(row, "day") for row in found.by_day],
    )


def _cost(row: StatsRow, group: str) -> CostOf:
    label: Mapping[str, str] = {group: _label(group, row.label)}
    return CostOf(row.requests, write_usd(row.cost_nano), row.unpriced, **label)
