"""Paths, methods and bodies of the data plane, and the errors for invalid requests."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.common.errors import Unavailable
from bluesminds.web.asgi_body import ASGIBody
from tests import gateways
from tests.deployment import anonymous_client
from tests.fakes.model_server import DONE, ModelServer, chunk, streamed
from tests.gateways import ASK, STREAM, Gateway, body_memory, entry, eventually

CHAT = "/v1/chat/completions"


async def send(gateway: Gateway, method: str, path: str, **more: Any) -> httpx.Response:
    async with gateway.client() as client:
        return await client.request(method, path, **more)


def told(answer: httpx.Response) -> dict[str, Any]:
    """The error, after checking that it is one of ours."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code", "request_id"}
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return dict(body["error"])


async def test_unknown_path_or_method_is_refused(gateway: Gateway) -> None:
    for method, path, status, code, allow in (
        ("GET", "/v1/chat/completions", 405, "method_not_allowed", "POST"),
        ("DELETE", "/v1/chat/completions", 405, "method_not_allowed", "POST"),
        ("POST", "/v1/models", 405, "method_not_allowed", "GET"),
        ("DELETE", "/v1/models/m", 405, "method_not_allowed", "GET"),
        ("POST", "/v1/completely/unknown", 404, "unknown_url", None),
        ("POST", "/v1/", 404, "unknown_url", None),
        ("POST", "/v1", 404, "unknown_url", None),
        ("GET", "/index.html", 404, "unknown_url", None),
        ("POST", "/v2/chat/completions", 404, "unknown_url", None),
        ("POST", "/api/v1/v1/chat/completions", 404, "unknown_url", None),
        ("POST", "/health", 405, "method_not_allowed", None),
    ):
        answer = await send(gateway, method, path)
        assert (answer.status_code, told(answer)["code"]) == (status, code), (method, path)
        if allow:
            assert answer.headers["allow"] == allow
    assert gateway.events("request_failed") == []


SPELLINGS = [
    "/v1/chat/completions",
    "/v1/chat/completions/",
    "/v1//chat/completions",
    "//v1/chat/completions",
    "/api/v1/chat/completions//",
    "/api//v1//chat//completions/",
]


