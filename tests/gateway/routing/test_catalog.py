"""The catalog of models, and servers that are added and removed while the gateway runs."""

from pathlib import Path

import trio

from bluesminds.common.money import Price
from bluesminds.common.routes import ModelRoute, RouteTarget
from bluesminds.common.values import Server
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.wire.model_details import ModelDetails
from bluesminds.wire.models import ModelRow
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer
from tests.gateway.routing.test_policies import server
from tests.gateways import entry
from tests.prices import token_price


def test_duplicate_model_is_listed_once() -> None:
    catalog = ModelCatalog([server("a", models=("m", "m"))], {})
    assert [one.name for one in catalog.servers_for("m")] == ["a"]
    twice = ModelCatalog([server("asked", models=())], {"asked": [ModelRow("m"), ModelRow("m", 5)]})
    assert [one.name for one in twice.servers_for("m")] == ["asked"]
    assert len(twice.models()) == 1


def test_discovered_models_fill_catalog() -> None:
    found = {
        "asked": [ModelRow("b", 5, "them"), ModelRow("m")],
        "named": [ModelRow("hidden")],
        "removed": [ModelRow("x")],
    }
    catalog = ModelCatalog([server("named"), server("asked", models=())], found)
    assert [row.id for row in catalog.models()] == ["b", "m"]
    assert [one.name for one in catalog.servers_for("m")] == ["named", "asked"]
    assert catalog.model("b") == ModelRow("b", 5, "them")
    assert catalog.model("hidden") is None


async def test_added_and_removed_servers_apply_at_once(nursery: trio.Nursery, home: Path) -> None:
    first: ModelServer = await nursery.start(model_server.serve, "one-model")
    second: ModelServer = await nursery.start(model_server.serve, "org/other")
    gateway = await gateways.start(nursery, home, servers=[entry("first", first.url, models=[])])
    assert gateway.running.models == ["one-model"]
    body = {"model": "org/other", "messages": []}
    assert (await gateway.chat(body)).json()["error"]["code"] == "model_not_found"
    async with gateway.operator() as client:
        added = {"name": "second", "url": second.url, "api_key": "sk-table"}
        assert (await client.post("/api/admin/servers", json=added)).status_code == 201
        assert (await client.post("/api/admin/servers", json=added)).status_code == 409
        tested = (await client.post("/api/admin/servers/second/test")).json()
        assert (tested["ok"], tested["models"]) == (True, ["org/other"])
        assert (await gateway.chat(body)).status_code == 200
        assert second.asked[0].header(b"authorization") == b"Bearer sk-table"
        listed = (await client.get("/api/admin/servers")).json()["data"]
        assert [(row["name"], row["origin"], row["has_api_key"]) for row in listed] == [
            ("first", "file", False),
            ("second", "database", True),
        ]
        assert "sk-table" not in str(listed)
        assert (await client.delete("/api/admin/servers/second")).status_code == 204
        assert (await client.delete("/api/admin/servers/second")).status_code == 404
        assert (await client.delete("/api/admin/servers/first")).status_code == 409
        assert (await client.post("/api/admin/servers/none/test")).status_code == 404
    assert (await gateway.chat(body)).json()["error"]["code"] == "model_not_found"


def test_row_of_a_route_has_details_of_its_target_and_the_price_of_all() -> None:
    found = {"asked": [ModelRow("big", 5, "them", ModelDetails(9000))]}
    prices = {"big": price(1), "other": price(2), "mixed": price(3)}

    def find_price(server: Server | None, model: str, served: str) -> Price | None:
        return prices.get(model) or prices.get(served)

    routes = [
        ModelRoute("alias", (RouteTarget("asked", "big"),)),
        ModelRoute("mixed", (RouteTarget("asked", "big"), RouteTarget("asked", "other"))),
        ModelRoute("plain", (RouteTarget("asked"),)),
        ModelRoute("prefix*", (RouteTarget("asked"),)),
        ModelRoute("gone", (RouteTarget("missing"),)),
        ModelRoute("by-fallback", fallback=("big",)),
        ModelRoute("unserved", fallback=("missing",)),
    ]
    catalog = ModelCatalog([server("asked", models=())], found, routes, find_price=find_price)
    assert [row.id for row in catalog.models()] == ["alias", "big", "by-fallback", "mixed", "plain"]
    assert catalog.model("alias") == ModelRow("alias", 5, "them", ModelDetails(9000), price(1))
    assert catalog.model("mixed") == ModelRow("mixed", 5, "them", ModelDetails(9000))
    assert catalog.model("plain") == ModelRow("plain", 0, "bluesminds")
    assert ModelCatalog([server("asked")], {}, routes, keyless=True).models() == []


def price(input_: int) -> Price:
    return token_price(input_, input_)
