"""Counters of the request pipeline, as a Prometheus collector.

Counting is a dictionary update, because it happens for every request; labels and text are built when /metrics
is read. Label values are configured (servers, models) or from fixed sets, so their number is bounded.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bluesminds import __version__
from bluesminds.common.money import NANO
from storage.usage import UsageRow

# Seconds: responses take from milliseconds (errors) to many minutes (reasoning).
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


# Tokens per second: from reasoning models on a CPU to small models on fast accelerators.
RATE_BUCKETS = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0, 2500.0)


class _Histogram:
    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...] = BUCKETS) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        running, rows = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self.counts, strict=True):
            running += count
            rows.append((bound, float(running)))
        return rows


class MeterSums:
    """What both meters have counted of the same requests. `upstream` is what the server has reported."""

    __slots__ = (
        "compared",
        "costed",
        "own_cost",
        "own_input",
        "own_output",
        "upstream_cost",
        "upstream_input",
        "upstream_output",
    )

    def __init__(self) -> None:
        self.compared = self.own_input = self.own_output = self.upstream_input = self.upstream_output = 0
        self.costed = self.own_cost = self.upstream_cost = 0  # nano-USD

    def add(self, row: UsageRow) -> None:
        """`row` has both meters."""
        self.compared += 1
        self.own_input += row.own_input_tokens or 0
        self.upstream_input += row.input_tokens or 0
        if not row.reasoning_tokens:  # a server may hide it
            self.own_output += row.own_output_tokens or 0
            self.upstream_output += row.output_tokens or 0
        if row.reported_cost_nano is not None and row.cost_nano is not None:
            self.costed += 1
            self.own_cost += row.cost_nano * 10_000 // (10_000 + row.markup)
            self.upstream_cost += row.reported_cost_nano


class Metrics(Collector):
    """The attributes are mappings from label values to counts."""

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self.tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.cost: defaultdict[tuple[str, str], int] = defaultdict(int)  # nano-USD
        self.attempts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.errors: defaultdict[tuple[str], int] = defaultdict(int)
        self.cache: defaultdict[tuple[str], int] = defaultdict(int)
        self.seconds: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self.first_byte: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self.token_rate: defaultdict[str, _Histogram] = defaultdict(lambda: _Histogram(RATE_BUCKETS))
        self.unpriced: defaultdict[str, int] = defaultdict(int)
        self.uncharged: defaultdict[tuple[str, str], int] = defaultdict(int)  # nano-USD
        self.shadow: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.meters: defaultdict[tuple[str, str], MeterSums] = defaultdict(MeterSums)
        self.quarantined: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.queue_refused: defaultdict[tuple[str], int] = defaultdict(int)
        self.queue_seconds: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self.rows_committed = 0
        self.commits = 0
        self.commit_failures = 0
        self.rows_rejected = 0
        self._labelled: dict[str, tuple[str, str, Callable[[], Mapping[str, float]]]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._counters: dict[str, tuple[str, Callable[[], float]]] = {}

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value `read` returns at each scrape."""
        self._gauges[name] = (help_text, read)

    def observe_queue(self, outcome: str, seconds: float) -> None:
        """A request has waited for a server at its caps, or the queue was full."""
        if outcome in ("full", "account_full"):
            self.queue_refused[(outcome,)] += 1
        else:
            self.queue_seconds[outcome].observe(seconds)

    def counter(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a counter whose value `read` returns at each scrape."""
        self._counters[name] = (help_text, read)

    def labelled_gauge(
        self, name: str, help_text: str, label: str, read: Callable[[], Mapping[str, float]]
    ) -> None:
        """Add a gauge with one label; `read` returns the value for each value of the label."""
        self._labelled[name] = (help_text, label, read)

    def _drift(self) -> Iterable[Metric]:
        requests: dict[tuple[str, ...], float] = {}
        tokens: dict[tuple[str, ...], float] = {}
        costs: dict[tuple[str, ...], float] = {}
        for place, sums in self.meters.items():
            requests[(*place, "tokens")], requests[(*place, "cost")] = sums.compared, sums.costed
            tokens[(*place, "input", "own")] = sums.own_input
            tokens[(*place, "input", "upstream")] = sums.upstream_input
            tokens[(*place, "output", "own")] = sums.own_output
            tokens[(*place, "output", "upstream")] = sums.upstream_output
            costs[(*place, "own")] = sums.own_cost / NANO
            costs[(*place, "upstream")] = sums.upstream_cost / NANO
        place_labels = ("model", "server")
        yield _counter(
            "bluesminds_drift_requests",
            "Requests that both meters have counted, by what is compared.",
            (*place_labels, "compared"),
            requests,
        )
        yield _counter(
            "bluesminds_drift_tokens",
            "Tokens of the same requests, by meter: the gateway's own count, and what the server reports.",
            (*place_labels, "kind", "meter"),
            tokens,
        )
        yield _counter(
            "bluesminds_drift_cost_usd",
            "Cost of the same requests, by meter: the gateway's price, and what the server reports.",
            (*place_labels, "meter"),
            costs,
        )

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("bluesminds_build", "The version.", value={"version": __version__})
        yield from self._requests()
        yield from self._costs()
        yield from self._drift()
        yield from self._attempts()
        yield from self._times()
        yield from self._recording()
        yield from self._added()

    def _requests(self) -> Iterable[Metric]:
        labels = ("endpoint", "model", "server", "status")
        yield _counter("bluesminds_requests", "Finished requests.", labels, self.requests)
        yield _counter("bluesminds_tokens", "Tokens of settled requests.", ("model", "kind"), self.tokens)
        yield _counter(
            "bluesminds_errors",
            "Requests that ended with an error, by its code or outcome.",
            ("code",),
            self.errors,
        )
        yield _counter(
            "bluesminds_cache_requests", "Requests, by the result of the cache.", ("result",), self.cache
        )

    def _costs(self) -> Iterable[Metric]:
        yield _counter(
            "bluesminds_cost_usd",
            "Cost of settled requests, with the markup.",
            ("model", "server"),
            {labels: nano / NANO for labels, nano in self.cost.items()},
        )
        yield _counter(
            "bluesminds_unpriced_requests",
            "Requests that used a model without a price.",
            ("model",),
            {(model,): count for model, count in self.unpriced.items()},
        )
        yield _counter(
            "bluesminds_uncharged_usd",
            "Estimated cost of attempts that no account is charged for.",
            ("server", "class"),
            {labels: nano / NANO for labels, nano in self.uncharged.items()},
        )
        yield _counter(
            "bluesminds_usage_quarantined",
            "Requests whose reported usage or cost was not used, by the reason.",
            ("server", "reason"),
            self.quarantined,
        )

    def _attempts(self) -> Iterable[Metric]:
        labels = ("server", "outcome")
        yield _counter("bluesminds_upstream_attempts", "Attempts sent to servers.", labels, self.attempts)
        yield _counter(
            "bluesminds_shadow_requests", "Copies of requests to shadow targets.", labels, self.shadow
        )
        yield _counter(
            "bluesminds_queue_refused",
            "Requests that could not wait for a server at its caps, because the queue was full.",
            ("reason",),
            self.queue_refused,
        )

    def _times(self) -> Iterable[Metric]:
        yield _histogram(
            "bluesminds_queue_seconds",
            "Waits for servers that are at their caps.",
            self.queue_seconds,
            label="outcome",
        )
        yield _histogram("bluesminds_request_seconds", "From request head to last byte.", self.seconds)
        yield _histogram(
            "bluesminds_first_byte_seconds", "From request head to first streamed byte.", self.first_byte
        )
        yield _histogram(
            "bluesminds_output_tokens_per_second",
            "Output tokens of a stream by the seconds from its first byte to its end.",
            self.token_rate,
        )

    def _recording(self) -> Iterable[Metric]:
        for name, help_text, value in (
            ("bluesminds_usage_rows_committed", "Usage rows committed.", self.rows_committed),
            ("bluesminds_usage_commits", "Group commits of usage rows.", self.commits),
            (
                "bluesminds_usage_commit_failures",
                "Group commits retried after a failure.",
                self.commit_failures,
            ),
            (
                "bluesminds_usage_rows_rejected",
                "Usage rows the database rejected; see the log.",
                self.rows_rejected,
            ),
        ):
            yield CounterMetricFamily(name, help_text, value=value)

    def _added(self) -> Iterable[Metric]:
        """Those of other parts."""
        for name, (help_text, read) in self._counters.items():
            yield CounterMetricFamily(name, help_text, value=read())
        for name, (help_text, read) in self._gauges.items():
            yield GaugeMetricFamily(name, help_text, value=read())
        for name, (help_text, label, read_all) in self._labelled.items():
            family = GaugeMetricFamily(name, help_text, labels=(label,))
            for label_value, number in read_all().items():
                family.add_metric((label_value,), number)
            yield family


def _counter(name: str, help_text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, help_text: str, values: Mapping[str, _Histogram], *, label: str = "endpoint"
) -> Metric:
    family = HistogramMetricFamily(name, help_text, labels=(label,))
    for value, histogram in values.items():
        family.add_metric((value,), histogram.cumulative(), histogram.total)
    return family
