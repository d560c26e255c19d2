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


def row(phases: Iterable[Phase]) -> Row:
    measured = list(phases)

    def median(values: Iterable[float], digits: int) -> float:
        return round(statistics.median(values), digits)

    return Row(
        rps=median((phase.report.requests / phase.report.seconds for phase in measured), 1),
        cpu_us=median((phase.report.cpu_seconds * 1e6 / phase.report.units for phase in measured), 1),
        p50_ms=median((phase.report.p50_ms - phase.base_p50_ms for phase in measured), 3),
        p99_ms=median((phase.report.p99_ms - phase.base_p99_ms for phase in measured), 3),
        rss_mb=median((phase.report.rss_bytes / 1e6 for phase in measured), 1),
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


TARGETS = (
    # scenarios, subject, the most CPU time that the gateway may take as a multiple of the subject's
    (("c32",), "fastapi", 1 / 7),
    (("c32",), "nginx", 20.0),
    (("s50", "s200"), "nginx", 4.0),
)
TARGET_TRANSLATION = 3.0  # CPU time of a translated event as a multiple of one that passes through
TARGET_ROUTING = 1.2  # CPU time of a request with a route to three servers as a multiple of one without
TARGET_RSS_MB = 120.0  # in every scenario


def targets(results: Results) -> Iterable[str]:
    """A line for each target whose scenarios were measured."""
    for scenarios, other, most in TARGETS:
        for scenario in scenarios:
            rows = results.get(scenario, {})
            if "gateway" in rows and other in rows and rows[other].cpu_us:
                ratio = rows["gateway"].cpu_us / rows[other].cpu_us
                goal = f"{scenario} CPU at most {most:.3g} x {other}"
                yield f"target {goal}: {_verdict(ratio <= most)} ({ratio:.3g})"
    for one, other, most in (("t50", "s50", TARGET_TRANSLATION), ("r32", "c32", TARGET_ROUTING)):
        more, plain = results.get(one, {}).get("gateway"), results.get(other, {}).get("gateway")
        if more is not None and plain is not None and plain.cpu_us:
            ratio = more.cpu_us / plain.cpu_us
            yield f"target {one} CPU at most {most:.3g} x {other}: {_verdict(ratio <= most)} ({ratio:.3g})"
    memory = [rows["gateway"].rss_mb for rows in results.values() if "gateway" in rows]
    if memory:
        goal = f"RSS below {TARGET_RSS_MB:.0f} MB"
        yield f"target {goal}: {_verdict(max(memory) < TARGET_RSS_MB)} ({max(memory):.1f})"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def write(results: Results, path: Path) -> None:
    """The subjects' rows as JSON: {scenario: {subject: row}}."""
    plain = {
        scenario: {subject: asdict(row) for subject, row in rows.items() if subject != "direct"}
        for scenario, rows in results.items()
    }
    path.write_text(json.dumps(plain, indent=2) + "\n")
