"""A page of another origin calls the gateway from a real browser."""

from collections.abc import Iterator
from typing import Any

import pytest
import trio
from playwright.sync_api import Page

from bluesminds.http.asgi import Receive, Scope, Send
from tests import browser
from tests.browser import Chromium
from tests.fakes.model_server import DONE, ModelServer, chunk, streamed
from tests.gateways import ASK, STREAM, Gateway
from tests.http.serving import start

LOCAL = "http://127.0.0.1:"
CHAT = "/v1/chat/completions"
# The response, or the name of the error if the browser does not show it to the page.
FETCH = """async ([url, key, body]) => {
    const headers = {authorization: `Bearer ${key}`, "x-stainless-lang": "js"};
    if (body) headers["content-type"] = "application/json";
    const options = body ? {method: "POST", headers, body: JSON.stringify(body)} : {headers};
    try {
        const response = await fetch(url, options);
        const text = await response.text();
        return {status: response.status, text, headers: Object.fromEntries(response.headers)};
    } catch (error) {
        return {error: error.name};
    }
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser.running() as found:
        yield found


async def blank_page(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"text/html"), (b"content-length", b"15")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"<!doctype html>"})


async def new_origin(nursery: trio.Nursery) -> str:
    """The origin of a blank page."""
    return f"{LOCAL}{(await start(nursery, blank_page)).port}"


async def fetch(chromium: Chromium, origin: str, *requests: tuple[str, str, Any]) -> list[dict[str, Any]]:
    """Send requests (URL, API key, body or None) from a page of `origin`."""

    def look(page: Page) -> list[dict[str, Any]]:
        page.goto(origin)
        return [page.evaluate(FETCH, list(request)) for request in requests]

    return await chromium.visit(LOCAL, look, expected="blocked by CORS policy")


async def test_page_of_an_allowed_origin_lists_models_and_streams(
    nursery: trio.Nursery, chromium: Chromium, gateway: Gateway, models: ModelServer
) -> None:
    origin = await new_origin(nursery)
    _, key = await gateway.new_key(allowed_origins=[origin], rpm=3)
    models.plan(streamed(chunk("Hel"), chunk("lo"), DONE))
    listed, answer, invalid = await fetch(
        chromium,
        origin,
        (f"{gateway.url}/v1/models", key, None),
        (f"{gateway.url}{CHAT}", key, STREAM),
        (f"{gateway.url}{CHAT}", key, {"model": "m"}),
    )
    assert listed["status"] == answer["status"] == 200
    assert '"id":"m"' in listed["text"]
    assert answer["text"].encode() == chunk("Hel") + chunk("lo") + DONE
    assert answer["headers"]["x-bluesminds-server"] == "one"
    assert answer["headers"]["x-ratelimit-limit-requests"] == "3"
    assert invalid["status"] == 400
    assert '"code":"invalid_value"' in invalid["text"]
    assert invalid["headers"]["x-request-id"]


async def test_page_of_another_origin_is_blocked(
    nursery: trio.Nursery, chromium: Chromium, gateway: Gateway, models: ModelServer
) -> None:
    allowed, other = await new_origin(nursery), await new_origin(nursery)
    _, key = await gateway.new_key(allowed_origins=[allowed])
    found = await fetch(
        chromium,
        other,
        (f"{gateway.url}/v1/models", key, None),
        (f"{gateway.url}{CHAT}", key, ASK),
        (f"{gateway.url}/api/keys", key, None),
    )
    assert found == [{"error": "TypeError"}] * 3
    assert models.asked == []


async def test_page_of_an_allowed_origin_cannot_use_the_control_plane(
    nursery: trio.Nursery, chromium: Chromium, gateway: Gateway
) -> None:
    origin = await new_origin(nursery)
    _, key = await gateway.new_key(allowed_origins=[origin])
    assert await fetch(chromium, origin, (f"{gateway.url}/api/keys", key, None)) == [{"error": "TypeError"}]
