"""What machines ask: /health (alive), /ready (fit for traffic), /metrics (Prometheus text)."""

from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from quart import Blueprint, Response

Readiness = Callable[[], Awaitable[Mapping[str, str]]]


def blueprint(readiness: Readiness, registry: CollectorRegistry) -> Blueprint:
    """`readiness` returns a word per part; anything but "ok" means not ready."""
    ops = Blueprint("ops", __name__)

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
