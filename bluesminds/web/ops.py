"""What machines ask: / (what this is), /health (alive), /ready (fit for traffic), /metrics (Prometheus
text).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from quart import Blueprint, Response

from bluesminds import __version__
from bluesminds.http.limits import Stats


class ListenerMetrics(Collector):
    """What the listener counted."""

    def __init__(self, stats: Stats) -> None:
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


Readiness = Callable[[], Awaitable[Mapping[str, str]]]


def blueprint(readiness: Readiness, registry: CollectorRegistry) -> Blueprint:
    """`readiness` returns a word per part; anything but "ok" means not ready."""
    ops = Blueprint("ops", __name__)

    @ops.get("/")
    async def index() -> dict[str, str]:
        return {
            "name": "BluesMinds",
            "version": __version__,
            "api": "/v1",
            "models": "/v1/models",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
        }

    @ops.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @ops.get("/ready")
    async def ready() -> tuple[dict[str, object], int]:
        checks = dict(await readiness())
        fit = all(word == "ok" for word in checks.values())
        return {"status": "ok" if fit else "unavailable", "checks": checks}, 200 if fit else 503

    @ops.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return ops
