"""/admin/monitor: what the gateway does now. /ping: the same without absolute figures, for all callers."""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from bluesminds import __version__
from bluesminds.accounts.throttle import Throttle
from bluesminds.gateway.traffic import TrafficMonitor, TrafficRates
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Route, route

_MINUTES: Final = (1, 5, 15)


class PingResponse(Struct, frozen=True):
    """`success_rate` is the share of responses with a status below 500 in the last five minutes, from 0 to 1,
    and `average_ms` their average duration; null without requests.
    """

    status: str
    version: str
    uptime_seconds: int
    success_rate: float | None
    average_ms: int | None


class TrafficView(Struct, frozen=True):
    """The last `minutes`. `failed` are responses with a status from 500. `errors` are counts by code."""

    minutes: int
    requests: int
    failed: int
    requests_per_minute: float
    input_tokens_per_minute: float
    output_tokens_per_minute: float
    average_ms: int
    errors: Mapping[str, int]


class MonitorView(Struct, frozen=True):
    """`queues` has the length of each queue, `servers` the number of servers by state, and `tasks` the error
    of each background task that waits for its restart.
    """

    version: str
    uptime_seconds: int
    running: int
    traffic: list[TrafficView]
    queues: Mapping[str, int]
    servers: Mapping[str, int]
    tasks: Mapping[str, str]


class MonitorHandlers(Struct, frozen=True):
    traffic: TrafficMonitor
    throttle: Throttle
    running: Callable[[], int]
    queues: Callable[[], Mapping[str, int]]
    servers: Callable[[], Mapping[str, int]]
    tasks: Mapping[str, str]

    async def ping(self, principal: Principal) -> PingResponse:
        """Check that the gateway responds, and show how well it did in the last minutes."""
        self.throttle.check_public_list(principal.address)
        rates = self.traffic.rates(300)
        return PingResponse(
            status="ok",
            version=__version__,
            uptime_seconds=self.traffic.uptime,
            success_rate=round(1 - rates.failed / rates.requests, 4) if rates.requests else None,
            average_ms=round(rates.duration * 1000) if rates.requests else None,
        )

    async def monitor(self) -> MonitorView:
        """Show what the gateway does now: traffic, running requests, queues, servers and errors."""
        return MonitorView(
            version=__version__,
            uptime_seconds=self.traffic.uptime,
            running=self.running(),
            traffic=[_view(minutes, self.traffic.rates(60 * minutes)) for minutes in _MINUTES],
            queues=dict(self.queues()),
            servers=dict(self.servers()),
            tasks=dict(self.tasks),
        )


def routes(handlers: MonitorHandlers) -> list[Route]:
    tag = "Monitoring"
    return [
        route("GET", "/ping", Access.PUBLIC, handlers.ping, tag=tag),
        route("GET", "/admin/monitor", Access.ADMIN, handlers.monitor, tag=tag),
    ]


def _view(minutes: int, rates: TrafficRates) -> TrafficView:
    per_minute = 60 / max(rates.seconds, 1.0)
    return TrafficView(
        minutes=minutes,
        requests=rates.requests,
        failed=rates.failed,
        requests_per_minute=round(rates.requests * per_minute, 2),
        input_tokens_per_minute=round(rates.input_tokens * per_minute, 2),
        output_tokens_per_minute=round(rates.output_tokens * per_minute, 2),
        average_ms=round(rates.duration * 1000),
        errors=rates.errors,
    )