async def test_extra_slashes_in_a_path_are_ignored(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for path in SPELLINGS:
        with subtests.test(path=path):
            url = gateway.url + path
            answer = await send(gateway, "POST", url, json=ASK)
            assert answer.status_code == 200
            models = url.replace("chat/completions", "models").replace("chat//completions", "models")
            assert (await send(gateway, "GET", models)).json()["data"][0]["id"] == "m"
            head = await send(gateway, "HEAD", models)
            assert (head.status_code, head.content) == (200, b"")
            refused = await send(gateway, "HEAD", url)
            assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


UNKNOWN_PATHS: list[tuple[str, str, str]] = [
    ("/v1/responses/r-1/other", "unsupported_endpoint", "This part of the Responses API"),
    ("/v1/conversations", "unsupported_endpoint", "the whole conversation as `input`"),
    ("/v1/assistants", "unsupported_endpoint", "Use /v1/responses"),
    ("/v1/files", "unsupported_endpoint", "The Files API"),
    ("/v1/chat/completion", "unknown_url", "Did you mean /v1/chat/completions?"),
    ("/v1/v1/chat/completions", "unknown_url", "Did you mean /v1/chat/completions?"),
    ("/v1/embedding", "unknown_url", "Did you mean /v1/embeddings?"),
    ("/v1/xyz", "unknown_url", "GET /docs lists the endpoints"),
    ("/v1", "unknown_url", "no such endpoint under /v1"),
    ("/chat/completions", "unknown_url", "Did you mean /v1/chat/completions?"),
    ("/openai/deployments/gpt-5/chat/completion", "unknown_url", "Did you mean /v1/chat/completions?"),
    ("/v1/openai/chat/completions", "unknown_url", "Did you mean /v1/chat/completions?"),
    ("/xyz", "unknown_url", "The OpenAI-compatible API is under /v1"),
]


async def test_unknown_path_names_the_endpoint_that_was_meant(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for path, code, said in UNKNOWN_PATHS:
        with subtests.test(path=path):
            answer = await send(gateway, "POST", path, json=ASK)
            error = told(answer)
            assert (answer.status_code, error["code"]) == (404, code)
            assert said in error["message"]


async def test_log_line_has_method_and_path_without_query(gateway: Gateway) -> None:
    await send(gateway, "POST", "/v1/chat/completions?api-version=secret", json=ASK)
    await send(gateway, "GET", "/v1/unknown?key=secret")
    served, rejected = gateway.events("request")
    assert (served["method"], served["path"]) == ("POST", "/v1/chat/completions")
    assert (rejected["method"], rejected["path"]) == ("GET", "/v1/unknown")
    assert "secret" not in gateway.log


async def test_head_has_headers_and_no_body(gateway: Gateway) -> None:
    answer = await send(gateway, "HEAD", "/v1/models")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 20
    answer = await send(gateway, "HEAD", "/v1/chat/completions")
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (405, b"", "POST")


BODIES: list[tuple[bytes, str, str | None]] = [
    (b"", "empty_body", None),
    (b" ", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b"not json", "invalid_json", None),
    (b'{"model":"m","messages":[]} x', "invalid_json", None),
    (b"[" * 100_000, "invalid_json", None),
    (b'{"model":"m","messages":' + b"[" * 100_000, "invalid_json", None),
    (b'{"model":"m","messages":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
    (b'{"model":' + b"9" * 5000 + b',"messages":[]}', "invalid_value", "model"),
    (b'{"model":"\\ud800","messages":[]}', "invalid_value", None),
    (b'{"model":"\xff\xfe","messages":[]}', "invalid_json", None),
    (b'{"model":"m","messages":[],"stream":true,"\xff":1}', "invalid_json", None),
    (b'{"model":"m","messages":[],"model":"m","\xff":1}', "invalid_json", None),
    (b"[]", "invalid_value", None),
    (b"null", "invalid_value", None),
    (b'{"messages":[]}', "invalid_value", "model"),
    (b'{"model":"m"}', "invalid_value", "messages"),
    (b'{"model":["m"],"messages":[]}', "invalid_value", "model"),
    (b'{"model":"m","messages":[],"stream":"yes"}', "invalid_value", "stream"),
    (b'{"model":"m","messages":[],"stream_options":[]}', "invalid_value", "stream_options"),
    (
        b'{"model":"m","messages":[],"stream_options":{"include_usage":1}}',
        "invalid_value",
        "stream_options.include_usage",
    ),
]


async def test_bodies_that_make_no_sense(gateway: Gateway, models: ModelServer) -> None:
    for body, code, param in BODIES:
        answer = await gateway.chat(body)
        error = told(answer)
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param), body[:80]
        assert error["type"] == "invalid_request_error"
    assert models.asked == []
    assert gateway.events("request_failed") == gateway.events("connection_failed") == []
    assert len(gateway.events("request")) == len(BODIES)
    assert gateway.rows() == []


async def test_overlong_number_passes_unread(gateway: Gateway, models: ModelServer) -> None:
    body = b'{"model":"m","messages":[],"seed":%b}' % (b"9" * 4000)
    assert (await gateway.chat(body)).status_code == 200
    assert models.asked[0].received.body == body


async def test_body_in_pieces_is_joined(gateway: Gateway, models: ModelServer) -> None:
    body = json.dumps(ASK, separators=(",", ":")).encode()

    async def pieces() -> Any:
        for byte in body:
            yield bytes([byte])
            await trio.lowlevel.checkpoint()

    assert (await send(gateway, "POST", "/v1/chat/completions", content=pieces())).status_code == 200
    assert models.asked[0].received.body == body


async def test_compressed_body_is_refused(gateway: Gateway) -> None:
    answer = await gateway.chat(b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


async def test_models_are_listed_in_openais_shape(gateway: Gateway) -> None:
    row = {"id": "m", "object": "model", "created": 0, "owned_by": "bluesminds"}
    answer = await send(gateway, "GET", "/v1/models?client_version=1")
    assert answer.json() == {"object": "list", "data": [row]}
    assert (await send(gateway, "GET", "/v1/models/m")).json() == row
    missing = await send(gateway, "GET", "/v1/models/org%2Fmissing")
    assert (missing.status_code, told(missing)["code"]) == (404, "model_not_found")
    assert "org/missing" in missing.text
    async with anonymous_client(gateway) as client:
        for path in ("/v1/models", "/v1/models/m"):
            answer = await client.get(path)
            assert (answer.status_code, told(answer)["code"]) == (401, "missing_api_key")


async def test_headers_of_any_bytes_are_answered(gateway: Gateway, subtests: pytest.Subtests) -> None:
    for header in ["authorization", "x-api-key"]:
        with subtests.test(header=header):
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n"
            sent = head + b"%b: Bearer \xff\xe9bm_\r\n\r\n{}"
            stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
            async with stream:
                await stream.send_all(sent % header.encode())
                answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b'"invalid_api_key"' in answer


async def test_refusal_is_logged_without_key(gateway: Gateway) -> None:
    await gateway.chat(key="bm_" + "x" * 36, headers={"x-request-id": "mine-7"})
    (event,) = gateway.events("request")
    assert (event["status"], event["code"], event["request_id"]) == (401, "invalid_api_key", "mine-7")
    assert event["client"] == "127.0.0.1"
    assert "x" * 10 not in gateway.log


async def test_every_request_is_counted_and_logged(gateway: Gateway, models: ModelServer) -> None:
    key_id, key = await gateway.new_key(limits={"rpm": 1})
    async with gateway.client(key) as client:
        for method, path, json_body in (
            ("GET", "/v1/models", None),
            ("GET", "/v1/models/none", None),
            ("POST", "/v1/chat/completions", {"model": "none", "messages": []}),
            ("POST", "/v1/chat/completions", ASK),
            ("POST", "/v1/chat/completions", ASK),
            ("POST", "/v1/chat/completions", {"model": "m"}),
            ("GET", "/v1/chat/completions", None),
            ("GET", "/v1/unknown", None),
        ):
            await client.request(method, path, json=json_body)
    await gateway.chat(key="bm_none")
    async with anonymous_client(gateway) as client:
        await client.get("/v1/models")
    found = [
        (row["endpoint"], row["status"], row.get("code"), row["key_id"], row["model"])
        for row in gateway.events("request")
    ]
    assert found == [
        ("models", 200, None, key_id, ""),
        ("models", 404, "model_not_found", key_id, ""),
        ("chat.completions", 404, "model_not_found", key_id, "none"),
        ("chat.completions", 200, None, key_id, "m"),
        ("chat.completions", 429, "rate_limit_exceeded", key_id, "m"),
        ("chat.completions", 400, "invalid_value", key_id, ""),
        ("chat.completions", 405, "method_not_allowed", "", ""),
        ("unknown", 404, "unknown_url", "", ""),
        ("chat.completions", 401, "invalid_api_key", "", ""),
        ("models", 401, "missing_api_key", "", ""),
    ]
    for endpoint, status, *_ in found:
        labels = {"endpoint": endpoint, "status": str(status), "server": "", "model": ""}
        if status != 200 or endpoint == "models":
            assert await gateway.metric("bluesminds_requests_total", **labels) >= 1, labels


async def test_client_disconnect_during_body_is_counted(gateway: Gateway) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\nx-api-key: %s\r\n\r\n{"
    await stream.send_all((head % gateway.key).encode())
    await eventually(lambda: is_held(gateway, 1))
    await stream.aclose()
    await eventually(lambda: len(gateway.events("request")) == 1)
    (event,) = gateway.events("request")
    assert (event["status"], event["code"]) == (499, "client_gone")
    await eventually(lambda: is_held(gateway, 0))


async def is_held(gateway: Gateway, size: int) -> bool:
    return await gateway.metric("bluesminds_body_bytes_held") == size


async def test_all_bodies_share_one_budget(nursery: trio.Nursery, home: Path, models: ModelServer) -> None:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(
        nursery,
        home,
        servers=servers,
        server={"max_buffered_bytes": 100_000},
        websocket={"max_message_bytes": 100_000},
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 60000\r\n"
        f"x-api-key: {gateway.key}\r\n\r\n"
    )
    body = json.dumps(ASK | {"x": "y" * 70_000}).encode()
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    await stream.send_all(head.encode() + b" " * 50_000)
    await eventually(lambda: is_held(gateway, 50_000))
    refused = await gateway.chat(body)
    assert (refused.status_code, told(refused)["code"]) == (503, "body_memory_exhausted")
    assert int(refused.headers["retry-after"]) >= 1
    assert models.asked == []
    assert (await gateway.chat()).status_code == 200
    assert await is_held(gateway, 50_000)
    await stream.aclose()
    await eventually(lambda: is_held(gateway, 0))
    assert (await gateway.chat(body)).status_code == 200
    assert await is_held(gateway, 0)


async def test_memory_error_while_body_is_read_is_503_with_retry_after() -> None:
    """Of the operating system; the limit of the settings is not reached."""
    pieces = [b"x" * 10, MemoryError()]

    async def receive() -> Any:
        piece = pieces.pop(0)
        if isinstance(piece, MemoryError):
            raise piece
        return {"type": "http.request", "body": piece, "more_body": True}

    with pytest.raises(Unavailable) as caught:
        await ASGIBody(body_memory(1000), {"headers": []}, receive).read()
    assert (caught.value.status, caught.value.code) == (503, "body_memory_exhausted")
    assert caught.value.headers["retry-after"] == "1"
    assert caught.value.__context__ is None, "it would keep the pieces"


async def test_body_is_released_before_stream_ends(gateway: Gateway, models: ModelServer) -> None:
    body = json.dumps(STREAM | {"x": "y" * 20_000_000}).encode()
    go_on = trio.Event()
    models.plan(streamed(chunk("one"), go_on, DONE))
    tracemalloc.start()
    try:
        async with gateway.client() as client, client.stream("POST", CHAT, content=body) as answer:
            pieces = answer.aiter_raw()
            assert await anext(pieces) == chunk("one")
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/bluesminds/*")])
            assert sum(trace.size for trace in ours.traces) < 5_000_000
            assert await is_held(gateway, 0)
            go_on.set()
            assert [piece async for piece in pieces] == [DONE]
    finally:
        tracemalloc.stop()
