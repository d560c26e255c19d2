"""The alert rules and the dashboard use metrics that exist, and metrics follow the naming rules of Prometheus
(https://prometheus.io/docs/practices/naming/).
"""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.gateways import STREAM, Gateway

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
_NAME = re.compile(r"bluesminds_[a-z_]+")
_WRONG_UNITS = {
    *(
        "s",
        "sec",
        "ms",
        "us",
        "ns",
        "milliseconds",
        "microseconds",
        "m",
        "minutes",
        "h",
        "hours",
        "d",
        "days",
    ),
    *("b", "kb", "mb", "gb", "kilobytes", "megabytes", "gigabytes", "bits", "percent", "nano", "cents"),
}


async def metrics_of(gateway: Gateway) -> list[Metric]:
    async with gateway.client() as client:
        text = (await client.get("/metrics")).text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    return [Metric(name, helps[name], kind) for name, kind in kinds.items()]


@pytest.mark.parametrize("file", ["prometheus/alerts.yml", "grafana/bluesminds.json"])
async def test_packaged_expressions_use_existing_metrics(gateway: Gateway, file: str) -> None:
    metrics = await metrics_of(gateway)
    names = {metric.name for metric in metrics} | {
        f"{metric.name}_bucket" for metric in metrics if metric.type == "histogram"
    }
    used = {*_NAME.findall((PACKAGING / file).read_text())}
    assert used and used <= names, used - names


async def test_metrics_follow_the_naming_rules(gateway: Gateway) -> None:
    """Also the rules of `promtool check metrics`: help, suffixes by type, base units, no type in the name."""
    metrics = await metrics_of(gateway)
    assert len({metric.name for metric in metrics}) == len(metrics) > 30
    for metric in metrics:
        assert re.fullmatch(r"bluesminds(_[a-z]+)+", metric.name), metric.name
        assert metric.documentation.endswith("."), metric.name
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert not re.search(r"_(count|sum|bucket)$", metric.name), metric.name
        words = {*metric.name.split("_")}
        assert not words & {"gauge", "counter", "histogram", "summary"}, metric.name
        assert not words & _WRONG_UNITS, metric.name


async def test_labels_follow_the_naming_rules(gateway: Gateway) -> None:
    await gateway.chat(STREAM)
    async with gateway.client() as client:
        families = list(text_string_to_metric_families((await client.get("/metrics")).text))
    labels = {(sample.name, name) for one in families for sample in one.samples for name in sample.labels}
    assert {name for _, name in labels} >= {"endpoint", "model", "server", "status", "le"}
    for sample, name in labels:
        assert re.fullmatch(r"[a-z][a-z_]*", name), (sample, name)
        assert name != "quantile" and (name != "le" or sample.endswith("_bucket")), (sample, name)


def test_grafana_dashboard_has_panels_with_queries() -> None:
    dashboard = json.loads((PACKAGING / "grafana/bluesminds.json").read_text())
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 8
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
