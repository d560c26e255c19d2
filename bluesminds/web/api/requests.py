"""/api/requests/{id}: one request with its receipt."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from bluesminds.accounts.usage import RequestRecord, UsageReports
from bluesminds.common.clock import format_time
from bluesminds.common.money import write_usd
from bluesminds.gateway.receipts import Receipt, ReceiptAttempt
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Route, route


class CandidateView(Struct, frozen=True):
    """`model`: the name that the server gets."""

    server: str | None
    model: str


class DroppedCandidate(Struct, frozen=True):
    """A target that was left out. `server` is null if the whole model was, or if users do not see servers."""

    model: str
    server: str | None
    reason: str


class KeyUseView(Struct, frozen=True):
    """An API key of the server, by its last four characters. `reason`: a status or a kind of failure, null if
    the server answered.
    """

    last_four: str
    reason: str | None


class AttemptView(Struct, frozen=True):
    """Times are milliseconds: `at_ms` after the start of the request, `ms` until the attempt failed or the
    request ended. `reason`: a status or a kind of failure, null if the server answered. `api_keys`: those of
    a server with several, in the order in which they were used; only for administrators. `cost_class`:
    "failed", "hedged" or "shadow" if the vendor may bill the attempt, which no account is charged for;
    `uncharged_usd` is its estimated cost, null if the attempt is not billed. Both are only for
    administrators.
    """

    server: str | None
    model: str
    at_ms: int
    ms: int
    reason: str | None
    api_keys: list[KeyUseView]
    cost_class: str | None
    uncharged_usd: str | None


class LimitUseView(Struct, frozen=True):
    """`before` and `after`: the used part of `limit` without and with the request. Limits in USD are
    decimal strings.
    """

    limit: int | str
    before: int | str
    after: int | str


class ReceiptCost(Struct, frozen=True):
    """`rate_usd`: for a million of the `unit`. `fallback`: the unit has no rate, so that of input or output
    tokens is used. The unit "second" has milliseconds as its `quantity`.
    """

    unit: str
    quantity: int
    rate_usd: str
    fallback: bool


class ReceiptView(Struct, frozen=True):
    """`route`: the model of the route, null without one. `candidates`: the targets that could serve the
    request, those of the first model in the order in which they were to be tried. `translated_to`: the format
    that the server got, null if it is the client's. `limits` by owner and name; only administrators see those
    of the tier. `price_version` is null without a price. `cost`: the lines of the cost, before a markup.
    `queued_ms`: how long the request waited for servers that were at their caps. `replay_of`: the id of the
    request that was sent again, null if it is not a replay. `shortened`: the lists are not complete.
    """

    route: str | None
    policy: str
    candidates: list[CandidateView]
    dropped: list[DroppedCandidate]
    attempts: list[AttemptView]
    translated_to: str | None
    dropped_fields: Sequence[str]
    reserved_tokens: int
    reserved_usd: str
    limits: dict[str, dict[str, LimitUseView]]
    price_version: str | None
    cost: list[ReceiptCost]
    queued_ms: int
    replay_of: str | None
    shortened: bool


class RequestView(Struct, frozen=True):
    """One request. `server` answered. `first_byte_ms` and `duration_ms` are milliseconds. `cost_usd` is null
    if the model has no price. `repriced_usd`: the cost that counts now, null unless it was computed again.
    `usage_source` says whose the counts are. The gateway's own counts are null if
    it could not count, and `reported_cost_usd` is null if the server reported no cost. `quarantine`: why a
    report of the server was not used, null if it was. `receipt` is null if there is none any more.
    """

    id: str
    request_id: str
    at: str
    key_id: str
    user_id: str
    endpoint: str
    model: str
    server: str | None
    status: int
    outcome: str
    streamed: bool
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    first_byte_ms: int | None
    duration_ms: int
    cost_usd: str | None
    repriced_usd: str | None
    usage_source: str
    own_input_tokens: int | None
    own_output_tokens: int | None
    reported_cost_usd: str | None
    quarantine: str | None
    receipt: ReceiptView | None


class RequestHandlers(Struct, frozen=True):
    """`expose_server`: users see the names of servers."""

    usage: UsageReports
    expose_server: bool

    async def show(self, principal: Principal, request_id: str) -> RequestView:
        """Show one request: its usage, and the receipt that says how it was routed.

        Users see their own requests, administrators all.
        """
        is_admin = principal.role == "admin"
        found = await self.usage.request(request_id, None if is_admin else principal.user_id)
        return _view(found, servers=is_admin or self.expose_server, keys=is_admin)

    async def show_any(self, request_id: str) -> RequestView:
        """Show one request of any user: its usage, and the receipt that says how it was routed."""
        return _view(await self.usage.request(request_id, None), servers=True, keys=True)


def routes(handlers: RequestHandlers) -> list[Route]:
    tag = "Usage"
    return [
        route("GET", "/api/requests/{request_id}", Access.SESSION, handlers.show, tag=tag),
        route("GET", "/api/admin/requests/{request_id}", Access.ADMIN, handlers.show_any, tag=tag),
    ]


def _view(record: RequestRecord, *, servers: bool, keys: bool) -> RequestView:
    row = record.row
    found = None if record.receipt is None else msgspec.json.decode(record.receipt, type=Receipt)
    return RequestView(
        id=row.id,
        request_id=row.request_id,
        at=format_time(row.at),
        key_id=row.key_id,
        user_id=row.user_id,
        endpoint=row.endpoint,
        model=row.model,
        server=(row.server or None) if servers else None,
        status=row.status,
        outcome=row.outcome,
        streamed=row.streamed,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cache_read_tokens=row.cache_read_tokens,
        first_byte_ms=row.first_byte_ms,
        duration_ms=row.duration_ms,
        cost_usd=_usd(row.cost_nano),
        repriced_usd=_usd(record.repriced),
        usage_source=row.usage_source,
        own_input_tokens=row.own_input_tokens,
        own_output_tokens=row.own_output_tokens,
        reported_cost_usd=_usd(row.reported_cost_nano),
        quarantine=row.quarantine or None,
        receipt=None if found is None else _receipt_view(found, row.model, servers=servers, keys=keys),
    )


def _usd(nano: int | None) -> str | None:
    return None if nano is None else write_usd(nano)


def _receipt_view(found: Receipt, model: str, *, servers: bool, keys: bool) -> ReceiptView:
    def name(server: str) -> str | None:
        return (server or None) if servers else None

    return ReceiptView(
        route=found.route or None,
        policy=found.policy,
        candidates=[CandidateView(name(one.server), one.model or model) for one in found.candidates],
        dropped=[DroppedCandidate(one.model, name(one.server), one.reason) for one in found.dropped],
        attempts=[_attempt_view(one, name(one.server), model, keys=keys) for one in found.attempts],
        translated_to=found.translated_to or None,
        dropped_fields=found.dropped_fields,
        reserved_tokens=found.reserved_tokens,
        reserved_usd=write_usd(found.reserved_nano),
        limits={owner: _limits_view(uses) for owner, uses in found.limits.items() if keys or owner != "tier"},
        price_version=found.price_version or None,
        cost=[ReceiptCost(one.unit, one.quantity, write_usd(one.rate), one.fallback) for one in found.cost],
        queued_ms=found.queued_ms,
        replay_of=found.replay_of or None,
        shortened=found.shortened,
    )


def _attempt_view(one: ReceiptAttempt, server: str | None, model: str, *, keys: bool) -> AttemptView:
    uses = [KeyUseView(use.key, use.reason or None) for use in one.keys] if keys else []
    cost_class = (one.cost_class or None) if keys else None
    cost = None if cost_class is None else write_usd(one.cost_nano)
    reason = one.reason or None
    return AttemptView(server, one.model or model, one.at_ms, one.ms, reason, uses, cost_class, cost)


def _limits_view(uses: Mapping[str, tuple[int, int, int]]) -> dict[str, LimitUseView]:
    return {
        name: LimitUseView(*(write_usd(value) if name.startswith("usd_") else value for value in use))
        for name, use in uses.items()
    }
