"""Text that databases, decoders or calendars may not handle, in each input: never an internal error."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from tests import gateways
from tests.deployment import create_callers, forget_changes
from tests.gateways import entry
from tests.plain_client import connect
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url
from tests.web.test_mass_assignment import KEY, WRITES

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

T = TypeVar("T")
IN_URLS_FOR_DATABASES = ("%00", "a%00b", "%F0%9F%98%80")
IN_URLS = (*IN_URLS_FOR_DATABASES, "%FF", "%ED%A0%80", "..%2f..", "x" * 300)
FOR_DATABASES = (
    *("\0", "a\0b@c.dd", "\U0001f600", ["\0"], {"\0": "\0"}, {"a": "\0"}),
    *(2**63, 1e300, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
)
FOR_PARSERS = (
    *("\u202e", "x" * 1000, -1, True),
    *(["192.0.2.0/33"], ["*"], ["https://\0"], ["https://["], ["https://a:99999"], "http://[/v1"),
)


@dataclass(frozen=True)
class Hostile:
    """Values for variables of paths and parameters of queries, and for fields of bodies.

    `share`: each input gets one in so many values, and the inputs together get all of them.
    """

    in_urls: Sequence[str]
    in_fields: Sequence[object]
    share: int = 1


ALL = Hostile(IN_URLS, (*FOR_DATABASES, *FOR_PARSERS))
# PostgreSQL gets only these, because it parses nothing that SQLite does not.
OF_DATABASES = Hostile(IN_URLS_FOR_DATABASES, FOR_DATABASES)


def calls(
    document: dict[str, Any], real: dict[str, str], hostile: Hostile
) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Method, URL and body of every operation, each with one hostile value."""
    serials = itertools.count()

    def part(values: Sequence[T]) -> Sequence[T]:
        return values[next(serials) % hostile.share :: hostile.share]

    for path, methods in document["paths"].items():
        if path.startswith(("/v1/", "/v1beta/", "/user/")):  # the latter are those under /api/keys
            continue
        for method, one in methods.items():
            fields, body = WRITES.get(f"{method.upper()} {path}", (set(), {}))
            if path.startswith("/api/admin/keys"):  # reads the rest as /api/keys does
                fields = fields - KEY
            sent = body if "requestBody" in one else None
            good = path.format_map(real)
            if "{" in path:
                yield from ((method, re.sub(r"\{\w+\}", bad, path), sent) for bad in part(hostile.in_urls))
            for row in one.get("parameters", ()):
                if row["in"] == "query":
                    bads = part(hostile.in_urls)
                    yield from ((method, f"{good}?{row['name']}={bad}", sent) for bad in bads)
            for field in sorted(fields):
                yield from ((method, good, body | {field: bad}) for bad in part(hostile.in_fields))


@pytest.mark.parametrize(
    ("url", "hostile"),
    [
        pytest.param("sqlite", replace(ALL, share=5), id="sqlite-a-part"),
        pytest.param("sqlite", ALL, id="sqlite", marks=pytest.mark.process),
        pytest.param("postgres", OF_DATABASES, id="postgres"),
    ],
    indirect=["url"],
)
async def test_hostile_text_in_any_input_causes_no_internal_error(
    nursery: trio.Nursery, home: Path, url: str, hostile: Hostile
) -> None:
    servers = [entry("one", "http://127.0.0.1:9/v1")]
    gateway = await gateways.start(nursery, home, servers=servers, storage={"url": url})
    callers = await create_callers(gateway, only=("user", "admin"))
    document = (await gateway.get("/openapi.json")).json()
    real: dict[str, str] = defaultdict(lambda: "x")
    real |= {"key_id": callers.key_ids["good"], "user_id": callers.users["user"], "name": "one"}
    faults = []
    tried = 0
    async with connect(gateway) as client:
        token, _, _ = await callers.session("admin")
        headers = {"authorization": f"Bearer {token}"}
        for method, address, body in calls(document, real, hostile):
            if address.startswith(("/api/auth/logout", "/api/auth/sessions")) and method != "get":
                continue
            forget_changes(gateway)
            answer = await client.send(method.upper(), address, headers, body)
            tried += 1
            if answer.status_code >= 500:
                faults.append((method, address, body, answer.text))
    assert faults == []
    assert gateway.events("control_failed") == []
    assert tried > 1000
