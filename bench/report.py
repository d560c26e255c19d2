"""From the phases of a run to the table people read and the file programs read."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.client import Report

Results = Mapping[str, Mapping[str, "Row"]]  # by scenario, then by subject


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds. Latencies are added ones: those of the subject minus those of the direct phase
    beside it (for direct itself: whole ones); `cpu_us` is per request, per content event in the streams."""

    rps: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Phase:
    """One measured window of one subject, and how much latency a request has anyway, in milliseconds."""

    report: Report
    base_p50_ms: float
    base_p99_ms: float
    rss_bytes: int


def row(phases: Iterable[Phase]) -> Row:
    measured = list(phases)

    def median(values: Iterable[float], digits: int) -> float:
        return round(statistics.median(values), digits)

    return Row(
        rps=median((phase.report.requests / phase.report.seconds for phase in measured), 1),
        cpu_us=median((phase.report.cpu_seconds * 1e6 / phase.report.units for phase in measured), 1),
        p50_ms=median((phase.report.p50_ms - phase.base_p50_ms for phase in measured), 3),
        p99_ms=median((phase.report.p99_ms - phase.base_p99_ms for phase in measured), 3),
        rss_mb=median((phase.rss_bytes / 1e6 for phase in measured), 1),
    )


_COLUMNS = (
    f"{'scenario':<10} {'subject':<8} {'req/s':>9} {'CPU us':>9} {'+p50 ms':>9} {'+p99 ms':>9} {'RSS MB':>8}"
)


def table(results: Results) -> str:
    lines = [_COLUMNS]
    for scenario, rows in results.items():
        lines.append("")
        for subject, row in rows.items():
            lines.append(
                f"{scenario:<10} {subject:<8} {row.rps:>9.1f} {row.cpu_us:>9.1f}"
                f" {row.p50_ms:>9.3f} {row.p99_ms:>9.3f} {row.rss_mb:>8.1f}"
            )
        lines.extend(_ratios(rows))
    return "\n".join(lines)


def _ratios(rows: Mapping[str, Row]) -> Iterable[str]:
    """How the gateway compares: CPU below 1 is cheaper, requests/s above 1 is faster."""
    gateway = rows.get("gateway")
    if gateway is None:
        return
    for name in ("fastapi", "nginx"):
        other = rows.get(name)
        if other is not None and other.cpu_us and other.rps:
            cpu, speed = gateway.cpu_us / other.cpu_us, gateway.rps / other.rps
            yield f"{'':<10} gateway/{name:<8} CPU x {cpu:.2f}   req/s x {speed:.2f}"


def write(results: Results, path: Path) -> None:
    """The subjects' rows as JSON: {scenario: {subject: row}}."""
    plain = {
        scenario: {subject: asdict(row) for subject, row in rows.items() if subject != "direct"}
        for scenario, rows in results.items()
    }
    path.write_text(json.dumps(plain, indent=2) + "\n")
