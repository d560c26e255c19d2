"""OpenTelemetry spans and W3C trace context."""

from pathlib import Path

import pytest
import trio

from bluesminds.gateway import tracing
from tests import gateways
from tests.fakes import collector as collectors
from tests.fakes.collector import Collector, attributes_of
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry, eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
async def collector(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Collector:
    monkeypatch.setattr(tracing, "INTERVAL", 0.0)
    monkeypatch.setattr(tracing, "RETRY", 0.0)
    server: Collector = await nursery.start(collectors.serve)
    return server


async def start(
    nursery: trio.Nursery, home: Path, models: ModelServer, collector: Collector, **more: object
) -> Gateway:
    settings = {"endpoint": collector.url, **more}
    return await gateways.start(nursery, home, servers=[entry("one", models.url)], tracing=settings)


async def test_request_within_a_trace_has_a_span_and_passes_its_context_on(
    nursery: trio.Nursery, home: Path, models: ModelServer, collector: Collector
) -> None:
    gateway = await start(nursery, home, models, collector, authorization="Bearer to-collector", service="gw")
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=1", "x-request-id": "mine"}
    assert (await gateway.chat(headers=headers)).status_code == 200
    await eventually(lambda: len(collector.spans) == 1)
    (span,) = collector.spans
    assert (span["traceId"], span["parentSpanId"], span["name"], span["kind"]) == (TRACE, PARENT, "chat m", 3)
    assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) > 0 and "status" not in span
    found = attributes_of(span)
    row = (await gateway.settled(1))[0]
    assert found["gen_ai.operation.name"] == "chat" and found["gen_ai.provider.name"] == "one"
    assert found["gen_ai.request.model"] == "m" and found["gen_ai.request.stream"] is False
    assert found["gen_ai.usage.input_tokens"] == row["input_tokens"]
    assert found["gen_ai.usage.output_tokens"] == row["output_tokens"]
    assert found["http.response.status_code"] == 200 and found["bluesminds.request_id"] == "mine"
    assert "error.type" not in found
    assert collector.resources[0]["service.name"] == "gw"
    assert collector.received[0].line.startswith(b"POST /v1/traces ")
    assert collector.received[0].values(b"authorization") == [b"Bearer to-collector"]
    sent = models.asked[0].received
    assert sent.values(b"traceparent") == [f"00-{TRACE}-{span['spanId']}-01".encode()]
    assert sent.values(b"tracestate") == [b"a=1"]
    assert "to-collector" not in gateway.log
    assert await gateway.metric("bluesminds_spans_exported_total") == 1


TRACES = [
    "",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE}-{PARENT}-01-more",
    f"00-{TRACE.upper()}-{PARENT}-01",
    "junk",
]


async def test_request_without_valid_trace_context_begins_a_trace(
    nursery: trio.Nursery, home: Path, models: ModelServer, collector: Collector, subtests: pytest.Subtests
) -> None:
    gateway = await start(nursery, home, models, collector)
    for given in TRACES:
        with subtests.test(repr(given)):
            collector.spans.clear()
            models.asked.clear()
            headers = {"traceparent": given, "tracestate": "a=1"} if given else {}
            await gateway.chat(headers=headers)
            await eventually(lambda: len(collector.spans) == 1)
            span = collector.spans[0]
            assert span["traceId"] != TRACE and "parentSpanId" not in span
            sent = models.asked[0].received
            assert sent.values(b"traceparent") == [f"00-{span['traceId']}-{span['spanId']}-01".encode()]
            assert sent.values(b"tracestate") == []


async def test_trace_that_is_not_sampled_is_passed_on_and_not_exported(
    nursery: trio.Nursery, home: Path, models: ModelServer, collector: Collector
) -> None:
    gateway = await start(nursery, home, models, collector, sample=0.0)
    await gateway.chat(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await gateway.chat()
    await gateway.chat(headers={"traceparent": f"01-{TRACE}-{PARENT}-01-more"})
    await eventually(lambda: len(collector.spans) == 1)
    first, second, third = (one.received.values(b"traceparent")[0].decode() for one in models.asked)
    assert first.startswith(f"00-{TRACE}-") and first.endswith("-00") and PARENT not in first
    assert TRACE not in second and second.endswith("-00")
    assert third == f"00-{TRACE}-{collector.spans[0]['spanId']}-01"


async def test_refused_and_failed_requests_have_spans_with_their_error(
    nursery: trio.Nursery, home: Path, models: ModelServer, collector: Collector
) -> None:
    gateway = await start(nursery, home, models, collector)
    await gateway.chat(key="bm_" + "0" * 36)
    await eventually(lambda: len(collector.spans) == 1)
    found = attributes_of(collector.spans[0])
    assert found["error.type"] == "invalid_api_key" and found["http.response.status_code"] == 401
    assert collector.spans[0]["status"] == {"code": 2, "message": "invalid_api_key"}


async def test_spans_are_sent_again_after_a_refusal(
    nursery: trio.Nursery, home: Path, models: ModelServer, collector: Collector
) -> None:
    collector.statuses.extend((b"503 Service Unavailable", b"429 Too Many Requests"))
    gateway = await start(nursery, home, models, collector)
    await gateway.chat()
    await eventually(lambda: len(collector.spans) == 1)
    assert [event["reason"] for event in gateway.events("spans_not_exported")] == ["503"]
    collector.statuses.append(b"400 Bad Request")
    await gateway.chat()
    await eventually(lambda: len(collector.received) == 4)
    await gateway.chat()
    await eventually(lambda: len(collector.spans) == 2)
    assert await gateway.metric("bluesminds_spans_dropped_total") == 1


async def test_spans_over_the_bound_are_dropped(
    nursery: trio.Nursery,
    home: Path,
    models: ModelServer,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "QUEUE", 0)
    gateway = await start(nursery, home, models, collector)
    assert (await gateway.chat()).status_code == 200
    assert await gateway.metric("bluesminds_spans_dropped_total") == 1


async def test_waiting_spans_are_exported_when_the_gateway_stops(
    nursery: trio.Nursery,
    home: Path,
    models: ModelServer,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "INTERVAL", 86_400.0)
    gateway = await start(nursery, home, models, collector)
    await gateway.chat()
    assert collector.spans == []
    await gateway.stop()
    assert len(collector.spans) == 1


async def test_trace_context_without_tracing_is_forwarded_unchanged(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    await gateway.chat(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert models.asked[0].received.values(b"traceparent") == [f"00-{TRACE}-{PARENT}-01".encode()]
