"""Pages of Anthropic's list of models, and the details in both lists."""

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import InvalidRequest
from bluesminds.web.model_pages import select_page
from bluesminds.wire.models import ModelRow, write_anthropic_model
from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry

VERSION = {"anthropic-version": "2026-10-21"}
ROWS = [ModelRow(name) for name in "abcdefg"]


def page(query: str) -> tuple[str, bool]:
    found = select_page(ROWS, query.encode())
    return "".join(row.id for row in found.rows), found.has_more


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ("abcdefg", False)),
        ("limit=3", ("abc", True)),
        ("limit=7", ("abcdefg", False)),
        ("limit=3&after_id=c", ("def", True)),
        ("limit=3&after_id=e", ("fg", False)),
        ("after_id=g", ("", False)),
        ("after_id=cc", ("defg", False)),  # a model that is gone
        ("limit=2&before_id=d", ("bc", True)),
        ("limit=3&before_id=d", ("abc", False)),
        ("before_id=a", ("", False)),
        ("client_version=1&beta=true&after_id=", ("abcdefg", False)),
    ],
)
def test_page_is_what_the_query_asks_for(query: str, expected: tuple[str, bool]) -> None:
    assert page(query) == expected


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *((f"limit={text}", "limit") for text in ("0", "-1", "1001", "x", "", "1.5", "99999", "%C2%B2")),
        ("before_id=a&after_id=b", "before_id"),
    ],
)
def test_page_wrong_query_is_refused(query: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        select_page(ROWS, query.encode())
    assert caught.value.param == param


@given(st.lists(st.text(min_size=1, max_size=3), unique=True), st.integers(1, 5))
def test_pages_together_are_the_whole_list(names: list[str], limit: int) -> None:
    rows = [ModelRow(name) for name in sorted(names)]
    seen: list[ModelRow] = []
    query = {"limit": str(limit)}
    while True:
        found = select_page(rows, urlencode(query).encode())
        seen += found.rows
        if not found.has_more:
            break
        query["after_id"] = seen[-1].id
    assert seen == rows


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    server.rows = [
        {"id": "b", "max_model_len": 4096},
        {"id": "a", "context_length": 9, "architecture": {"input_modalities": ["text", "image"]}},
        {"id": "c"},
    ]
    return server


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    servers: list[dict[str, Any]] = [{"name": "listed", "url": models.url}]
    servers.append(entry("named", models.url, models=["a", "m"]))
    prices = [{"model": "a", "input_usd": "1", "output_usd": "2.5", "max_output_tokens": 64}]
    return await gateways.start(nursery, home, servers=servers, prices=prices)


async def test_list_has_details_and_the_gateways_prices(gateway: Gateway) -> None:
    rows = {row["id"]: row for row in (await gateway.get("/v1/models")).json()["data"]}
    assert list(rows) == ["a", "b", "c", "m"]
    assert rows["a"]["context_length"] == 9 and rows["a"]["max_output_tokens"] == 64
    assert rows["a"]["architecture"] == {"input_modalities": ["text", "image"]}
    assert rows["a"]["pricing"] == {
        "prompt": "0.000001",
        "completion": "0.0000025",
        "input_cache_read": "0.000001",
    }
    assert rows["b"]["context_length"] == 4096 and "pricing" not in rows["b"]
    assert rows["m"].keys() == {"id", "object", "created", "owned_by"}
    assert (await gateway.get("/v1/models/a")).json() == rows["a"]


async def test_anthropic_client_reads_page_after_page(gateway: Gateway) -> None:
    async with gateway.client() as client:
        first = (await client.get("/v1/models?limit=2", headers=VERSION)).json()
        assert [row["id"] for row in first["data"]] == ["a", "b"]
        assert (first["has_more"], first["first_id"], first["last_id"]) == (True, "a", "b")
        assert (first["data"][0]["max_input_tokens"], first["data"][0]["max_tokens"]) == (9, 64)
        last = (await client.get("/v1/models?limit=2&after_id=b", headers=VERSION)).json()
        assert ([row["id"] for row in last["data"]], last["has_more"]) == (["c", "m"], False)
        wrong = await client.get("/v1/models?limit=0", headers=VERSION)
        assert wrong.status_code == 400 and wrong.json()["type"] == "error"
        ignored = await client.get("/v1/models?limit=0")  # OpenAI's list has no pages
        assert len(ignored.json()["data"]) == 4


def test_anthropics_model_has_all_that_the_sdk_requires() -> None:
    import anthropic  # importing it takes as long as many tests

    found = anthropic.types.ModelInfo.model_validate_json(write_anthropic_model(ROWS[0]))
    assert (found.id, found.lifecycle) == ("a", "active")
