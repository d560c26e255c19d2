"""What follows the "?": which lists have pages, and in which words a query is refused."""

import re
from pathlib import Path

import pytest

from tests.gateways import Gateway

API = Path(__file__).resolve().parents[2] / "docs" / "api.md"


async def test_the_lists_that_come_in_pages_are_those_the_document_names(gateway: Gateway) -> None:
    (named,) = re.findall(r"Those at ([^:]*) come in pages", API.read_text())
    async with gateway.operator() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    known = {
        path: {one["name"] for one in methods["get"].get("parameters", ())}
        for path, methods in paths.items()
        if "get" in methods
    }
    paged = {path for path, names in known.items() if "limit" in names}
    assert paged == {path for path, names in known.items() if "after" in names}
    assert paged == set(re.findall(r"`([^`]+)`", named))


@pytest.mark.parametrize(
    ("query", "message", "param"),
    [
        ("zz=1", "Unknown parameter `zz`. Known parameters: limit, after, active, user_id.", "zz"),
        ("zz=1&zz=2", "Unknown parameter `zz`. Known parameters: limit, after, active, user_id.", "zz"),
        ("zz=%00", "Unknown parameter `zz`. Known parameters: limit, after, active, user_id.", "zz"),
        ("%3Cb%3E%1B=1&limit=1", "Unknown parameter. Known parameters: limit, after, active, user_id.", None),
        ("limit=1&limit=1", "A parameter is there twice. Send each once.", "limit"),
        ("after=%00", "Send text without NUL characters.", "after"),
        ("limit=1.0", "limit must be a whole number from 1 to 100.", "limit"),
        ("active=yes", "active must be true or false.", "active"),
    ],
)
async def test_a_refused_query_names_what_is_known(
    gateway: Gateway, query: str, message: str, param: str | None
) -> None:
    async with gateway.operator() as client:
        answer = await client.get(f"/api/admin/keys?{query}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_value")
    assert (error["message"], error["param"]) == (message, param)


async def test_create_key_with_limit_at_top_level_names_its_parent(gateway: Gateway) -> None:
    async with gateway.operator() as client:
        answer = await client.post("/api/admin/keys", json={"name": "a", "rpm": 5})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "rpm")
    assert error["message"].startswith(
        "Unknown field `rpm`. `rpm` belongs under `limits`. Known fields: name,"
    )


async def test_what_takes_no_query_says_so(gateway: Gateway) -> None:
    async with gateway.operator() as client:
        for path in ("/api/admin/servers", "/api/admin/tiers"):
            answer = await client.get(f"{path}?limit=5")
            assert answer.status_code == 400
            assert answer.json()["error"]["message"] == "Unknown parameter `limit`. Known parameters: none."
