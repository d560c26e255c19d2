"""The metrics, parsed by the Prometheus client."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bluesminds.gateway.metrics import BUCKETS, Metrics
from tests.fakes.model_server import ModelServer, refusal
from tests.gateways import STREAM, Gateway


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_histogram_buckets_are_cumulative() -> None:
    metrics = Metrics()
    observed = [0.0, 0.005, 0.0051, 1.0, 299.0, 300.1, 4000.0]
    for seconds in observed:
        metrics.seconds["chat.completions"].observe(seconds)
    registry = CollectorRegistry()
    registry.register(metrics)
    found = samples(generate_latest(registry).decode())
    for bound in BUCKETS:
        name = f"bluesminds_request_seconds_bucket[('endpoint', 'chat.completions'), ('le', '{bound}')]"
        assert found[name] == sum(seconds <= bound for seconds in observed)
    assert found[
        "bluesminds_request_seconds_bucket[('endpoint', 'chat.completions'), ('le', '+Inf')]"
    ] == len(observed)
    assert found["bluesminds_request_seconds_count[('endpoint', 'chat.completions')]"] == len(observed)
    assert found["bluesminds_request_seconds_sum[('endpoint', 'chat.completions')]"] == sum(observed)


async def test_metrics_count_requests_tokens_and_attempts(gateway: Gateway, models: ModelServer) -> None:
    await gateway.chat()
    await gateway.chat(STREAM)
    models.plan(refusal(422))
    await gateway.chat()
    await gateway.chat(key="bm_junk")
    await gateway.chat({"model": "secret-model-name", "messages": []})
    answer = await gateway.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = samples(answer.text)

    def requests(status: int, model: str = "m", server: str = "one") -> float:
        labels = {"endpoint": "chat.completions", "model": model, "server": server, "status": str(status)}
        return found[f"bluesminds_requests_total{sorted(labels.items())}"]

    assert (requests(200), requests(422), requests(401, "", ""), requests(404, "", "")) == (2, 1, 1, 1)
    assert found["bluesminds_tokens_total[('kind', 'input'), ('model', 'm')]"] == 22
    assert found["bluesminds_tokens_total[('kind', 'output'), ('model', 'm')]"] == 4
    assert found["bluesminds_upstream_attempts_total[('outcome', 'answered'), ('server', 'one')]"] == 3
    assert found["bluesminds_usage_rows_committed_total[]"] == 3
    assert 1 <= found["bluesminds_usage_commits_total[]"] <= 3
    assert found["bluesminds_requests_running[]"] == 0
    assert found["bluesminds_connections_open[]"] >= 1
    assert found["bluesminds_request_seconds_count[('endpoint', 'chat.completions')]"] == 3
    assert found["bluesminds_first_byte_seconds_count[('endpoint', 'chat.completions')]"] == 1
    assert "secret-model-name" not in answer.text
