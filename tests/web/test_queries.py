"""Query parameters: which lists are paged, and the messages for invalid queries."""

import re
from pathlib import Path

import pytest
import trio

from tests import gateways
from tests.gateways import Gateway

KNOWN = "Known: `limit`, `after`, `active`, `user_id`."
API = Path(__file__).resolve().parents[2] / "docs" / "api.md"


async def test_lists_paged_are_those_in_the_documentation(nursery: trio.Nursery, home: Path) -> None:
    (named,) = re.findall(r"The lists at ([^.]*) are paged\.", " ".join(API.read_text().split()))
    gateway = await gateways.start(nursery, home, servers=[], billing={"enabled": True})
    async with gateway.operator() as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    known = {
        path: {one["name"] for one in methods["get"].get("parameters", ())}
        for path, methods in paths.items()
        if "get" in methods and not path.startswith("/v1/")
    }
    paged = {path for path, names in known.items() if "limit" in names}
    assert paged == {path for path, names in known.items() if "after" in names}
    assert paged == set(re.findall(r"`([^`]+)`", named))


INVALID_QUERIES: list[tuple[str, str, str | None]] = [
    ("zz=1", f"Unknown query parameter `zz`. {KNOWN}", None),
    ("zz=1&zz=2", f"Unknown query parameter `zz`. {KNOWN}", None),
    ("zz=%00", f"Unknown query parameter `zz`. {KNOWN}", None),
    ("%3Cb%3E%1B=1&limit=1", f"Unknown query parameter. {KNOWN}", None),
    ("limit=1&limit=1", "Duplicate query parameter `limit`.", "limit"),
    ("after=%00", "after must not contain NUL.", "after"),
    ("limit=1.0", "limit must be a whole number from 1 to 100.", "limit"),
    ("active=yes", "active must be true or false.", "active"),
]


async def test_query_invalid_is_rejected_with_the_reason(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for query, message, param in INVALID_QUERIES:
        with subtests.test(query=query):
            async with gateway.operator() as client:
                answer = await client.get(f"/api/admin/keys?{query}")
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (400, "invalid_value")
            assert (error["message"], error["param"]) == (message, param)


async def test_query_of_route_without_parameters_is_rejected(gateway: Gateway) -> None:
    async with gateway.operator() as client:
        for path in ("/api/admin/servers", "/api/admin/tiers"):
            answer = await client.get(f"{path}?limit=5")
            assert answer.status_code == 400
            assert (
                answer.json()["error"]["message"]
                == "Unknown query parameter `limit`. This request has no query parameters."
            )
