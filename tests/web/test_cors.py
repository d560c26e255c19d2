"""CORS of /v1: preflights, and which pages may read which responses."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.gateway.operations import OPERATIONS
from bluesminds.web.cors import Preflight, preflight_headers, read_preflight, response_headers
from tests import gateways
from tests.deployment import anonymous_client
from tests.fakes.model_server import DONE, ModelServer, chunk, streamed
from tests.gateways import ASK, STREAM, Gateway, entry

APP = "https://app.example.com"
OTHER = "https://other.example.com"
CHAT = "/v1/chat/completions"
ASKED = {"origin": APP, "access-control-request-method": "POST"}
ALLOW_ORIGIN = "access-control-allow-origin"


async def send(gateway: Gateway, method: str, path: str, **headers: str) -> httpx.Response:
    """Without an API key unless `headers` has one."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with anonymous_client(gateway) as client:
        return await client.request(method, path, headers=headers)


async def preflight(gateway: Gateway, path: str = CHAT, **headers: str) -> httpx.Response:
    return await send(gateway, "OPTIONS", path, **ASKED | headers)


def cors_headers(response: httpx.Response) -> dict[str, str]:
    found = {name: value for name, value in response.headers.items() if name.startswith("access-control-")}
    assert "access-control-allow-credentials" not in found
    return found


@pytest.fixture
async def configured(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    """Pages of APP may use any key that does not exclude them."""
    servers = [entry("one", models.url)]
    return await gateways.start(nursery, home, servers=servers, server={"cors_origins": [f"{APP}/"]})


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", ASKED, None),
        ("OPTIONS", {}, None),
        ("OPTIONS", {"origin": APP}, None),
        ("OPTIONS", {"access-control-request-method": "POST"}, None),
        ("OPTIONS", ASKED, Preflight((b"",), False)),
        (
            "OPTIONS",
            ASKED
            | {
                "access-control-request-headers": "Authorization, content-type,x",
                "access-control-request-private-network": "true",
            },
            Preflight((b"authorization", b"content-type", b"x"), True),
        ),
    ],
)
def test_request_is_preflight_with_origin_and_method_only(
    method: str, headers: dict[str, str], expected: Preflight | None
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert read_preflight({"method": method, "headers": raw}) == expected


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        *((name, True) for name in ("authorization", "x-api-key", "api-key", "content-type")),
        *((name, True) for name in ("x-request-id", "idempotency-key", "traceparent", "user-agent")),
        *((name, True) for name in ("openai-beta", "anthropic-version", "x-stainless-retry-count")),
        *((name, True) for name in ("x-goog-api-key", "x-goog-api-client")),
        *((name, False) for name in ("", "cookie", "x-forwarded-for", "x-csrf-token", "openai-", "openai-ä")),
        *((name, False) for name in ("xopenai-beta", "authorization\r\nx", "authorization x", "*")),
    ],
)
def test_preflight_echoes_known_headers_only(name: str, allowed: bool) -> None:
    headers = dict(preflight_headers(Preflight((name.encode(),), False), APP, ("POST",)))
    assert headers.get(b"access-control-allow-headers") == (name.encode() if allowed else None)
    assert b"access-control-allow-private-network" not in headers


def test_response_exposes_only_headers_for_scripts() -> None:
    shown = ["x-request-id", "retry-after", "retry-after-ms", "x-should-retry", "x-cost-usd"]
    shown += ["x-ratelimit-remaining-tokens", "x-bluesminds-server", "openai-processing-ms"]
    hidden = ["content-type", "www-authenticate", "vary", "set-cookie", "x-other"]
    given = [(name.encode(), b"1") for name in (*shown, *hidden)]
    assert response_headers(APP, given) == [
        (b"access-control-allow-origin", APP.encode()),
        (b"access-control-expose-headers", ", ".join(shown).encode()),
    ]


async def test_preflight_of_configured_origin_allows_methods_of_path(
    configured: Gateway, subtests: pytest.Subtests
) -> None:
    for prefix in ["/v1", "/api/v1"]:
        with subtests.test(prefix=prefix):
            paths: dict[str, str] = {}
            for operation in OPERATIONS:
                path = operation.path.removeprefix("/v1")
                paths[path] = f"{paths[path]}, {operation.method}" if path in paths else operation.method
            paths |= {
                "/models": "GET, HEAD",
                "/models/org/m": "GET, HEAD",
                "/none": "GET, HEAD, POST, DELETE",
            }
            for path, methods in paths.items():
                response = await preflight(
                    configured,
                    prefix + path,
                    access_control_request_headers="authorization,content-type,cookie",
                )
                assert (response.status_code, response.content) == (204, b"")
                assert "content-length" not in response.headers
                assert cors_headers(response) == {
                    ALLOW_ORIGIN: APP,
                    "access-control-allow-methods": methods,
                    "access-control-allow-headers": "authorization, content-type",
                    "access-control-max-age": "7200",
                }
                varies = {name.strip() for name in response.headers["vary"].split(",")}
                assert varies == {"origin", "access-control-request-method", "access-control-request-headers"}


async def test_preflight_for_private_network_is_allowed_if_asked(configured: Gateway) -> None:
    response = await preflight(configured, access_control_request_private_network="true")
    assert response.headers["access-control-allow-private-network"] == "true"


async def test_preflight_is_allowed_while_an_active_key_lists_the_origin(gateway: Gateway) -> None:
    assert (await preflight(gateway)).status_code == 403
    key_id, _ = await gateway.new_key(allowed_origins=[APP])
    assert (await preflight(gateway)).headers[ALLOW_ORIGIN] == APP
    refused = await preflight(gateway, origin=OTHER)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert cors_headers(refused) == {}
    assert refused.headers["vary"] == "origin"
    async with gateway.operator() as client:
        assert (await client.delete(f"/api/admin/keys/{key_id}")).is_success
    assert (await preflight(gateway)).status_code == 403


