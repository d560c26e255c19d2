"""The two meters of a request: the gateway's own count and price, and what the server reports."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes.model_server import DONE, ModelServer, chunk, completion, streamed, whole
from tests.gateway.cases import Since, own_servers
from tests.gateways import ASK, STREAM, Gateway, entry

REPORT = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}
PRICE = {"model": "m", "input_usd": "1", "output_usd": "2"}


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **server: Any) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", models.url, **server)], prices=[PRICE])


async def drift(gateway: Gateway) -> list[dict[str, Any]]:
    async with gateway.operator() as client:
        return list((await client.get("/api/admin/drift")).json()["data"])


async def test_both_meters_and_the_cost_are_in_the_record(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    models.plan(whole(completion("12345678", usage=REPORT | {"cost": 0.0000155})))
    assert (await gateway.chat()).status_code == 200
    end = chunk(finish="stop", usage=REPORT | {"cost": 0})
    models.plan(streamed(chunk("12345678"), end, DONE))
    assert (await gateway.chat(STREAM)).status_code == 200
    plain, stream = gateway.rows()
    for row in (plain, stream):
        assert (row["input_tokens"], row["output_tokens"], row["usage_source"]) == (11, 2, "upstream")
        assert row["own_input_tokens"] > 0 and row["own_output_tokens"] == 2
        assert (row["cost_nano"], row["quarantine"]) == (15_000, "")
    assert (plain["reported_cost_nano"], stream["reported_cost_nano"]) == (15_500, 0)
    async with gateway.operator() as client:
        shown = (await client.get(f"/api/admin/requests/{plain['id']}")).json()
    own = (plain["own_input_tokens"], 2)
    assert (shown["usage_source"], shown["quarantine"]) == ("upstream", None)
    assert (shown["own_input_tokens"], shown["own_output_tokens"]) == own
    assert (shown["input_tokens"], shown["reported_cost_usd"]) == (11, "0.0000155")
    found = await drift(gateway)
    assert [(one["model"], one["server"], one["requests"]) for one in found] == [("m", "one", 2)]
    assert (found[0]["own_cost_usd"], found[0]["reported_cost_usd"]) == ("0.00003", "0.0000155")
    assert (found[0]["output_ratio"], found[0]["requests_with_cost"], found[0]["drifting"]) == (1, 2, False)
    place = {"model": "m", "server": "one"}
    assert await gateway.metric("bluesminds_drift_requests_total", compared="cost", **place) == 2
    assert await gateway.metric("bluesminds_drift_cost_usd_total", meter="upstream", **place) == 0.0000155


HEADERS = [
    ("litellm", b"2.85e-05", 28_500, ""),
    ("litellm", b"0.0", 0, ""),
    ("litellm", b"-1", None, "cost"),
    ("litellm", b"None", None, ""),
    ("other", b"2.85e-05", None, ""),
]


async def test_cost_header_counts_from_litellm_only(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = [
        entry("litellm", models.url, models=["litellm"], vendor="litellm"),
        entry("other", models.url, models=["other"]),
    ]
    prices = [PRICE | {"model": model} for model in ("litellm", "other")]
    gateway = await gateways.start(nursery, home, servers=servers, prices=prices)
    for model, value, nano, quarantine in HEADERS:
        with subtests.test(f"{model} {value!r}"):
            since = Since(gateway)
            models.plan(whole(completion(usage=REPORT), b"x-litellm-response-cost: " + value))
            assert (await gateway.chat(ASK | {"model": model})).status_code == 200
            (row,) = since.rows()
            assert (row["reported_cost_nano"], row["quarantine"]) == (nano, quarantine)
            assert (row["usage_source"], row["cost_nano"]) == ("upstream", 15_000)


USAGES = [
    ({"prompt_tokens": -5, "completion_tokens": 2}, "implausible"),
    ({"prompt_tokens": 1e30, "completion_tokens": 2}, "implausible"),
    ({"prompt_tokens": 11, "completion_tokens": 40_000}, "too_large"),
]


async def test_absurd_usage_is_marked_and_the_estimate_charged(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    cases = [(stream, *usage) for usage in USAGES for stream in (False, True)]
    prices = [PRICE | {"model": f"m{number}"} for number in range(len(cases))]
    servers = own_servers(len(cases), models.url)
    gateway = await gateways.start(nursery, home, servers=servers, prices=prices)
    for number, (stream, report, reason) in enumerate(cases):
        with subtests.test(f"{'stream' if stream else 'whole'} {report}"):
            since = Since(gateway)
            if stream:
                models.plan(streamed(chunk("12345678"), chunk(finish="stop", usage=report), DONE))
            else:
                models.plan(whole(completion("12345678", usage=report)))
            body = (STREAM if stream else ASK) | {"max_tokens": 50, "model": f"m{number}"}
            assert (await gateway.chat(body)).status_code == 200
            (row,) = since.rows()
            assert (row["quarantine"], row["usage_source"]) == (reason, "estimated")
            assert (row["input_tokens"], row["output_tokens"]) == (row["own_input_tokens"], 2)
            assert row["cost_nano"] == row["input_tokens"] * 1000 + 2 * 2000
            labels = {"reason": reason, "server": f"m{number}-0"}
            assert await gateway.metric("bluesminds_usage_quarantined_total", **labels) == 1
            (found,) = [one for one in await drift(gateway) if one["model"] == f"m{number}"]
            assert (found["requests"], found["quarantined"]) == (0, 1)


async def test_answer_of_nothing_with_a_count_of_zero_stays_zero(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models)
    report = {"prompt_tokens": 11, "completion_tokens": 0, "total_tokens": 11}
    models.plan(whole(completion("", usage=report)))
    assert (await gateway.chat()).status_code == 200
    (row,) = gateway.rows()
    assert (row["output_tokens"], row["usage_source"], row["quarantine"]) == (0, "upstream", "")
