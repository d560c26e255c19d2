"""Counters of the walk, read by Prometheus through a collector.

Counting is a dictionary update, because it happens per request; labels and text are made when /metrics is
read. Label values come from the configuration (servers, offered models) and from fixed sets, so their
number is bounded.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# Seconds; wide, because answers take from milliseconds (errors) to many minutes (reasoning).
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        running, rows = 0, []
        for bound, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((bound, float(running)))
        return rows


class Metrics(Collector):
    """What the walk counts. Attributes are plain mappings keyed by their label values."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.attempts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.seconds: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self.first_byte: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self.rows_committed = 0
        self.commits = 0
        self.commit_failures = 0
        self.rows_rejected = 0
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value read when scraped: `read()` returns a number."""
        self.gauges[name] = (text, read)

    def collect(self) -> Iterable[Metric]:
        yield _counter(
            "bluesminds_requests",
            "Requests answered.",
            ("endpoint", "model", "server", "status"),
            self.requests,
        )
        yield _counter("bluesminds_tokens", "Tokens metered.", ("model", "kind"), self.tokens)
        yield _counter(
            "bluesminds_upstream_attempts", "Attempts sent to servers.", ("server", "outcome"), self.attempts
        )
        yield _histogram("bluesminds_request_seconds", "From request head to last byte.", self.seconds)
        yield _histogram("bluesminds_first_byte_seconds", "From request head to first byte.", self.first_byte)
        for name, value, text in (
            ("bluesminds_usage_rows_committed", self.rows_committed, "Usage rows made durable."),
            ("bluesminds_usage_commits", self.commits, "Group commits of usage rows."),
            (
                "bluesminds_usage_commit_failures",
                self.commit_failures,
                "Group commits that had to be retried.",
            ),
            (
                "bluesminds_usage_rows_rejected",
                self.rows_rejected,
                "Usage rows the store refused; see the log.",
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())


def _counter(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, values: Mapping[str, _Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=("endpoint",))
    for endpoint, histogram in values.items():
        family.add_metric((endpoint,), histogram.cumulative(), histogram.total)
    return family
