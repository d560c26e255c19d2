"""Text that databases, decoders or calendars may not handle, in each input: never an internal error."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.deployment import anonymous_client, create_callers, forget_changes
from tests.gateways import entry
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url
from tests.web.test_mass_assignment import KEY, WRITES

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

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


def calls(
    document: dict[str, Any], real: dict[str, str], in_urls: Sequence[str], in_fields: Sequence[object]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, URL and body of every operation, each with one hostile value."""
    for path, methods in document["paths"].items():
        if path.startswith(("/v1/", "/v1beta/", "/user/")):  # the latter are those under /api/keys
            continue
        for method, one in methods.items():
            fields, body = WRITES.get(f"{method.upper()} {path}", (set(), {}))
            if path.startswith("/api/admin/keys"):  # reads the rest as /api/keys does
                fields = fields - KEY
            more = {"json": body} if "requestBody" in one else {}
            good = path.format_map(real)
            if "{" in path:
                yield from ((method, re.sub(r"\{\w+\}", bad, path), more) for bad in in_urls)
            for row in one.get("parameters", ()):
                if row["in"] == "query":
                    yield from ((method, f"{good}?{row['name']}={bad}", more) for bad in in_urls)
            for field in sorted(fields):
                yield from ((method, good, {"json": body | {field: bad}}) for bad in in_fields)


@pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)
async def test_hostile_text_in_any_input_causes_no_internal_error(
    nursery: trio.Nursery, home: Path, url: str
) -> None:
    servers = [entry("one", "http://127.0.0.1:9/v1")]
    gateway = await gateways.start(nursery, home, servers=servers, storage={"url": url})
    callers = await create_callers(gateway, only=("user", "admin"))
    document = (await gateway.get("/openapi.json")).json()
    real: dict[str, str] = defaultdict(lambda: "x")
    real |= {"key_id": callers.key_ids["good"], "user_id": callers.users["user"], "name": "one"}
    values: tuple[Sequence[str], Sequence[object]] = (IN_URLS, (*FOR_DATABASES, *FOR_PARSERS))
    if url.startswith("postgres"):  # which parses nothing that SQLite does not
        values = (IN_URLS_FOR_DATABASES, FOR_DATABASES)
    faults = []
    tried = 0
    async with anonymous_client(gateway) as client:
        token, _, _ = await callers.session("admin")
        for method, address, more in calls(document, real, *values):
            if address.startswith(("/api/auth/logout", "/api/auth/sessions")) and method != "get":
                continue
            headers = {"authorization": f"Bearer {token}"}
            forget_changes(gateway)
            async with client.stream(method, address, headers=headers, **more) as answer:
                tried += 1
                if answer.headers.get("content-type") == "text/event-stream":  # which does not end soon
                    continue
                await answer.aread()
            if answer.status_code >= 500:
                faults.append((method, address, more, answer.text))
    assert faults == []
    assert gateway.events("control_failed") == []
    assert tried > 1000