async def test_preflight_is_counted_and_logged(configured: Gateway) -> None:
    await preflight(configured)
    await preflight(configured, origin=OTHER)
    found = [(row["endpoint"], row["status"], row.get("code")) for row in configured.events("request")]
    assert found == [
        ("chat.completions", 204, None),
        ("chat.completions", 403, "origin_not_allowed"),
    ]


async def test_options_without_requested_method_is_not_a_preflight(configured: Gateway) -> None:
    response = await send(configured, "OPTIONS", CHAT, origin=APP)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.headers[ALLOW_ORIGIN] == APP


async def test_other_paths_have_no_cors(configured: Gateway, subtests: pytest.Subtests) -> None:
    for path in ["/api/auth/me", "/api/keys", "/", "/health"]:
        with subtests.test(path=path):
            for method in ("OPTIONS", "GET"):
                response = await send(configured, method, path, **ASKED)
                assert cors_headers(response) == {}, method


# By the origins of the settings. Origins of the key and of the page; the status, and whether the page may
# read it.
READERS: dict[str, list[tuple[list[str] | None, str | None, int, bool]]] = {
    "": [
        (None, None, 200, False),
        (None, APP, 200, False),
        ([APP], APP, 200, True),
        ([APP], OTHER, 403, False),
        ([APP], "null", 403, False),
        ([APP], None, 403, False),
    ],
    APP: [
        (None, APP, 200, True),
        (None, OTHER, 200, False),
        ([OTHER], APP, 403, True),
        ([OTHER], OTHER, 200, True),
        ([OTHER], "https://third.example.com", 403, False),
    ],
    "*": [
        (None, OTHER, 200, True),
        (None, "null", 200, True),
        ([APP], OTHER, 403, True),
        (None, None, 200, False),
    ],
}


@pytest.mark.parametrize("listed", READERS)
async def test_response_is_readable_if_settings_or_key_list_the_origin(
    nursery: trio.Nursery, home: Path, models: ModelServer, listed: str, subtests: pytest.Subtests
) -> None:
    servers = [entry("one", models.url)]
    origins = [listed] if listed else []
    gateway = await gateways.start(nursery, home, servers=servers, server={"cors_origins": origins})
    for of_key, origin, status, readable in READERS[listed]:
        _, key = await gateway.new_key(allowed_origins=of_key)
        headers = {} if origin is None else {"origin": origin}
        with subtests.test(of_key=of_key, origin=origin):
            async with gateway.client(key) as client:
                for response in (
                    await client.post(CHAT, json=ASK, headers=headers),
                    await client.get("/v1/models", headers=headers),
                ):
                    assert response.status_code == status, response.text
                    assert response.headers.get(ALLOW_ORIGIN) == (origin if readable else None)
                    assert response.headers["vary"] == "origin"
                    exposed = response.headers.get("access-control-expose-headers", "")
                    assert exposed.startswith("x-") == readable
                    assert ("x-request-id" in exposed) == readable


async def test_error_is_readable_for_the_origin_of_the_key(gateway: Gateway) -> None:
    _, key = await gateway.new_key(rpm=1, allowed_origins=[APP])
    page: dict[str, Any] = {"key": key, "headers": {"origin": APP}}
    invalid = await gateway.chat({"model": "m"}, **page)
    unknown = await gateway.chat(ASK | {"model": "none"}, **page)
    assert (await gateway.chat(**page)).status_code == 200
    limited = await gateway.chat(**page)
    assert [response.status_code for response in (invalid, unknown, limited)] == [400, 404, 429]
    for response in (invalid, unknown, limited):
        assert response.headers[ALLOW_ORIGIN] == APP
    exposed = limited.headers["access-control-expose-headers"]
    assert {"retry-after", "x-request-id"} < set(exposed.split(", "))


async def test_error_before_authentication_is_readable_for_configured_origins(configured: Gateway) -> None:
    for origin, readable in ((APP, APP), (OTHER, None)):
        for path in ("/v1/models", "/v1/none"):
            response = await send(configured, "GET", path, origin=origin)
            assert response.status_code in (401, 404)
            assert response.headers.get(ALLOW_ORIGIN) == readable
        wrong = await send(configured, "GET", "/v1/models", origin=origin, x_api_key="bm_" + "x" * 36)
        assert (wrong.status_code, wrong.headers.get(ALLOW_ORIGIN)) == (401, readable)


async def test_stream_is_readable_for_the_origin_of_the_key(gateway: Gateway, models: ModelServer) -> None:
    _, key = await gateway.new_key(allowed_origins=[APP])
    models.plan(streamed(chunk("one"), DONE))
    response = await gateway.chat(STREAM, key=key, headers={"origin": APP})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers[ALLOW_ORIGIN] == APP


async def test_preflight_of_a_relayed_path_allows_its_methods(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [gateways.entry("one", models.url, passthrough=True)]
    gateway = await gateways.start(nursery, home, servers=servers, server={"cors_origins": [APP]})
    for path, methods in (
        ("/v1/files", "GET, POST"),
        ("/v1/files/file-1", "GET, HEAD, POST, PUT, PATCH, DELETE"),
        ("/v1/none", "GET, HEAD, POST, DELETE"),
    ):
        response = await preflight(gateway, path)
        assert response.headers["access-control-allow-methods"] == methods
