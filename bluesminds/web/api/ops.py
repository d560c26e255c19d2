"""What machines ask: / (what this is), /health (alive), /ready (fit for traffic), /metrics (Prometheus
text).
"""

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
from bluesminds.web.routes import Answer, RawBody, Route, route


class ListenerMetrics(Collector):
    """What the listener counted."""

    def __init__(self, stats: ListenerStats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats
        yield GaugeMetricFamily("bluesminds_connections_open", "Client connections open.", value=stats.open)
        for name, value, text in (
            ("bluesminds_connections_accepted", stats.accepted, "Client connections accepted."),
            ("bluesminds_http_requests", stats.requests, "Requests read, of every path."),
            ("bluesminds_http_parse_errors", stats.parse_errors, "Requests that were not HTTP."),
            ("bluesminds_client_disconnects", stats.disconnects, "Clients that left before the end."),
        ):
            yield CounterMetricFamily(name, text, value=value)
        refused = CounterMetricFamily(
            "bluesminds_http_refused", "Refused by the listener.", labels=("cause",)
        )
        for cause, count in stats.refused.items():
            refused.add_metric((cause,), count)
        yield refused


CheckReadiness = Callable[[], Awaitable[Mapping[str, str]]]


class Index(Struct, frozen=True):
    """What this is and where the rest is."""

    name: str = "BluesMinds"
    version: str = __version__
    api: str = "/v1"
    models: str = "/v1/models"
    health: str = "/health"
    ready: str = "/ready"
    metrics: str = "/metrics"
    reference: str = "/docs"
    openapi: str = "/openapi.json"


class Health(Struct, frozen=True):
    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True):
    """`checks` has a word per part; anything but "ok" means not ready."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


class OpsHandlers(Struct, frozen=True):
    """`readiness` returns a word per part."""

    readiness: CheckReadiness
    registry: CollectorRegistry

    async def index(self) -> Index:
        """Name, version, and where the rest is."""
        return Index()

    async def health(self) -> Health:
        """The process is alive."""
        return Health()

    async def ready(self) -> Answer[Readiness]:
        """Fit for traffic (200) or not (503)."""
        checks = dict(await self.readiness())
        fit = all(word == "ok" for word in checks.values())
        return Answer(Readiness("ok" if fit else "unavailable", checks), status=200 if fit else 503)

    async def metrics(self) -> RawBody:
        """Metrics as Prometheus reads them."""
        return RawBody(generate_latest(self.registry), CONTENT_TYPE_LATEST)


def routes(handlers: OpsHandlers) -> list[Route]:
    tag = "Operation"
    return [
        route("GET", "/", Access.PUBLIC, handlers.index, tag=tag),
        route("GET", "/health", Access.PUBLIC, handlers.health, tag=tag),
        route("GET", "/ready", Access.PUBLIC, handlers.ready, tag=tag, also=(503,)),
        route("GET", "/metrics", Access.PUBLIC, handlers.metrics, tag=tag, media="text/plain"),
    ]
