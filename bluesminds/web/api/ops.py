"""Monitoring: /health, /ready and /metrics (Prometheus text format), and / with the paths of the others."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bluesminds import __version__
from bluesminds.http.server.limits import ListenerStats
from bluesminds.web.guard import Access
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route


class ListenerMetrics(Collector):
    """Metrics of the listener."""

    def __init__(self, stats: ListenerStats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats
        yield GaugeMetricFamily("bluesminds_connections_open", "Client connections open.", value=stats.open)
        for name, value, text in (
            ("bluesminds_connections_accepted", stats.accepted, "Client connections accepted."),
            ("bluesminds_http_requests", stats.requests, "Requests read, on all paths."),
            ("bluesminds_http_parse_errors", stats.parse_errors, "Requests with invalid HTTP."),
            (
                "bluesminds_client_disconnects",
                stats.disconnects,
                "Clients that disconnected before the end of the response.",
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)
        refused = CounterMetricFamily(
            "bluesminds_http_refused", "Connections and requests rejected by the listener.", labels=("cause",)
        )
        for cause, count in stats.refused.items():
            refused.add_metric((cause,), count)
        yield refused


CheckReadiness = Callable[[], Awaitable[Mapping[str, str]]]
CountServers = Callable[[], Mapping[str, int]]


class ServiceIndex(Struct, frozen=True):
    """Name, version and paths."""

    name: str = "BluesMinds"
    version: str = __version__
    api: str = "/v1"
    models: str = "/v1/models"
    health: str = "/health"
    ready: str = "/ready"
    metrics: str = "/metrics"
    reference: str = "/docs"
    openapi: str = "/openapi.json"


class HealthResponse(Struct, frozen=True):
    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True):
    """`checks` maps each check to "ok" or the reason why the gateway is not ready. `servers` is the number of
    servers by state: "up", "down", "unknown" or "unusable", and of those that are "ejected" for a model.
    `configuration` is "ok", or says that the last reload was rejected; the gateway is ready all the same.
    """

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]
    servers: dict[str, int]
    configuration: str


class OpsHandlers(Struct, frozen=True):
    """`readiness` returns "ok" or a reason for each check, and `servers` the number of servers by state."""

    readiness: CheckReadiness
    servers: CountServers
    configuration: Callable[[], str]
    registry: CollectorRegistry

    async def index(self) -> ServiceIndex:
        """Show the name, the version and the paths of the gateway."""
        return ServiceIndex()

    async def health(self) -> HealthResponse:
        """Check that the process works."""
        return HealthResponse()

    async def ready(self) -> HandlerResponse[Readiness]:
        """Check that the gateway can serve requests. The status is 200, or 503 if it is not ready."""
        checks = dict(await self.readiness())
        ready = all(result == "ok" for result in checks.values())
        return HandlerResponse(
            Readiness("ok" if ready else "unavailable", checks, dict(self.servers()), self.configuration()),
            status=200 if ready else 503,
        )

    async def metrics(self) -> RawBody:
        """Show metrics in Prometheus text format."""
        return RawBody(generate_latest(self.registry), CONTENT_TYPE_LATEST)


def routes(handlers: OpsHandlers) -> list[Route]:
    tag = "Monitoring"
    return [
        route("GET", "/", Access.PUBLIC, handlers.index, tag=tag),
        route("GET", "/health", Access.PUBLIC, handlers.health, tag=tag),
        route("GET", "/ready", Access.PUBLIC, handlers.ready, tag=tag, other_statuses=(503,)),
        route("GET", "/metrics", Access.PUBLIC, handlers.metrics, tag=tag, media="text/plain"),
    ]
