"""`bluesminds reprice` and POST /api/admin/reprice with real requests and prices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.common.prices import SEVERAL_PRICES, PriceLine, combine, rates_from
from bluesminds.common.values import Server
from bluesminds.gateway.prices.book import PriceBook
from bluesminds.gateway.prices.repricing import new_cost
from tests import gateways
from tests.fakes.model_server import ModelServer, completion, whole
from tests.gateways import Gateway, entry
from tests.storage.samples import usage

REPORT = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


async def reprice(gateway: Gateway, **more: Any) -> dict[str, Any]:
    async with gateway.operator() as client:
        answer = await client.post("/api/admin/reprice", json={"since": "2000-01-01T00:00:00Z"} | more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_price_set_later_changes_costs_once(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    models.plan(whole(completion(usage=REPORT)))
    assert (await gateway.chat()).status_code == 200
    (row,) = gateway.rows()
    assert row["cost_nano"] is None
    assert (await reprice(gateway))["skipped"] == 1
    price = {"model": row["model"], "input_usd": "2", "output_usd": "10"}
    async with gateway.operator() as client:
        assert (await client.put("/api/admin/prices", json=price)).status_code == 200
    until = "2001-01-01T00:00:00Z"
    assert (await reprice(gateway, until=until))["requests"] == 0
    dry = await reprice(gateway, dry_run=True)
    assert (dry["requests"], dry["changed"], dry["skipped"]) == (1, 1, 0)
    assert dry["accounts"][0]["difference_usd"] == "0.003"
    done = await reprice(gateway)
    assert done == dry | {"dry_run": False}
    assert (await reprice(gateway))["changed"] == 0
    assert gateway.rows() == [row]
    async with gateway.operator() as client:
        costs = (await client.get("/api/admin/costs")).json()
        audit = (await client.get("/api/admin/audit")).json()["data"]
    assert (costs["cost_usd"], costs["unpriced"]) == ("0.003", 0)
    assert audit[0]["action"] == "usage.reprice"


def book(server: str = "") -> PriceBook:
    rates = rates_from({"input_usd": "1", "output_usd": "2"})
    flex = rates_from({"input_usd": "0.5", "output_usd": "1"})
    lines = [
        PriceLine("sent", rates, server=server),
        PriceLine("sent", flex, server=server, service_tier="flex"),
    ]
    return PriceBook(combine(lines), None)


ROW = replace(
    usage(1, model="alias", server="one", cost_nano=1, input_tokens=1000, output_tokens=100),
    sent_model="sent",
    price_version="old",
    cache_read_tokens=None,
    cache_write_tokens=None,
    audio_input_tokens=None,
    audio_output_tokens=None,
    image_input_tokens=None,
    image_output_tokens=None,
)
SERVERS = {"one": Server("one", "openai", "http://127.0.0.1:1/v1", None, (), 1, 0, "file")}


@pytest.mark.parametrize(
    ("fields", "nano"),
    [
        ({}, 1_200_000),
        ({"service_tier": "flex"}, 600_000),
        ({"markup": 5000}, 1_800_000),
        ({"usage_source": "cache"}, 0),
        ({"server": "removed"}, None),
        ({"sent_model": "other"}, None),
        ({"price_version": SEVERAL_PRICES}, None),
        ({"price_version": ""}, None),
    ],
)
def test_new_cost_is_that_of_the_request_that_was_sent(fields: dict[str, Any], nano: int | None) -> None:
    found = new_cost(book("one"), SERVERS, replace(ROW, **fields))
    assert (None if found is None else found.nano) == nano
